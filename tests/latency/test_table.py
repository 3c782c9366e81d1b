import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import yaml
from cases import data_of
from damage import check_damage
from offenders import every
from one_line import one_line
from tiny_tables import STACKS, TINY, product_rows, tiny_kinds, write_table

from flashnas.base.errors import TableError
from flashnas.base.registry import shipped_names
from flashnas.latency import table_writer
from flashnas.latency.schema import KINDS, VALUE_COLUMNS
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_info import facts_of
from flashnas.latency.table_writer import write_rows

HUGE = dataclasses.replace(TINY, name="huge")


def one_row(latency_us, m=1):
    return product_rows(lambda **_: latency_us, m=[m], n=[1], k=[1])


def edit_meta(folder, change):
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    change(meta)
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))


def replace_rows(folder, kind, change):
    """Rewrite a parquet file with a valid checksum but whatever content."""
    frame = change(pd.read_parquet(folder / f"{kind}.parquet"))
    frame.to_parquet(folder / f"{kind}.parquet", index=False)
    digest = hashlib.sha256((folder / f"{kind}.parquet").read_bytes()).hexdigest()
    edit_meta(folder, lambda meta: meta["kinds"][kind].update(sha256=digest, rows=len(frame)))


def test_rows_come_back_as_written_with_every_column(tiny_table):
    assert tiny_table.frames.keys() == {*tiny_kinds()}
    for kind, written in tiny_kinds().items():
        rows = tiny_table.frames[kind]
        assert list(rows.columns) == [*KINDS[kind], *VALUE_COLUMNS]
        expected = written.sort_values(list(KINDS[kind]), ignore_index=True)
        np.testing.assert_allclose(rows["latency_us"], expected["latency_us"], rtol=1e-6)
        assert (rows["dtype"] == "bfloat16").all()
        assert rows["p10_us"].isna().all()
    assert (tiny_table.name, tiny_table.stack, tiny_table.dtypes) == (
        "tiny",
        "invented-1",
        ("bfloat16",),
    )


def test_percentiles_and_sources_per_row_survive(tmp_path):
    rows = product_rows(lambda m, n, k: m * n * k, m=[1, 2], n=[1], k=[1]).assign(
        p10_us=[0.5, np.nan], p90_us=[2.0, 3.0], repeats=[5, 6], source=["measured", "imported"]
    )
    table = write_table(tmp_path / "t", {"gemm": rows})
    names = ["p10_us", "p90_us", "repeats", "source"]
    pd.testing.assert_frame_equal(
        table.frames["gemm"][names], rows[names], check_dtype=False, check_categorical=False
    )


def test_append_replaces_rows_of_the_same_key(tmp_path):
    first = product_rows(lambda **_: 1, m=[1, 2], n=[1], k=[1])
    second = product_rows(lambda **_: 5, m=[2, 3], n=[1], k=[1]).assign(stack="other-2")
    write_table(tmp_path / "t", {"gemm": first})
    stacks = {"other-2": {"framework": "other"}}
    write_rows(tmp_path / "t", "gemm", second, TINY, stacks=stacks)
    table = LatencyTable.load(tmp_path / "t")
    assert table.frames["gemm"]["latency_us"].tolist() == [1, 5, 5]
    assert table.stack == "invented-1, other-2"
    assert table.frames["gemm"]["stack"].tolist() == ["invented-1", "other-2", "other-2"]


def test_info_is_json_and_names_what_a_table_can_answer(tiny_table):
    info = json.loads(json.dumps(facts_of(tiny_table)))
    assert info["kinds"]["gemm"]["ranges"] == {"m": [1, 65536], "n": [16, 256], "k": [16, 256]}
    assert info["kinds"]["gemm"]["sources"] == {"imported": 8}
    assert info["kinds"]["gemm"]["origin"] == {"package": "invented"}


def rows(change):
    return lambda folder: replace_rows(folder, "gemm", change)


def no_parquet(folder):
    (folder / "gemm.parquet").write_bytes(b"not parquet")
    digest = hashlib.sha256(b"not parquet").hexdigest()
    edit_meta(folder, lambda meta: meta["kinds"]["gemm"].update(sha256=digest))


DAMAGE = [
    *(
        (lambda folder, file=file: (folder / file).unlink(), f"{file}: cannot be read")
        for file in ("meta.yaml", "gemm.parquet")
    ),
    (lambda folder: (folder / "device.yaml").unlink(), "the folder has no device.yaml"),
    (lambda folder: (folder / "meta.yaml").write_text("name: tiny\nformat: [1\n"), "meta.yaml:"),
    (
        lambda folder: (folder / "gemm.parquet").write_bytes(
            (folder / "gemm.parquet").read_bytes()[:-1]
        ),
        "gemm.parquet: the checksum differs",
    ),
    (no_parquet, "gemm.parquet: damaged, not readable as parquet"),
    *(
        (
            rows(
                lambda frame, us=us: frame.assign(
                    latency_us=frame["latency_us"].where(frame.index != 3, us)
                )
            ),
            "gemm.parquet: row 3: latency_us must be a positive number",
        )
        for us in (np.nan, 0.0, np.inf)
    ),
    (rows(lambda frame: frame.rename(columns={"latency_us": "latency_ms"})), "lacking latency_us"),
    (rows(lambda frame: frame.assign(n="many")), "gemm.parquet: column n must hold numbers"),
    (
        rows(lambda frame: frame.assign(p10_us=-2.0)),
        "p10_us must be a positive number or null; got -2.0",
    ),
    (rows(lambda frame: pd.concat([frame, frame.head(1)])), "two rows of the same m, n, k"),
]


def test_a_wrong_entry_is_one_line_with_its_place(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    check_damage(folder, data_of("latency/damage"), TableError, LatencyTable.load)


@every(case=DAMAGE)
def test_damage_is_one_line_with_its_place(tiny_folder, tmp_path, case):
    change, words = case
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    change(folder := shutil.copytree(tiny_folder, tmp_path / "copy"))
    message = one_line(TableError, LatencyTable.load, folder)
    assert words in message
    assert str(folder) in message


def test_a_table_that_does_not_exist_names_the_others():
    message = one_line(TableError, LatencyTable.load, "h100_sx")
    assert all(
        name in message for name in ("did you mean 'h100_sxm'", *shipped_names("latency_tables"))
    )


def test_writing_refuses_what_is_no_row(tmp_path):
    rows = one_row(1.0)
    with pytest.raises(TableError, match="unknown kind of rows 'gem'"):
        write_rows(tmp_path, "gem", rows, TINY)
    with pytest.raises(TableError, match="need the columns k"):
        write_rows(tmp_path, "gemm", rows.drop(columns="k"), TINY)
    write_rows(tmp_path, "gemm", rows, TINY, stacks=STACKS)
    with pytest.raises(TableError, match="is of device tiny; got rows of huge"):
        write_rows(tmp_path, "gemm", rows, HUGE)


def test_a_kill_within_a_write_leaves_a_whole_table(tmp_path, monkeypatch):
    """The old or the new one; also a kill within the write after it."""
    really = os.replace

    def write(folder, latency_us, calls=99):
        """It is killed before this call of os.replace."""
        left = iter(range(calls))

        def replace(*paths):
            if next(left, None) is None:
                raise KeyboardInterrupt
            really(*paths)

        monkeypatch.setattr(os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            write_rows(folder, "gemm", one_row(latency_us), TINY, stacks=STACKS)
        monkeypatch.setattr(os, "replace", really)
        return LatencyTable.load(folder).frames["gemm"]["latency_us"].tolist()[0]

    for first, second in itertools.product(range(4), repeat=2):
        folder = tmp_path / f"{first}{second}"
        before = write(folder, 1.0)
        for latency_us, calls in ((2.0, first), (3.0, second)):
            after = write(folder, latency_us, calls)
            assert after in (before, latency_us)
            before = after
        assert write(folder, 4.0) == 4.0
        assert not list(folder.glob("*.next"))


def test_two_processes_that_write_one_table_lose_nothing(tmp_path, monkeypatch):
    """The second one writes between the reading and the writing of the first."""
    folder = tmp_path / "t"
    write_table(folder, {"gemm": one_row(1.0)})
    really, other = table_writer._write_parquet, []

    def slowly(*words):
        monkeypatch.setattr(table_writer, "_write_parquet", really)
        other.append(
            threading.Thread(
                target=write_rows,
                args=(folder, "gemm", one_row(1.0, 2), TINY),
                kwargs={"stacks": STACKS},
            )
        )
        other[0].start()
        other[0].join(0.3)  # it has written, or waits
        return really(*words)

    monkeypatch.setattr(table_writer, "_write_parquet", slowly)
    write_rows(folder, "gemm", one_row(1.0, 3), TINY)
    other[0].join()
    assert LatencyTable.load(folder).frames["gemm"]["m"].tolist() == [1, 2, 3]


def test_a_table_is_as_its_files_are_whatever_was_done_to_one_that_was_loaded(tmp_path):
    """A folder is read and checked once in a process, until one of its files has changed."""
    kinds = {"conv_decode": tiny_kinds()["conv_decode"]}
    table = write_table(tmp_path / "table", kinds)
    before = table.frames["conv_decode"]["latency_us"].tolist()
    table.frames["conv_decode"].loc[:, "latency_us"] = 1.0
    table.frames["more"], table.meta["stacks"]["mine"] = None, {}
    again = LatencyTable.load(tmp_path / "table")
    assert again.frames["conv_decode"]["latency_us"].tolist() == before
    assert ([*again.frames], again.stack) == (["conv_decode"], "invented-1")
    write_table(tmp_path / "table", {"conv_decode": kinds["conv_decode"].assign(latency_us=7.0)})
    assert set(LatencyTable.load(tmp_path / "table").frames["conv_decode"]["latency_us"]) == {7.0}
    file = tmp_path / "table" / "conv_decode.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TableError, match="checksum"):
        LatencyTable.load(tmp_path / "table")
