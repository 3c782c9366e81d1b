"""What experiments record can be made again: the recipes that they name load, and levers of trials say all."""

import ast
import csv
import importlib
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flashnas.training.recipe import Recipe

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TRIALS = EXPERIMENTS / "proxy_recipe" / "trials.csv"


def named_recipes():
    for path in sorted(EXPERIMENTS.glob("*/*.yaml")):
        data = yaml.safe_load(path.read_text())
        if isinstance(data, dict) and isinstance(data.get("recipe"), str):
            yield pytest.param(data["recipe"], id=str(path.relative_to(EXPERIMENTS)))


@pytest.mark.parametrize("recipe", list(named_recipes()))
def test_a_recipe_that_a_config_names_loads_from_the_root(recipe, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert Recipe.load(recipe).tokens > 0


def test_the_levers_of_a_trial_are_all_that_differs_from_the_common_ones():
    spec = importlib.util.spec_from_file_location("trials", EXPERIMENTS / "proxy_recipe" / "trials.py")
    trials = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trials)
    with TRIALS.open(newline="") as file:
        levers = {(line["trial"], line["levers"]): line["tokens"] for line in csv.DictReader(file)}
    found = {}
    for (trial, text), tokens in levers.items():
        own = json.loads(text)
        for option in ("copies", "recall"):
            own.pop(option, None)
        assert trial not in found, f"{trial} has two sets of levers"
        recipe = found[trial] = Recipe.from_dict({**trials.LEVERS, **own, "name": trial})
        assert Recipe.from_dict({**trials.LEVERS, **trials.levers_of(recipe), "name": trial}) == recipe
        assert recipe.tokens == int(tokens or recipe.tokens)
    one_rate = EXPERIMENTS / "depth_width" / "one_rate.yaml"
    folder = EXPERIMENTS / "proxy_recipe"
    for trial, recipe in (("cpu", "cpu"), ("half_depth", folder / "cpu-shallow.yaml"),
                          ("long", folder / "cpu-long.yaml"), ("one_rate", one_rate)):
        assert found[trial].to_dict() == {**Recipe.load(recipe).to_dict(), "name": trial}


def test_the_operators_of_the_paper_are_those_of_the_bench_and_the_evidence():
    folder = EXPERIMENTS / "paper"
    spec = importlib.util.spec_from_file_location("paper_operators", folder / "operators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pd.testing.assert_frame_equal(module.mixes(), pd.read_csv(folder / "operators.csv"), check_dtype=False)


def test_what_scripts_import_of_flashnas_exists():
    missing = []
    for path in sorted(file for folder in ("experiments", "benchmarks", "tools", "examples")
                       for file in (EXPERIMENTS.parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flashnas":
                module = importlib.import_module(node.module)
                missing += [f"{path}: {node.module} has no {name.name}" for name in node.names
                            if not hasattr(module, name.name) and not (
                                hasattr(module, "__path__")
                                and importlib.util.find_spec(f"{node.module}.{name.name}"))]
    assert not missing
