"""The type of matrix products."""

import dataclasses

import pytest
import yaml

import flashnas as fn
from flashnas.network import precision
from flashnas.profiling.platforms import PLATFORMS
from flashnas.training.recipe import Recipe


@pytest.mark.parametrize("recipe", ["cpu", "train", "further"])
def test_a_type_that_is_left_open_follows_from_the_device_and_not_from_a_timing(recipe):
    loaded = Recipe.load(recipe)
    for device, name in {"cpu": "float32", "cuda": "bfloat16"}.items():
        chosen = dataclasses.replace(loaded, device=device).with_dtype()
        assert (loaded.dtype, chosen.dtype, PLATFORMS[device].dtype) == ("auto", name, name)
    assert loaded.with_dtype().digest == loaded.digest, "it changes rounding alone"


def test_a_type_that_is_given_or_recorded_stays():
    assert Recipe(dtype="bfloat16").with_dtype().dtype == "bfloat16"
    assert Recipe().with_dtype("bfloat16").dtype == "bfloat16"
    assert Recipe.load("gpu").with_dtype().dtype == "bfloat16"


def test_what_was_begun_goes_on_in_its_type(small_corpus, quick_recipe, tmp_path):
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
    with pytest.MonkeyPatch.context() as patch:  # as 0.3.0 chose on some CPUs
        patch.setitem(precision.DEFAULT_DTYPE, "cpu", "bfloat16")
        asked["training"]()
        asked["search"]()
    asked["training"](resume=True)
    asked["search"](resume=str(tmp_path / "s"))
    question = yaml.safe_load((tmp_path / "t" / "train.yaml").read_text())["question"]
    assert question["recipe"]["dtype"] == "bfloat16"
    assert (
        yaml.safe_load((tmp_path / "s" / "run.yaml").read_text())["recipe"]["dtype"] == "bfloat16"
    )
