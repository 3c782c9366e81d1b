import dataclasses
import json

import pytest

from flashnas.base.errors import BudgetError, DeviceError
from flashnas.latency.table import LatencyTable
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.plan import plan


@pytest.fixture
def config(quick_recipe, small_corpus):
    return SearchConfig(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        calibration="paper",
        trials=5,
        evidence="none",
        workers=2,
        recipe=str(quick_recipe),
        data=str(small_corpus),
    )


def test_a_plan_counts_networks_tokens_and_flops_and_writes_no_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(config, table=LatencyTable.load("h100_sxm"))
    assert list(tmp_path.iterdir()) == []
    fitting = {entry["notation"] for entry in found.baselines} - {None}
    assert (found.candidates, found.trainings) == (5, 5 + len(fitting))
    assert found.tokens_each == 512
    assert found.flops_each < found.flops < found.trainings * found.flops_each
    assert json.loads(json.dumps(found.to_dict()))["trainings"] == found.trainings
    for words in ("tiny", "5 candidates", "512 tokens each", " FLOP each, about "):
        assert words in str(found)
    assert " min" not in str(found)  # nothing was measured


def test_a_plan_says_what_the_first_trainings_are_expected_to_gain(config):
    found = plan(dataclasses.replace(config, evidence=None, baselines=False, train_tokens="1B"))
    assert 0 == round(found.price, 4) <= found.gain
    assert str(found).endswith(f"expected   gain {found.gain:.4f}, price {found.price:.4f} nats")


def test_a_search_is_planned_where_its_device_is_not(config, quick_recipe, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("flashnas.training.trainer.visible_devices", tuple)
    (tmp_path / "gpu.yaml").write_text(f"{quick_recipe.read_text()}\ndevice: cuda\n")
    asked = dataclasses.replace(config, recipe=str(tmp_path / "gpu.yaml"), workers=4)
    assert plan(asked).flops > 0
    with pytest.raises(DeviceError, match="torch finds no CUDA device"):
        load_problem(asked)


def test_budgets_that_no_network_meets_are_refused_and_baselines_beyond_them_left_out(config):
    with pytest.raises(
        BudgetError, match="none of the 17,139 genotypes of space 'tiny' meets what is asked"
    ):
        plan(dataclasses.replace(config, budgets={"latency_ms": 1e-3}))
    config = dataclasses.replace(config, baselines=True)
    problem = load_problem(config)
    networks = [network for _, network in problem.baselines]
    limit = sorted(problem.model.latencies(networks))[len(networks) // 2]
    tight = plan(dataclasses.replace(config, budgets={"latency_ms": limit}))
    notations = {entry["notation"] for entry in tight.baselines}
    assert None in notations
    assert tight.trainings == 5 + len(notations - {None})


def test_as_many_trainings_are_planned_as_were_asked_for(config):
    found = plan(dataclasses.replace(config, evidence=None, sampler=None))
    assert (found.sampler, found.candidates, found.trainings) == ("aging-evolution", 5, 5)
    assert "5 networks: 5 candidates by aging-evolution that are expected to gain" in str(found)
