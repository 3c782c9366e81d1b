"""The softmax of a language model's loss, compiled: loss and gradient of a row of logits while it is in the
cache."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flashnas.operators.compiled.jit import bits, compiled, flat
from flashnas.operators.compiled.vectors import (
    LANES,
    LOG2_E,
    exp2,
    fill,
    greatest,
    load,
    load_bits,
    store,
    store_bits,
    total,
    where_larger,
)
from flashnas.operators.parts import fused

LOWEST, ZERO, ONE = np.float32(-3e38), np.float32(0.0), np.float32(1.0)


@compiled
def _softmax(logits, half, gradient, shares, wanted, losses, wanted_grads, room, rows, size):
    """The gradients overwrite the logits; the entry of the target is left to the caller. wanted: the logits
    of the targets. room [size]: scratch."""
    for t in range(rows):
        at, highest, sums = t * size, fill(LOWEST), fill(0.0)
        for i in range(0, size, LANES):
            logit = load_bits(logits, at + i, half)
            highest = where_larger(highest, logit, highest, logit)
            store(room, i, logit)
        most = greatest(highest)
        below, scaled = fill(-most * LOG2_E), fill(LOG2_E)
        for i in range(0, size, LANES):
            power = exp2(load(room, i) * scaled + below)
            sums = sums + power
            store(room, i, power)
        sum_of_row = total(sums)
        losses[t] = most + np.log(sum_of_row) - wanted[t]
        if gradient:
            wanted_grads[t] = (np.exp(-losses[t]) - ONE) * shares[t]
            factor = fill(shares[t] / sum_of_row)
            for i in range(0, size, LANES):
                store_bits(logits, at + i, load(room, i) * factor, half)


def softmax_(logits_NV: Tensor, targets_N1: Tensor, shares_N1: Tensor,
             gradient: bool) -> tuple[Tensor, Tensor]:
    """`parts.fused.softmax_` of logits in float32 or bfloat16."""
    rows, size = logits_NV.shape
    if size % LANES or logits_NV.dtype not in (torch.float32, torch.bfloat16):
        return fused.softmax_(logits_NV, targets_N1, shares_N1, gradient)
    wanted_N1, losses_N1 = logits_NV.gather(1, targets_N1).float(), torch.empty(rows, 1)
    wanted_grads_N1 = torch.empty(rows, 1)
    _softmax(bits(logits_NV), logits_NV.dtype == torch.bfloat16, gradient, flat(shares_N1), flat(wanted_N1),
             flat(losses_N1), flat(wanted_grads_N1), flat(torch.empty(size)), rows, size)
    if gradient:
        logits_NV.scatter_(1, targets_N1, wanted_grads_N1.to(logits_NV.dtype))
    return losses_N1, logits_NV
