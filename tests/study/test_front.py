"""The front is what pymoo finds in all that was scored; the recommended network and what it is
compared with are beside it."""

import dataclasses

import numpy as np
import pytest
from problems import problem_of

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.study.answer import PUBLISHED_MODELS, published_models
from flashnas.study.loop import search

OBJECTIVES = [
    ("full_loss", "latency_ms"),
    ("full_loss", "memory_gb"),
    ("full_loss", "latency_ms", "expected_recall"),
    ("full_loss", "latency_ms", "memory_gb"),
]
SPACES = {"granite": 9_000.0, "nemotron_flash": 1500.0, "layerwise": 2000.0}


@pytest.fixture(scope="module", params=SPACES)
def searched(request):
    return problem_of(request.param, SPACES[request.param])


@pytest.mark.parametrize("objectives", OBJECTIVES, ids="-".join)
def test_the_front_is_that_of_pymoo_over_all_that_was_scored(searched, objectives):
    sorting = pytest.importorskip("pymoo.util.nds.non_dominated_sorting").NonDominatedSorting()
    found = search(dataclasses.replace(searched, objectives=objectives, proposals=300))
    figures = {
        "full_loss": searched.scorer.values(found.networks),
        **searched.costs.columns(found.networks, ["latency_ms", "memory_gb"]),
        "expected_recall": -searched.scorer.recalls(found.networks),
    }
    points = np.column_stack([np.round(figures[name], 9) for name in objectives])
    front = sorting.do(points, only_non_dominated_front=True)
    assert set(found.front) == set(front.tolist())
    assert len(found.networks) > len(found.front) > 2
    assert (np.diff(found.latency_ms[found.front]) >= 0).all()


def test_the_best_network_may_also_be_the_best_of_a_family(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(
        "template: layerwise\nwidths: [2048, 2560, 3072]\nmodel: {vocab: 131072}\n"
        "layers: {depth: [4, 20], choices:"
        " ['a(head_dim=128,kv_heads=4,qk_norm=true,rope_theta=1000000) f']}\n"
    )
    run = fn.search(space=str(space), budgets={"latency_ms": 20_000}, out=tmp_path / "run")
    families = {family["family"]: family["hash"] for family in run.answer.families}
    assert families["transformer (Qwen3)"] == run.recommended.hash
    assert "baseline" not in {trial.origin for trial in run.front}


def test_published_models_stand_beside_networks_of_a_space_of_any_class():
    network = Architecture.parse("512(vocab=1000,tied=false): 4x(a f)")
    space = type("Own", (), {"any_network": lambda self: network})()
    found = published_models(dataclasses.replace(problem_of(), space=space))
    assert list(found) == list(PUBLISHED_MODELS)
    assert {(model.vocab, model.tied) for model in found.values()} == {(1000, False)}
