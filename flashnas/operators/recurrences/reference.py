"""The recurrence of every operator that remembers matrices, as its formula says; the oracle of those
that ship, of which it calls none.
"""

import torch
from torch import Tensor


def token_by_token(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    g_BTHK: Tensor | None,
    state_BHKV: Tensor,
    a_BTHK: Tensor | None = None,
    b_BTHK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S <- diag(exp(g)) S;  S <- S + k v^T + b (S^T a)^T;  o = S^T q.

    Args:
        g_BTHK: log decays, [B, T, H, 1] for one per head; None: nothing decays.
        a_BTHK, b_BTHK: what reads the state after the decay, and writes what was read; None: nothing.
            The delta rule at rate beta has a = -k and b = beta k, which also writes v.

    Returns:
        o [B, T, H, V] and the final state.
    """
    outputs = []
    for t in range(q_BTHK.shape[1]):
        if g_BTHK is not None:
            state_BHKV = g_BTHK[:, t].exp().unsqueeze(-1) * state_BHKV
        written_BHKV = torch.einsum("bhk,bhv->bhkv", k_BTHK[:, t], v_BTHV[:, t])
        if a_BTHK is not None and b_BTHK is not None:
            read_BHV = torch.einsum("bhk,bhkv->bhv", a_BTHK[:, t], state_BHKV)
            written_BHKV = written_BHKV + torch.einsum("bhk,bhv->bhkv", b_BTHK[:, t], read_BHV)
        state_BHKV = state_BHKV + written_BHKV
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_BTHK[:, t], state_BHKV))
    return torch.stack(outputs, 1), state_BHKV
