"""The types in which matrices are multiplied."""

import contextlib

import torch

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# device -> the type where the user leaves it open; many CPUs emulate bfloat16
DEFAULT_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}


def autocast(dtype: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products are computed in a type of TYPES."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
