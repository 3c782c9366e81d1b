"""What the tests of the evidence share: the shipped rows, a file of own trainings, and the
experiment that fits.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from flashnas.observations.read_losses import read_published

HEAD = "group,source,operators,params,tokens,metric,value\n"


EXPERIMENT = Path(__file__).parents[2] / "experiments" / "evidence"


@pytest.fixture(scope="session")
def experiment():
    """Loads a script of experiments/evidence by its name; it may import the others."""

    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(EXPERIMENT))
            spec = importlib.util.spec_from_file_location(
                f"evidence_{name}", EXPERIMENT / f"{name}.py"
            )
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, spec.name, module)  # for dataclasses
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shipped():
    return read_published()


@pytest.fixture
def own(tmp_path):
    """Writes own trainings, from `operators -> loss`; returns their path."""

    def write(losses, name="own.csv", group="mine"):
        path = tmp_path / name
        path.write_text(
            HEAD
            + "".join(
                f"{group},my runs,{operators},400M,50B,val_loss,{loss}\n"
                for operators, loss in losses.items()
            )
        )
        return path

    return write
