"""What the stand-ins demand of all libraries' arguments."""

import torch

HALF = (torch.bfloat16, torch.float16)


def same_dtype(*tensors):
    assert len({tensor.dtype for tensor in tensors}) == 1, [tensor.dtype for tensor in tensors]
    return tensors[0].dtype


def start(state, *shape, dtype=torch.float32):
    """The given state, or zeros of that shape where there is none."""
    if state is None:
        return torch.zeros(shape, dtype=dtype)
    return state
