"""Weight normalization of Nemotron-Flash (arXiv 2511.18890): after each step every matrix goes back to unit norm.

A matrix W [C_out, C_in] that reads the hidden state keeps rows of norm 1 (case 1: each output is an inner product with
a unit vector); one that writes into it keeps columns of norm 1 (case 2: each inner feature adds a unit vector). The
paper states the projection alone, and so do we: what scale a matrix needs, the norm in front of it learns.
Matrices of three and more dimensions are stacks of matrices, one per expert or head.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError


class Case(Enum):
    """What is kept at norm 1; the value is the dimension that is summed over."""

    ROWS = -1     # reads the hidden state
    COLUMNS = -2  # writes into it


# by the name of the module or parameter inside an operator, and of the model's own matrices
READING = ("in_proj", "gates_low", "router")
WRITING = ("out_proj",)
TOKENS = ("embedding", "head", "meta_tokens")  # a row is one token's vector, read by the head and written by the table
# filters, decays, low-rank gates and what maps an operator's own features: their size is part of what they compute
LEFT_ALONE = ("conv", "gate_proj", "decay_gate", "output_gate", "A_log", "x_proj", "dt_proj", "down", "up")


def case_of(name: str, parameter: Tensor) -> Case | None:
    """How a parameter, named as in HybridLM, is normalised; None: not at all (vectors, filters, inner maps).

    Raises OperatorError for a matrix whose name stands in no list above: whoever adds one must say what it is.
    """
    if parameter.ndim < 2:
        return None
    parts = name.split(".")
    for names, case in ((LEFT_ALONE, None), (READING, Case.ROWS), (WRITING, Case.COLUMNS), (TOKENS, Case.ROWS)):
        if any(part in names for part in parts):
            return case
    raise OperatorError(f"weight_norm does not know the matrix {name!r}: name it in flashnas/training/weight_norm.py")


@torch.no_grad()
def to_unit_norm(matrix: Tensor, case: Case) -> None:
    """Divide the rows or columns of a matrix [.., C_out, C_in] by their norm in place; those of zeros stay zero."""
    norm = torch.linalg.vector_norm(matrix, dim=case.value, keepdim=True)
    matrix.div_(torch.where(norm > 0, norm, 1.0))


class WeightNorm:
    """The matrices of one network that are kept at unit norm."""

    def __init__(self, network: nn.Module) -> None:
        self.matrices = [(parameter, case) for name, parameter in network.named_parameters()
                         if (case := case_of(name, parameter)) is not None]

    def project(self) -> None:
        """Bring all of them back to unit norm."""
        for parameter, case in self.matrices:
            to_unit_norm(parameter, case)
