"""A folder is read and checked once in a process, until one of its files has changed."""

import pytest
from tiny_tables import tiny_kinds, write_table

from flashnas.base.errors import TableError
from flashnas.latency.table import LatencyTable


def test_a_table_is_as_its_files_are_whatever_was_done_to_one_that_was_loaded(tmp_path):
    kinds = {"conv_decode": tiny_kinds()["conv_decode"]}
    table = write_table(tmp_path / "table", kinds)
    before = table.rows("conv_decode")["latency_us"].tolist()
    table.frames["conv_decode"].loc[:, "latency_us"] = 1.0
    table.frames["more"], table.meta["stacks"]["mine"] = None, {}
    again = LatencyTable.load(tmp_path / "table")
    assert again.rows("conv_decode")["latency_us"].tolist() == before
    assert (again.kinds, again.stack) == (("conv_decode",), "invented-1")
    write_table(tmp_path / "table", {"conv_decode": kinds["conv_decode"].assign(latency_us=7.0)})
    assert set(LatencyTable.load(tmp_path / "table").rows("conv_decode")["latency_us"]) == {7.0}
    file = tmp_path / "table" / "conv_decode.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TableError, match="checksum"):
        LatencyTable.load(tmp_path / "table")
