"""`--to nemotron-flash`: configuration and weight names of the released Nemotron-Flash checkpoints (arXiv 2511.18890),
for runtimes that load that family. Needs `d`, `m2`, `a` and `f` only.

Names and keys are those of the family's model code as published in NVIDIA's NeMo Automodel (Apache-2.0) and of the
reader in TensorRT-LLM's AutoDeploy (Apache-2.0), which agree.
"""
