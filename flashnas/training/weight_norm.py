"""Weight normalization of Nemotron-Flash (arXiv 2511.18890): after each step every matrix goes back to unit norm.

A matrix W [C_out, C_in] that reads the hidden state keeps rows of norm 1 (case 1: each output is an inner product with
a unit vector); one that writes into it keeps columns of norm 1 (case 2: each inner feature adds a unit vector). The
paper states the projection alone, and we do the same: the norm in front of a matrix learns what scale it needs.
Matrices of three and more dimensions are stacks of matrices, one per expert or head.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from flashnas.network.model import HybridLM
from flashnas.operators.roles import Role


class Case(Enum):
    """What is kept at norm 1; the value is the dimension that is summed over."""

    ROWS = -1     # reads the hidden state
    COLUMNS = -2  # writes into it


# Filters, decays, low-rank gates and what maps an operator's own features have no case: their size is part of what they
# compute. A row of a token table is the vector of one token, which the head reads and the table writes.
CASES = {Role.READS: Case.ROWS, Role.GATE_READS: Case.ROWS, Role.ROUTER: Case.ROWS, Role.TOKENS: Case.ROWS,
         Role.WRITES: Case.COLUMNS}


@torch.no_grad()
def to_unit_norm(matrix: Tensor, case: Case) -> None:
    """Divide the rows or columns of a matrix [.., C_out, C_in] by their norm in place; those of zeros stay zero."""
    norm = torch.linalg.vector_norm(matrix, dim=case.value, keepdim=True)
    matrix.div_(torch.where(norm > 0, norm, 1.0))


class WeightNorm:
    """The matrices of one network that are kept at unit norm: `matrices`, each with its case."""

    def __init__(self, network: HybridLM) -> None:
        uses = network.parameter_uses()
        self.matrices = [(parameter, CASES[uses[name].role]) for name, parameter in network.named_parameters()
                         if uses[name].role in CASES]

    def project(self) -> None:
        """Bring all of them back to unit norm."""
        for parameter, case in self.matrices:
            to_unit_norm(parameter, case)
