"""The model is GPT-2's, and a search over it runs and continues."""

from pathlib import Path

import pytest
import torch
from flashnas_gpt2_space.evaluator import STEPS, Network, latency_ms, loss
from flashnas_gpt2_space.formula import guess, layers_ms
from flashnas_gpt2_space.space import Gpt2, Gpt2Space

import flashnas as fn
from flashnas.base.errors import SpaceError
from flashnas.space import load_space

FILE = Path(__file__).parent.parent / "gpt2.yaml"
AXES = {"width": [32, 64], "layers": [1, 2], "heads": [2], "mlp_ratio": [2, 4]}


def test_a_wrong_file_is_one_line(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(FILE.read_text().replace("[2, 4]", "[2, five]"))
    with pytest.raises(
        SpaceError, match=r"wrong.yaml:5: heads must be a list of whole numbers; got \[2, 'five'\]"
    ):
        load_space(path)
    path.write_text(FILE.read_text().replace("[2, 4]", "[2, 5]"))
    with pytest.raises(
        SpaceError, match=r"space wrong: each of the heads \(2, 5\) must divide each width"
    ):
        load_space(path)


@pytest.mark.parametrize("model", [Gpt2(32, 1, 2, 4), Gpt2(96, 4, 4, 2)])
def test_parameters_are_counted(model):
    assert sum(parameter.numel() for parameter in Network(model).parameters()) == model.params
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=model.vocab,
        n_positions=model.context,
        n_embd=model.width,
        n_layer=model.layers,
        n_head=model.heads,
        n_inner=model.mlp_ratio * model.width,
    )
    with torch.device("meta"):
        assert transformers.GPT2LMHeadModel(config).num_parameters() == model.params


def test_training_lowers_the_loss_and_repeats_itself():
    small = loss(Gpt2(32, 1, 2, 4))
    assert small == loss(Gpt2(32, 1, 2, 4))
    assert loss(Gpt2(96, 2, 4, 4)) < small < 4.1  # log 64 = 4.16


def test_more_steps_lower_the_loss_and_a_seed_changes_it():
    model = Gpt2(64, 1, 2, 4)
    losses = [loss(model, steps) for steps in (10, 20, STEPS)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == loss(model) != loss(model, seed=1)


def test_a_search_finds_a_front_within_the_budget_and_continues(tmp_path):
    def run(trials, **options):
        return fn.search(
            space=Gpt2Space(AXES),
            table=latency_ms,
            evaluator=loss,
            budgets={"latency_ms": 4.5},
            trials=trials,
            workers=1,
            measure=False,
            baselines=False,
            out=str(tmp_path / "run"),
            **options,
        )

    first = run(2)
    assert len(first.trials) == 2
    whole = run(4, resume=True)
    assert list(whole.trials["loss"][:2]) == list(first.trials["loss"])
    complete = whole.trials[whole.trials["state"] == "complete"]
    assert len(complete) == 4
    assert (complete["latency_ms"] <= 4.5).all()
    assert min(entry.figures["loss"] for entry in whole.front) == complete["loss"].min()


def test_evaluations_that_cost_nothing(tmp_path):
    run = fn.search(
        space=Gpt2Space(AXES),
        table=layers_ms,
        evaluator=guess,
        trials=12,
        cycle_size=4,
        workers=1,
        sampler="bayes",
        measure=False,
        out=str(tmp_path / "run"),
    )
    assert set(run.trials["state"]) <= {"complete", "reused"}
    assert run.front
