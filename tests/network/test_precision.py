"""The one place that chooses the type of matrix products."""

import dataclasses

import pytest
import torch
import yaml

import flashnas as fn
from flashnas.network import precision
from flashnas.profiling.platforms import PLATFORMS
from flashnas.training.recipe import Recipe


@pytest.fixture
def faster(monkeypatch):
    """A function that makes the products of a type faster than others."""
    measured = precision.product_s

    def choose(name):
        slow = {precision.TYPES[name]: 1.0}
        monkeypatch.setattr(precision, "product_s", lambda _, dtype: slow.get(dtype, 50.0))
        precision.fast_dtype.cache_clear()

    yield choose
    monkeypatch.setattr(precision, "product_s", measured)
    precision.fast_dtype.cache_clear()


@pytest.mark.parametrize("name", precision.TYPES)
def test_the_faster_type_is_taken_wherever_none_is_given(name, faster):
    faster(name)
    assert precision.fast_dtype("cpu") == PLATFORMS["cpu"].dtype == name
    for recipe in ("cpu", "train", "further"):
        loaded = Recipe.load(recipe)
        assert (loaded.dtype, loaded.with_dtype().dtype) == ("auto", name)
        assert loaded.with_dtype().digest == loaded.digest, "it changes rounding alone"


def test_a_type_is_timed_on_one_thread_because_two_on_busy_cores_wait_for_each_other(monkeypatch):
    counts = []
    monkeypatch.setattr(
        precision, "product_s", lambda *_: counts.append(torch.get_num_threads()) or 1.0
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        precision.fast_dtype.__wrapped__("cpu")
        assert (counts, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_type_that_is_given_or_recorded_stays(faster):
    faster("float32")
    assert Recipe(dtype="bfloat16").with_dtype().dtype == "bfloat16"
    assert Recipe().with_dtype("bfloat16").dtype == "bfloat16"
    assert Recipe.load("gpu").with_dtype().dtype == "bfloat16"


def test_a_gpu_that_is_not_at_hand_is_not_timed(monkeypatch, faster):
    faster("float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.fast_dtype("cuda") == "bfloat16"


def test_what_was_begun_goes_on_in_its_type(small_corpus, quick_recipe, tmp_path, faster):
    recipe = dataclasses.replace(Recipe.load(quick_recipe), dtype="auto", tokens=256)
    asked = {
        "training": lambda **more: fn.train(
            "32(vocab=300): f", recipe=recipe, data=str(small_corpus), out=tmp_path / "t", **more
        ),
        "search": lambda **more: fn.search(
            space="tiny",
            workload="chat",
            budgets={"latency_ms": 500},
            recipe=recipe,
            data=str(small_corpus),
            trials=1,
            evidence="none",
            workers=1,
            baselines=False,
            out=tmp_path / "s",
            **more,
        ),
    }
    faster("bfloat16")
    asked["training"]()
    asked["search"]()
    faster("float32")
    asked["training"](resume=True)
    asked["search"](resume=str(tmp_path / "s"))
    question = yaml.safe_load((tmp_path / "t" / "train.yaml").read_text())["question"]
    assert question["recipe"]["dtype"] == "bfloat16"
    assert (
        yaml.safe_load((tmp_path / "s" / "run.yaml").read_text())["recipe"]["dtype"] == "bfloat16"
    )
