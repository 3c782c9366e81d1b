"""The types of numbers that are the fast ones, whatever this machine multiplies faster."""

import torch

from flashnas.network import precision

FAST = {"cpu": torch.float32, "cuda": torch.bfloat16}


def fix(patch):
    """Until `patch` is undone, trainings and profiles choose the same ones on every machine."""
    patch.setattr(precision, "product_s", lambda device, dtype: float(dtype != FAST[device]))
