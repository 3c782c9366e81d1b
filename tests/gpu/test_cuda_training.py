"""Training as a search does it, and what runs in other ways on a GPU than on a CPU; needs a
device.
"""

import dataclasses

import numpy as np
import pytest
import torch
from layer_cases import LAYERED

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError
from flashnas.latency.workload import Workload
from flashnas.profiling.torch_target import Torch
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = "cuda"
RECIPE = dataclasses.replace(
    Recipe.load("gpu"),
    width_factor=1,
    vocab=512,
    sequence_tokens=256,
    batch_sequences=8,
    micro_batch_sequences=4,
    tokens=40_960,
    validation_tokens=1024,
    curve_points=2,
    curve_tokens=512,
    device=DEVICE,
)


@pytest.mark.parametrize("kind", [kind for kind in LAYERED if kind != "f"])
def test_every_operator_learns_in_mixed_precision(kind, structured):
    """Weights in float32, products in bfloat16, two micro-batches a step."""
    architecture = Architecture.parse(f"256(vocab=512): {kind} f {kind} f")
    try:
        trainer = Trainer(architecture, structured, RECIPE, seed=0)
    except DeviceError as error:
        pytest.skip(str(error))
    losses = [step.loss for step in trainer.steps()]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 1
    assert trainer.score().loss < losses[0] - 1


def test_whole_models_are_timed_with_every_operator():
    architecture = Architecture.parse(
        f"256(vocab=1000,meta=16): {' '.join(kind for kind in LAYERED if kind != 'moe')}"
    )
    measured = Torch(device=DEVICE).time_request(
        architecture, Workload(prompt_tokens=300, generated_tokens=20), 4
    )
    assert measured["latency_ms"] > 0
