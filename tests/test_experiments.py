"""What experiments record follows from the package, and what scripts import of it exists."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pandas as pd

from flashnas.observations.read_losses import read_published

ROOT = Path(__file__).parents[1]


def script(name):
    """A script of experiments, as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "experiments" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_operators_of_the_paper_have_the_published_losses_and_the_latencies_of_the_tables():
    module = script("paper/operators.py")
    found = module.mixes().sort_index()
    pd.testing.assert_frame_equal(found, pd.read_csv(module.CSV), check_dtype=False)
    rows = [row for row in read_published() if row.group == "nf_500m_100b"]
    published = {row.operators: round(row.nats, 4) for row in rows}
    assert dict(zip(found["mix"], found["published_loss"], strict=True)) == published


def test_what_scripts_import_of_flashnas_exists():
    missing = []
    for path in sorted(
        file
        for folder in ("experiments", "benchmarks", "tools", "examples")
        for file in (ROOT / folder).rglob("*.py")
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
