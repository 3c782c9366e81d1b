"""Experts stay in use where training balances them; micro-batches and checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flashnas.architecture import Architecture
from flashnas.training.checkpoint import load_checkpoint, save_checkpoint
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer

RECIPE = Recipe(
    sequence_tokens=32,
    tokens=120 * 128,
    validation_tokens=512,
    curve_tokens=512,
    curve_points=1,
    optimizer="adamw",
    adamw_lr=0.02,
    output_scale=1,
    dtype="float32",
    short_text=True,
)
MOE = "moe(experts=8,active=2,intermediate=16)"
SIGMOID = MOE.replace(")", ",sigmoid=true)")


def trainer_of(structured, *moes, **changes):
    network = f"32(vocab=300): {' '.join(f'a(head_dim=16) {moe}' for moe in moes)}"
    return Trainer(Architecture.parse(network), structured, replace(RECIPE, **changes), 0)


def shares_of_the_last_steps(trainer):
    """Tokens of each expert of the mean, [layers, E]. Tokens resemble each other at first, so that
    a router sends most of them to a few experts."""
    with torch.no_grad():
        trainer.network.embedding.weight += 0.4
    return np.mean([trainer.balance.loads for _ in trainer.steps()][-30:], 0)


@pytest.mark.parametrize("moe", [MOE, SIGMOID], ids=["softmax", "sigmoid"])
def test_all_experts_are_in_use_after_120_steps_which_they_are_not_by_themselves(structured, moe):
    """Ten times the default of both, so that the two differ by far more than rounding does: over
    four seeds the deviations were 0.10 to 0.20, and 0.93 to 1.26 without."""
    balanced, alone = (
        shares_of_the_last_steps(
            trainer_of(structured, moe, balance_loss=10 * factor, balance_rate=factor)
        )
        for factor in (0.01, 0)
    )
    assert balanced.min() > 0.4 > alone.min()
    assert balanced.std() < 0.5 * alone.std()


def test_micro_batches_change_rounding_only_and_a_training_continues_to_the_bit(
    structured, tmp_path
):
    short = {"tokens": 6 * 128}
    whole, parts, first, second = (
        trainer_of(structured, MOE, SIGMOID, micro_batch_sequences=micro, **short)
        for micro in (0, 1, 0, 0)
    )
    losses = [step.loss for step in whole.steps()]
    assert [step.loss for step in parts.steps()] == pytest.approx(losses, rel=1e-5)
    assert parts.balance.loads == whole.balance.loads
    plain = trainer_of(structured, MOE, SIGMOID, balance_loss=0, balance_rate=0, **short)
    others = [step.loss for step in plain.steps()]
    assert others[0] == losses[0]  # what is printed has no term
    assert others != losses
    steps = first.steps()
    for _ in range(3):
        next(steps)
    save_checkpoint(tmp_path, first, "{}", keep=1)
    load_checkpoint(tmp_path / "step-00000003", second)
    assert [step.loss for step in second.steps()] == losses[3:]
    biases = [trainer.network.layers[3].mixer.router.bias for trainer in (whole, parts, second)]
    assert all(torch.equal(bias, biases[0]) for bias in biases)
    assert 0 < biases[0].abs().max() < 0.0061
