"""What experiments record can be made again: the recipes that they name load."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flashnas.training.recipe import Recipe

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def named_recipes():
    for path in sorted(EXPERIMENTS.glob("*/*.yaml")):
        data = yaml.safe_load(path.read_text())
        if isinstance(data, dict) and isinstance(data.get("recipe"), str):
            yield pytest.param(data["recipe"], id=str(path.relative_to(EXPERIMENTS)))


@pytest.mark.parametrize("recipe", list(named_recipes()))
def test_a_recipe_that_a_config_names_loads_from_the_root(recipe, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert Recipe.load(recipe).tokens > 0


def test_the_operators_of_the_paper_are_those_of_the_bench_and_the_evidence():
    folder = EXPERIMENTS / "paper"
    spec = importlib.util.spec_from_file_location("paper_operators", folder / "operators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pd.testing.assert_frame_equal(
        module.mixes(), pd.read_csv(folder / "operators.csv"), check_dtype=False
    )


def test_what_scripts_import_of_flashnas_exists():
    missing = []
    for path in sorted(
        file
        for folder in ("experiments", "benchmarks", "tools", "examples")
        for file in (EXPERIMENTS.parent / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flashnas":
                module = importlib.import_module(node.module)
                missing += [
                    f"{path}: {node.module} has no {name.name}"
                    for name in node.names
                    if not hasattr(module, name.name)
                    and not (
                        hasattr(module, "__path__")
                        and importlib.util.find_spec(f"{node.module}.{name.name}")
                    )
                ]
    assert not missing
