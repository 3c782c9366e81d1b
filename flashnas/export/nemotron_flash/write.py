"""`--to nemotron-flash`: the family's configuration and safetensors, checked by a plain reading."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from flashnas.base.errors import ExportError
from flashnas.base.files import write_synced
from flashnas.export.nemotron_flash.config import family_config
from flashnas.export.nemotron_flash.family import family_logits
from flashnas.export.nemotron_flash.names import to_family
from flashnas.export.source import Source
from flashnas.export.tokenizer import special_ids
from flashnas.network.model import HybridLM
from flashnas.network.weights import read_tensors

TOLERANCE = 1e-4  # of the largest logit
NORM_TOLERANCE = 0.01  # rows of norm 1 in bfloat16
BATCH, TOKENS = 2, 17

LOADING = """\
For runtimes that load the Nemotron-Flash family, such as TensorRT-LLM's AutoDeploy. The model code is not in this
folder: `auto_map` in config.json names that of the released checkpoints, which needs `trust_remote_code=True`.
"""


@torch.no_grad()
def write_nemotron_flash(folder: Path, source: Source, dtype: torch.dtype, *,
                         raw_logits: bool = False) -> tuple[dict[str, float], list[str]]:
    """Write the folder and check it; returns the differences found and what the user should know.

    The released model code divides each logit by the norm of its row of the head, which training with weight
    normalization keeps at 1. Drawn weights are given such rows; trained ones that lack them raise ExportError unless
    `raw_logits` says that the runtime does not divide.
    """
    ids = special_ids(source.tokenizer)
    network = source.network
    config = family_config(network.architecture, ids, str(dtype).removeprefix("torch."))
    if source.drawn:
        head = network.head_weight
        head.div_(head.norm(dim=1, keepdim=True))
    network.to(dtype)
    notes = _head_notes(network, source.drawn, raw_logits)
    save_torch_state_dict(to_family(network.state_dict(), network.architecture), folder)
    write_synced(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_synced(folder / "generation_config.json", json.dumps({"_from_model_config": True, **ids}, indent=2) + "\n")
    found = _check(folder, network.float())
    return found, notes


def _head_notes(network: HybridLM, drawn: bool, raw_logits: bool) -> list[str]:
    norms = network.head_weight.float().norm(dim=1)
    low, high = float(norms.min()), float(norms.max())
    if high - 1 <= NORM_TOLERANCE and 1 - low <= NORM_TOLERANCE:
        return ["the rows of the drawn head were set to norm 1"] if drawn else []
    if not raw_logits:
        raise ExportError("the Nemotron-Flash model code divides logits by the norms of the head's rows, which must be"
                          f" 1; they lie in {low:.3g} to {high:.3g}. Train with weight normalization, or pass"
                          " --raw-logits for runtimes that do not divide (TensorRT-LLM's AutoDeploy)")
    return [f"only for runtimes that do not divide logits by the norms of the head's rows ({low:.3g} to {high:.3g}):"
            " TensorRT-LLM's AutoDeploy does not, the released model code does"]


def _check(folder: Path, network: HybridLM) -> dict[str, float]:
    """The written files, read plainly, against the network with the weights as written."""
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_tensors(path)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(network.architecture.vocab, (BATCH, TOKENS), generator=generator)
    ours = network(tokens)
    largest = ours.abs().max()
    difference = float((family_logits(config, tensors, tokens) - ours).abs().max() / largest)
    if not difference <= TOLERANCE:  # NaN fails too
        raise ExportError("the exported network does not compute what the original does: logits differ by"
                          f" {difference:.1e} of the largest; at most {TOLERANCE:.0e} is allowed")
    return {"logits": difference}
