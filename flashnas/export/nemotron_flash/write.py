"""`--to nemotron-flash`: configuration and safetensors of the family, checked by a second, plain
implementation."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from flashnas.base.errors import ExportError
from flashnas.base.files import write_synced
from flashnas.export.exporter import Exporter, Written, check_differences, difference
from flashnas.export.nemotron_flash.config import family_config, pieces
from flashnas.export.nemotron_flash.family import family_logits
from flashnas.export.source import Source, special_ids
from flashnas.network.model import HybridLM
from flashnas.network.weights import read_tensors

TOLERANCE = 1e-4  # of the largest logit
NORM_TOLERANCE = 0.01  # rows of norm 1 in bfloat16
BATCH, TOKENS = 2, 17

LOADING = """\
For runtimes that load the Nemotron-Flash family, such as TensorRT-LLM's AutoDeploy. The model code is not in
this folder: `auto_map` in config.json names that of the released checkpoints, which needs
`trust_remote_code=True`.
"""


class NemotronFlashExporter(Exporter):
    """Configuration, names and weights of the released Nemotron-Flash checkpoints.

    The released model code divides each logit by the norm of its row of the head, which training with weight
    normalization keeps at 1. Drawn weights are given such rows; trained weights without them raise
    ExportError unless `raw_logits` states that the runtime does not divide. A head of its own has rows for
    the meta tokens, too.
    """

    title = "runtimes that load the released Nemotron-Flash"
    loading = LOADING
    options = MappingProxyType({"raw_logits": "allow a head whose rows are not of norm 1, for runtimes that"
                                              " do not divide by it"})

    @torch.no_grad()
    def write(self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str) -> Written:
        """See Exporter."""
        ids = special_ids(source.tokenizer)
        network = source.network
        config = family_config(network.architecture, ids, str(dtype).removeprefix("torch."))
        if source.drawn:
            head = network.head_weight
            head.div_(head.norm(dim=1, keepdim=True))
        network.to(dtype)
        notes = _head_notes(network, source.drawn, bool(options.get("raw_logits")))
        state = network.state_dict()
        tensors = {piece.name: piece.of(state) for piece in pieces(network.architecture)}
        if network.head is not None and network.meta_tokens is not None:
            # rows that are read and not used; 1 is their norm, by which the released model code divides
            rows = len(network.meta_tokens)
            unused = torch.full((rows, network.architecture.hidden), network.architecture.hidden ** -0.5,
                                dtype=dtype)
            tensors["lm_head.weight"] = torch.cat([tensors["lm_head.weight"], unused])
        save_torch_state_dict(tensors, folder)
        for name, content in (("config", config), ("generation_config", {"_from_model_config": True, **ids})):
            write_synced(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        return Written(_check(folder, network.float()), tuple(notes))


EXPORTER = NemotronFlashExporter()


def _head_notes(network: HybridLM, drawn: bool, raw_logits: bool) -> list[str]:
    norms = network.head_weight.float().norm(dim=1)
    low, high = float(norms.min()), float(norms.max())
    if high - 1 <= NORM_TOLERANCE and 1 - low <= NORM_TOLERANCE:
        return ["the rows of the drawn head were set to norm 1"] if drawn else []
    if not raw_logits:
        raise ExportError("the Nemotron-Flash model code divides logits by the norms of the head's rows,"
                          " which must be"
                          f" 1; they lie in {low:.3g} to {high:.3g}. Train with weight normalization, or pass"
                          " --raw-logits for runtimes that do not divide (TensorRT-LLM's AutoDeploy)")
    return [f"only for runtimes that do not divide logits by the norms of the head's rows ({low:.3g} to"
            f" {high:.3g}): TensorRT-LLM's AutoDeploy does not, the released model code does"]


def _check(folder: Path, network: HybridLM) -> dict[str, float]:
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_tensors(path)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(network.architecture.vocab, (BATCH, TOKENS), generator=generator)
    original_BTV = network(tokens)
    exported_BTV = family_logits(config, tensors, tokens)
    differences = {"logits": difference(exported_BTV, original_BTV)}
    check_differences("the Nemotron-Flash family", differences, TOLERANCE)
    return differences
