"""`--to nemotron-flash`: configuration and weight names of the released Nemotron-Flash checkpoints (arXiv
2511.18890), for runtimes that load that family. Needs `d`, `m2`, `a` and `f` only.

Names and keys are those of NVIDIA's NeMo Automodel and of the reader in TensorRT-LLM's AutoDeploy (both
Apache-2.0), which agree. Verified: the Automodel code (commit 4d07950), on a CPU with plain functions in the
place of its kernels, loads a written folder with no name left over and gives the logits of `family.py`
(relative difference 9e-7 over 150 tokens). Not verified: the released checkpoints' own config.json, the names
in `auto_map`, and a run in TensorRT-LLM or vLLM. TensorRT-LLM's norms of queries and keys have an epsilon of
1e-5, and the released model code divides logits by the norms of the head's rows. transformers 5 checks
`layer_types` against names of its own; Automodel widens that list first.
"""
