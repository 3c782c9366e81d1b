import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_tables import tiny_kinds, write_table

from flashnas.latency.table import LatencyTable

SCRIPT = Path(__file__).parents[2] / "experiments/serving/rule_coverage.py"
SAMPLE = 40  # rows of each test


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "tiny"
    write_table(folder, tiny_kinds())
    return folder


@pytest.fixture
def tiny_table(tiny_folder) -> LatencyTable:
    return LatencyTable.load(tiny_folder)


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("rule_coverage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rule_coverage"] = module  # where dataclasses look annotations up
    spec.loader.exec_module(module)
    module.MOST = SAMPLE
    yield module
    del sys.modules["rule_coverage"]
