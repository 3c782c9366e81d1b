"""The check of an export: the folder, read by transformers, must compute what the network computes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from flashnas.base.errors import ExportError
from flashnas.network.model import HybridLM

TOLERANCE = 1e-4  # of the largest logit
BATCH, PROMPT, STEPS = 2, 19, 5


@torch.no_grad()
def check_parity(folder: Path, network: HybridLM) -> dict[str, float]:
    """Compare logits, cached decoding and a padded batch in float32.

    Args:
        folder: the export.
        network: the original, with its weights rounded as they were written.

    Returns:
        Largest differences over the largest logit, by what was compared.

    Raises:
        ExportError: a difference exceeds TOLERANCE.
    """
    network = network.float().eval()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(network.architecture.vocab, (BATCH, PROMPT + STEPS), generator=generator)
    differences = {"logits": _difference(loaded(tokens).logits, network(tokens))}

    expected, cache = network.prefill(tokens[:, :PROMPT])
    output = loaded(tokens[:, :PROMPT], use_cache=True)
    worst = _difference(output.logits[:, -1], expected)
    for n in range(PROMPT, PROMPT + STEPS):
        expected, cache = network.decode_step(tokens[:, n], cache)
        output = loaded(tokens[:, n:n + 1], cache=output.cache)
        worst = max(worst, _difference(output.logits[:, -1], expected))
    differences["cached_decode"] = worst

    cut = PROMPT // 2  # the second row loses its first tokens to padding
    mask = torch.ones_like(tokens[:, :PROMPT])
    mask[1, :cut] = 0
    output = loaded(tokens[:, :PROMPT], attention_mask=mask, use_cache=True)
    alone, _ = network.prefill(tokens[1:, cut:PROMPT])
    differences["padded_batch"] = _difference(output.logits[1:, -1], alone)
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN fails too
            raise ExportError(f"the exported network does not compute what the original does: {name} differ by"
                              f" {difference:.1e} of the largest logit; at most {TOLERANCE:.0e} is allowed")
    return differences


def _difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())
