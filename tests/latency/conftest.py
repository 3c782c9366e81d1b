from pathlib import Path

import pytest
from tiny_tables import tiny_kinds, write_table

from flashnas.latency.table import LatencyTable


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "tiny"
    write_table(folder, tiny_kinds())
    return folder


@pytest.fixture
def tiny_table(tiny_folder) -> LatencyTable:
    return LatencyTable.load(tiny_folder)
