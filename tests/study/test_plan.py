import dataclasses
import json

import foreign_space
import pytest
from foreign_space import Gpt2Space, WidthFittedGpt2Space
from plans import plan

from flashnas.base.errors import BudgetError, DeviceError
from flashnas.latency.table import LatencyTable
from flashnas.study.config import SearchConfig
from flashnas.study.problem import load_problem
from flashnas.training.cost import ASSUMED_RATES


@pytest.fixture
def config(quick_recipe, small_corpus):
    return SearchConfig(
        space="tiny",
        workload="chat",
        calibration="paper",
        trials=5,
        evidence="none",
        workers=2,
        recipe=str(quick_recipe),
        data=str(small_corpus),
    )


def test_a_plan_counts_networks_tokens_and_time_and_writes_no_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(config, timed=True, table=LatencyTable.load("h100_sxm"))
    assert list(tmp_path.iterdir()) == []
    fitting = {entry["notation"] for entry in found.baselines} - {None}
    assert found.candidates == 5
    assert found.evaluations == 5 + len(fitting)
    assert found.tokens_each == 512
    assert found.tokens == 512 * found.evaluations
    assert found.tokens_per_s > 0
    # two workers; a validation token costs a third of a training token, and a cycle waits for its
    # last training
    work_s = found.evaluations / 2 * (512 + (512 + 128) / 3) / found.tokens_per_s
    assert 0.3 * work_s < found.seconds < 5 * work_s
    assert found.widths == found.proxy_widths == (64, 96, 128)
    assert found.space_size > 1000
    assert json.loads(json.dumps(found.to_dict()))["evaluations"] == found.evaluations
    for words in (
        "tiny",
        "5 candidates",
        "512 tokens each",
        "min with 2 workers",
        "fastest    latency_ms",
    ):
        assert words in str(found)


def test_a_cycle_keeps_as_many_workers_busy_as_it_has_candidates(config):
    busy = "cycles of 5 candidates keep at most 5 of 64 workers busy; cycle_size 64 keeps all"
    for workers, lines in ((5, []), (64, [busy])):
        notes = []
        plan(
            dataclasses.replace(
                config, table="h100_sxm", baselines=False, cycle_size=5, workers=workers
            ),
            note=notes.append,
        )
        assert [line for line in notes if "busy" in line] == lines


def test_a_search_is_planned_where_its_device_is_not(config, quick_recipe, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("flashnas.training.trainer.visible_devices", tuple)
    (tmp_path / "gpu.yaml").write_text(f"{quick_recipe.read_text()}\ndevice: cuda\n")
    asked = dataclasses.replace(config, recipe=str(tmp_path / "gpu.yaml"), workers=4)
    found = plan(asked)
    assert (found.tokens_per_s, found.workers) == (None, 4)
    assert found.seconds > 0
    assert found.flops > found.flops_each > 0
    assert "h with 4 workers, at an assumed 1.5e+14 FLOP/s of a GPU" in str(found)
    alone = plan(dataclasses.replace(asked, baselines=False, workers=1))
    assert alone.seconds == pytest.approx(alone.flops / ASSUMED_RATES["cuda"])
    with pytest.raises(DeviceError, match="torch finds no CUDA device"):
        load_problem(asked)


def test_the_fastest_is_of_the_smallest_width_and_its_figures_are_those_of_the_table(config):
    found = plan(dataclasses.replace(config, table="h100_sxm"))
    assert found.fastest.startswith("64(")
    assert found.tokens_per_s is None
    assert "h with 2 workers, at an assumed pace" in str(found)
    assert found.fastest_metrics["latency_ms"] > 0
    with pytest.raises(BudgetError, match="no architecture of space 'tiny' meets the budget"):
        plan(
            dataclasses.replace(
                config, budgets={"latency_ms": found.fastest_metrics["latency_ms"] / 10}
            )
        )
    tight = plan(
        dataclasses.replace(
            config,
            budgets={"latency_ms": found.fastest_metrics["latency_ms"] * 1.5},
        )
    )
    notations = {entry["notation"] for entry in tight.baselines}
    assert None in notations
    assert tight.evaluations == 5 + len(notations - {None})


def test_what_a_search_may_buy_is_planned_as_a_bound(config):
    found = plan(dataclasses.replace(config, table="h100_sxm", evidence=None))
    assert (found.each, found.candidates, found.evaluations) == (False, 5, 5)
    assert found.tokens == 5 * 512
    assert "at most 5 networks: those whose training is expected to improve" in str(found)


def test_a_plan_says_that_nothing_is_trained(config):
    config = dataclasses.replace(config, table="h100_sxm", trials=None, evidence=None)
    notes = []
    found = plan(config, note=notes.append)
    assert (found.candidates, found.evaluations, found.tokens, found.seconds) == (0, 0, 0, None)
    assert "nothing is trained: published trainings answer" in str(found)
    assert notes == ["nothing is trained without --trials N: recipe changes nothing"]
    for words in ("min with", "tokens each", "candidates"):
        assert words not in str(found)
    assert json.loads(json.dumps(found.to_dict()))["evaluations"] == 0


def test_a_plan_of_the_users_evaluator_trains_nothing():
    found = plan(
        SearchConfig(table=None, trials=7),
        space=WidthFittedGpt2Space(),
        evaluator=foreign_space.loss,
        table=foreign_space.latency_ms,
    )
    assert (found.tokens, found.width_factor, found.seconds, found.widths) == (0, None, None, ())
    assert found.evaluations == 9
    assert found.fastest.startswith("width=64 layers=2 ")
    assert found.fastest.endswith(" ratio=2")
    assert "evaluated  9 networks" in str(found)


def test_no_more_candidates_are_planned_than_the_space_holds():
    found = plan(
        SearchConfig(table=None, trials=10_000),
        space=Gpt2Space(),
        evaluator=foreign_space.loss_and_latency,
    )
    assert found.candidates == 3 * 4 * 3 * 2
    assert found.fastest is None
