"""Mamba (`m`), the selective state space of the first version, as transformers' MambaMixer; arXiv
2312.00752.

Per channel c with state n, dt = softplus(dt_proj(low) + dt_bias) and A = -exp(A_log):
S <- exp(dt A) S + B dt x;  y = sum_n C S + D x;  the output is out_proj(y silu(z)).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.layer import Apply, RecurrentLayer, Rule
from flashnas.operators.mamba.spec import Mamba
from flashnas.operators.parts import (
    inverse_softplus_of_log_uniform,
    state_dtype,
)
from flashnas.operators.recurrences.selective_scan import (
    scan_reference,
    scan_step,
    selective_scan,
)


class MambaLayer(RecurrentLayer):
    """in_proj gives x and z; x passes a convolution and silu; x_proj makes the low-rank time step,
    B and C of it.

    The state's matrix is [B, 1, N, inner]: one head whose values are the channels.
    """

    takes_start = False  # which the kernel of mamba-ssm cannot take

    def __init__(self, spec: Mamba, hidden: int) -> None:
        super().__init__(spec, hidden)
        inner, state = self.shape("A_log")
        self.parts = self.tensor("x_proj.weight").rows()  # dt, B, C
        self.in_proj = self.linear("in_proj")
        self.conv = self.convolution()
        self.x_proj = self.linear("x_proj")
        self.dt_proj = self.linear("dt_proj")
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(inner))
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = self.linear("out_proj")
        self.core = Core("selective_scan", spec.name, (selective_scan, scan_step), key_dim=state)
        self.plain = scan_reference
        self.state_sizes = 1, state, inner

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        return apply(self.in_proj, x).chunk(2, -1)

    def recur(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor | None, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        x, z = parts
        low, b, c = F.linear(x, self.x_proj.weight.to(x.dtype)).split(self.parts, -1)
        dt = F.linear(low, self.dt_proj.weight.to(low.dtype))
        with torch.autocast(x.device.type, enabled=False):
            dtype = state_dtype(x.dtype)
            b, c = b.to(dtype), c.to(dtype)
            dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
            start = None if matrix_BHKV is None else matrix_BHKV.squeeze(1)
            y, state_BNC = rule(x, dt, -self.A_log.to(dtype).exp().T, b, c, start)
            y = torch.addcmul(y, x, self.D.to(dtype)) * F.silu(z).to(dtype)
            return y, state_BNC.unsqueeze(1)
