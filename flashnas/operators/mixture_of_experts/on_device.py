"""Experts without a word to the host: which token goes to which expert stays on the device, and so do all
shapes.

A CUDA graph holds only such work. The weights of a layer's experts are kept as views of one tensor for that.
E: experts, A: chosen experts of a token, I: an expert's inner size, P: pairs of a token and one of its
experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
ALIGNED = 8               # of the rows of a grouped product, in bfloat16
# compute capability; below it torch's grouped product asks the host for the groups' sizes
GROUPED_FROM = (9, 0)


class Together:
    """The weights of several linears of one shape as views of one tensor [E, rows, columns].

    The linears keep their parameters, whose memory moves once. What moves it again, as `Module.to` does, is
    noticed.
    """

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    def of(self, linears: Sequence[nn.Linear]) -> Tensor:
        first, last, kept = linears[0].weight, linears[-1].weight, self._weights
        if kept is not None and kept.dtype == first.dtype and (
                first.data_ptr(), last.data_ptr()) == (kept[0].data_ptr(), kept[-1].data_ptr()):
            return kept
        with torch.inference_mode(False), torch.no_grad():
            kept = torch.empty(len(linears), *first.shape, dtype=first.dtype, device=first.device)
            for number, linear in enumerate(linears):
                kept[number].copy_(linear.weight.detach())
                linear.weight.data = kept[number]
        self._weights = kept
        return kept

    def __deepcopy__(self, memo: object) -> Together:
        return Together()

    def __getstate__(self) -> dict[str, object]:
        return {"_weights": None}


def groups_run(x: Tensor, inner: int) -> bool:
    """True if torch multiplies groups of rows there without asking the host."""
    if not (x.is_cuda and x.dtype == torch.bfloat16 and hasattr(F, "grouped_mm")):
        return False
    return (x.shape[-1] % ALIGNED == 0 and inner % ALIGNED == 0
            and torch.cuda.get_device_capability(x.device) >= GROUPED_FROM)


def by_groups(x_TD: Tensor, p_TA: Tensor, chosen_TA: Tensor, in_EID: Tensor, out_EDI: Tensor,
              act: Activation) -> Tensor:
    """Pairs sorted by expert, each expert a group of rows of one product; for any number of tokens."""
    active = chosen_TA.shape[1]
    chosen_P = chosen_TA.flatten()
    order_P = chosen_P.argsort(stable=True)
    counts_E = torch.zeros(len(in_EID), dtype=torch.int32, device=x_TD.device)
    counts_E.scatter_add_(0, chosen_P, torch.ones_like(chosen_P, dtype=torch.int32))
    ends_E = counts_E.cumsum(0, dtype=torch.int32)
    rows_PD = x_TD[order_P // active]
    inner_PI = act(F.grouped_mm(rows_PD, in_EID.mT, offs=ends_E))
    sorted_PD = F.grouped_mm(inner_PI, out_EDI.mT, offs=ends_E)
    y_PD = torch.empty_like(sorted_PD).index_copy_(0, order_P, sorted_PD)
    return _weighted(p_TA, y_PD.unflatten(0, p_TA.shape))


def by_token(x_TD: Tensor, p_TA: Tensor, chosen_TA: Tensor, in_EID: Tensor, out_EDI: Tensor,
             act: Activation) -> Tensor:
    """Few tokens: the chosen experts' weights are gathered. With more pairs than experts every expert takes
    every token, since all weights are read in any case."""
    if chosen_TA.numel() <= len(in_EID):
        inner_TA1I = act(x_TD[:, None, None] @ in_EID[chosen_TA].mT)
        return _weighted(p_TA, (inner_TA1I @ out_EDI[chosen_TA].mT).squeeze(-2))
    y_ETD = act(x_TD @ in_EID.mT) @ out_EDI.mT
    y_TAD = y_ETD.transpose(0, 1).gather(1, chosen_TA.unsqueeze(-1).expand(-1, -1, y_ETD.shape[-1]))
    return _weighted(p_TA, y_TAD)


def _weighted(p_TA: Tensor, y_TAD: Tensor) -> Tensor:
    return (p_TA.to(y_TAD.dtype).unsqueeze(-2) @ y_TAD).squeeze(-2)
