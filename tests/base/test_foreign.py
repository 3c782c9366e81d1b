"""The door for files of strangers: what it refuses, each in one line."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from offenders import every
from one_line import one_line

from flashnas.base import foreign
from flashnas.base.documents import read_yaml
from flashnas.base.errors import (
    ConfigError,
    CorpusError,
    FlashnasError,
    RunError,
    TableError,
)
from flashnas.base.foreign import (
    append_synced,
    check_regular,
    drop_torn_line,
    parse_json,
    read_json,
    read_json_lines,
    read_parquet,
    read_text,
)
from flashnas.base.text import printable
from flashnas.data.corpus import read_corpus
from flashnas.latency.table import LatencyTable
from flashnas.run_folder.recorded_run import RecordedRun

ROOT = Path(__file__).parents[2]

READERS = {
    "text": lambda path: read_text(path, ConfigError),
    "json": lambda path: read_json(path, ConfigError),
    "lines": lambda path: read_json_lines(path, ConfigError),
    "yaml": read_yaml,
    "parquet": lambda path: read_parquet(path, ConfigError),
}


def fifo(path):
    os.mkfifo(path)


NOT_FILES = {
    "a FIFO": fifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@every(reader=READERS, kind=NOT_FILES)
def test_what_is_not_a_regular_file_is_refused(reader, kind, tmp_path):
    path = tmp_path / f"{kind} {reader}"
    assert one_line(ConfigError, READERS[reader], path).endswith(
        ": cannot be read: No such file or directory"
    )
    NOT_FILES[kind](path)
    assert one_line(ConfigError, READERS[reader], path).endswith(
        f": must be a regular file; got {kind}"
    )


@every(reader=["text", "json", "lines", "yaml"])
def test_what_is_too_large_is_refused_unread_and_what_is_too_deep(reader, tmp_path):
    path = tmp_path / reader
    for depth in () if reader == "text" else (65, 100_000):
        path.write_text("[" * depth + "]" * depth + "\n")
        with pytest.raises(
            ConfigError, match=r"nested at most 64 levels deep; got more|exceeded maximum nesting"
        ):
            READERS[reader](path)
    with open(path, "wb") as file:
        file.truncate(10**12)  # without blocks on the disk
    with pytest.raises(ConfigError, match=r"must be at most [\d,e+]+ MB; got 1,000,000 MB$"):
        READERS[reader](path)


@every(reader=["json", "lines", "yaml"])
def test_too_many_values_are_refused_before_they_are_parsed(reader, tmp_path, monkeypatch):
    """180 MB of empty lists would take 5.5 GB."""
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("parsed"))
    path = tmp_path / reader
    path.write_text(
        "[" + "[]," * 12_000_000 + "[]]\n"
        if reader != "yaml"
        else "a: [" + "[]," * 200_000 + "[]]\n"
    )
    words = one_line(ConfigError, READERS[reader], path)
    assert re.search(r": must hold at most (10,000,000|250,000) values; got [\d,]+$", words), words


def test_values_are_counted_in_all_lines_of_a_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(
        foreign.check_count, "__kwdefaults__", {**foreign.check_count.__kwdefaults__, "most": 5}
    )
    (tmp_path / "x").write_text("1\n2\n3\n4\n5\n")
    assert read_json_lines(tmp_path / "x", ConfigError) == [1, 2, 3, 4, 5]
    (tmp_path / "x").write_text("1\n2\n3\n4\n[5]\n")
    assert "must hold at most 5 values; got 6" in one_line(
        ConfigError, read_json_lines, tmp_path / "x", ConfigError
    )


def test_64_levels_are_allowed():
    assert parse_json("[" * 64 + "]" * 64, "x", ConfigError)


def test_a_table_with_too_many_cells_is_refused_unread(tmp_path, monkeypatch):
    pd.DataFrame({"a": range(4), "b": range(4)}).to_parquet(tmp_path / "x")
    assert read_parquet(tmp_path / "x", RunError, columns=["b"]).columns.tolist() == ["b"]
    monkeypatch.setattr(foreign, "MAX_CELLS", 7)
    with pytest.raises(RunError, match=r"x: must have at most 7 cells; got 4 rows of 2 columns"):
        read_parquet(tmp_path / "x", RunError)


def test_repeated_texts_of_a_table_are_counted_before_they_are_unpacked(tmp_path):
    """47 kB that unpack to 20 GB."""
    numbers = pa.array([0] * 20_000, pa.int32())
    bomb = pa.table({"a": pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 1_000_000]))})
    pq.write_table(bomb, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 100_000
    words = one_line(ConfigError, read_parquet, tmp_path / "x", ConfigError)
    assert words.endswith("x: must have at most 200 MB of texts; got 20,000 MB")
    pq.write_table(bomb.slice(0, 100), tmp_path / "x")
    assert [len(text) for text in read_parquet(tmp_path / "x", ConfigError)["a"]] == [
        1_000_000
    ] * 100
    frame = pd.DataFrame({"text": [f"{number:07d}" * 3 for number in range(30_000)]})
    frame.to_parquet(tmp_path / "x")
    assert read_parquet(tmp_path / "x", ConfigError)["text"].tolist() == frame["text"].tolist()


NESTED = {  # each a few kB; a file may hold as many bytes that unpack to GB
    "lists": lambda: pa.array([[0] * 10_000] * 100),
    "of one size": lambda: pa.array([b"x" * 10_000] * 1000, pa.binary(10_000)),
    "structs": lambda: pa.array([{"a": 1}] * 3),
}


@every(kind=NESTED)
def test_lists_in_the_cells_of_a_table_are_refused_unread(kind, tmp_path, monkeypatch):
    column = NESTED[kind]()
    pq.write_table(
        pa.table({"a": column, "b": range(len(column))}), tmp_path / "x.parquet", compression="zstd"
    )
    with monkeypatch.context() as patch:
        patch.setattr(pd, "read_parquet", lambda *_, **__: pytest.fail("unpacked"))
        words = one_line(ConfigError, read_parquet, tmp_path / "x.parquet", ConfigError)
        assert " must hold a number or a text in each row; got " in words
    found = read_parquet(tmp_path / "x.parquet", ConfigError, columns=["b", "c"])
    assert found.columns.tolist() == ["b"]
    words = one_line(CorpusError, read_corpus, f"{tmp_path / 'x.parquet'}#a")
    assert "column 'a' must hold text; got" in words


def test_a_key_or_a_column_that_stands_twice_is_refused(tmp_path):
    keys = ", ".join(f'"{number}": 0' for number in range(60_000))
    (tmp_path / "x").write_text(f'{{{keys}, "59999": 1}}')
    assert one_line(ConfigError, read_json, tmp_path / "x", ConfigError).endswith(
        "x:59999: duplicate key"
    )
    (tmp_path / "x").write_text("a,b,a\n1,2,3\n")
    assert one_line(ConfigError, foreign.read_csv, tmp_path / "x", ConfigError, ["a"]).endswith(
        "x: column 'a' stands twice"
    )


def test_what_is_damaged_is_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    for read, line in (
        ("text", "cannot be read: not UTF-8 text"),
        ("parquet", "damaged, not readable as parquet"),
    ):
        with pytest.raises(ConfigError, match=line):
            READERS[read](tmp_path / "x")
    (tmp_path / "x").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ConfigError, match=r"x:2: not valid JSON: "):
        read_json_lines(tmp_path / "x", ConfigError)


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "x").write_text('{"a": 1}\n{"a": ')
    assert read_json_lines(tmp_path / "x", ConfigError) == [{"a": 1}]


@pytest.mark.parametrize("write", [drop_torn_line, lambda path: append_synced(path, "line")])
@pytest.mark.parametrize("content", [b"a secret without a line end", b"line\nkeep-me"])
def test_no_file_is_changed_through_a_link(write, content, tmp_path):
    secret, link = tmp_path / "token", tmp_path / "journal.jsonl"
    secret.write_bytes(content)
    link.symlink_to(secret)
    with pytest.raises(FlashnasError, match=r"journal.jsonl: must be a regular file; got a link$"):
        write(link)
    assert secret.read_bytes() == content


def test_reading_follows_links_and_writing_does_not(tmp_path):
    (tmp_path / "file").write_text(json.dumps([1]))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_json(tmp_path / "link", ConfigError) == [1]
    assert check_regular(tmp_path / "new", ConfigError, write=True) == tmp_path / "new"
    with pytest.raises(ConfigError):
        check_regular(tmp_path / "link", ConfigError, write=True)


def test_a_link_that_leaves_its_folder_is_refused(tmp_path, build_run):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    (folder := tmp_path / "texts").mkdir()
    (folder / "a.txt").write_text("a text")
    (folder / "b.txt").symlink_to("a.txt")
    assert list(read_corpus(str(folder)).documents) == ["a text", "a text"]
    (folder / "c.txt").symlink_to(secret)
    assert one_line(CorpusError, read_corpus, str(folder)) == (
        f"{folder}/c.txt: must lie in the folder {folder}; it is {secret}"
    )
    run = build_run(3)
    (run / "trials.parquet").rename(tmp_path / "trials.parquet")
    (run / "trials.parquet").symlink_to(tmp_path / "trials.parquet")
    assert "trials.parquet: must lie in the folder" in one_line(RunError, RecordedRun.load, run)
    table = Path(shutil.copytree(ROOT / "latency_tables" / "h100_sxm", tmp_path / "table"))
    (table / "meta.yaml").rename(tmp_path / "meta.yaml")
    (table / "meta.yaml").symlink_to(tmp_path / "meta.yaml")
    assert "meta.yaml: must lie in the folder" in one_line(TableError, LatencyTable.load, table)


def test_a_folder_of_the_hugging_face_cache_may_link_to_its_blobs(tmp_path):
    (blobs := tmp_path / "datasets--a" / "blobs").mkdir(parents=True)
    (blobs / "0123").write_text("a text")
    (snapshot := tmp_path / "datasets--a" / "snapshots" / "f00").mkdir(parents=True)
    (snapshot / "a.txt").symlink_to("../../blobs/0123")
    assert list(read_corpus(str(snapshot)).documents) == ["a text"]


def test_text_of_strangers_is_printable():
    assert printable("plain é") == "plain é"
    assert printable("\x1b]0;PWN\x07\r\nroot# \u202e") == r"\x1b]0;PWN\x07\r\nroot# \u202e"
    assert printable(Path("a\nb")) == r"a\nb"


def test_a_folder_named_as_a_home_is_one_of_the_working_directory(tmp_path, monkeypatch):
    """Libraries take a path that begins with ~ for one of a home folder, and would read and write
    there.
    """
    from flashnas.run_folder.layout import write_trials

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~").mkdir()
    (tmp_path / "home").mkdir()
    write_trials(Path("~/trials.parquet"), [])
    assert len(read_parquet(Path("~/trials.parquet"), RunError)) == 0
    assert not list((tmp_path / "home").iterdir())
