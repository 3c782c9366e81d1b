"""The door for files of strangers: what it refuses, each in one line."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from offenders import every
from one_line import one_line

from flashnas.base import foreign
from flashnas.base.errors import BenchError, ConfigError, FlashnasError
from flashnas.base.files import append_synced, drop_torn_line
from flashnas.base.foreign import check_regular, parse_json, read_json, read_json_lines, read_parquet, read_text
from flashnas.base.hints import printable
from flashnas.base.yaml import read_yaml

READERS = {"text": lambda path: read_text(path, ConfigError), "json": lambda path: read_json(path,
                                                                                             ConfigError),
           "lines": lambda path: read_json_lines(path, ConfigError), "yaml": read_yaml,
           "parquet": lambda path: read_parquet(path, ConfigError)}


def fifo(path: Path) -> None:
    os.mkfifo(path)


NOT_FILES = {"a FIFO": fifo, "a folder": Path.mkdir, "a device": lambda path: path.symlink_to("/dev/zero")}


@every(reader=READERS, kind=NOT_FILES)
def test_what_is_not_a_regular_file_is_refused(reader, kind, tmp_path):
    path = tmp_path / f"{kind} {reader}"
    assert one_line(ConfigError, READERS[reader], path).endswith(": cannot be read: No such file or directory")
    NOT_FILES[kind](path)
    assert one_line(ConfigError, READERS[reader], path).endswith(f": must be a regular file; got {kind}")


@every(reader=["text", "json", "lines", "yaml"])
def test_what_is_too_large_is_refused_unread_and_what_is_too_deep(reader, tmp_path):
    path = tmp_path / reader
    for depth in () if reader == "text" else (65, 100_000):
        path.write_text("[" * depth + "]" * depth + "\n")
        with pytest.raises(ConfigError, match=r"nested at most 64 levels deep; got more|exceeded maximum nesting"):
            READERS[reader](path)
    with open(path, "wb") as file:
        file.truncate(10**12)  # without blocks on the disk
    with pytest.raises(ConfigError, match=r"must be at most [\d,e+]+ MB; got 1,000,000 MB$"):
        READERS[reader](path)


def test_64_levels_are_allowed():
    assert parse_json("[" * 64 + "]" * 64, "x", ConfigError)


def test_a_table_with_too_many_cells_is_refused_unread(tmp_path, monkeypatch):
    pd.DataFrame({"a": range(4), "b": range(4)}).to_parquet(tmp_path / "x")
    assert read_parquet(tmp_path / "x", BenchError, columns=["b"]).columns.tolist() == ["b"]
    monkeypatch.setattr(foreign, "MAX_CELLS", 7)
    with pytest.raises(BenchError, match=r"x: must have at most 7 cells; got 4 rows of 2 columns"):
        read_parquet(tmp_path / "x", BenchError)


def test_what_is_damaged_is_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    for read, line in (("text", "cannot be read: not UTF-8 text"), ("parquet", "damaged, not readable as"
                                                                               " parquet")):
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
    secret, link = tmp_path / "token", tmp_path / "study.journal"
    secret.write_bytes(content)
    link.symlink_to(secret)
    with pytest.raises(FlashnasError, match=r"study.journal: must be a regular file; got a link$"):
        write(link)
    assert secret.read_bytes() == content


def test_reading_follows_links_and_writing_does_not(tmp_path):
    (tmp_path / "file").write_text(json.dumps([1]))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_json(tmp_path / "link", ConfigError) == [1]
    assert check_regular(tmp_path / "new", ConfigError, write=True) == tmp_path / "new"
    with pytest.raises(ConfigError):
        check_regular(tmp_path / "link", ConfigError, write=True)


def test_text_of_strangers_is_printable():
    assert printable("plain é") == "plain é"
    assert printable("\x1b]0;PWN\x07\r\nroot# \u202e") == r"\x1b]0;PWN\x07\r\nroot# \u202e"
    assert printable(Path("a\nb")) == r"a\nb"


def test_a_folder_named_as_a_home_is_one_of_the_working_directory(tmp_path, monkeypatch):
    """Libraries take a path that begins with ~ for one of a home folder, and would read and write there."""
    from flashnas.runs.layout import TrialsTable

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~").mkdir()
    (tmp_path / "home").mkdir()
    TrialsTable().write([], Path("~/trials.parquet"))
    assert len(read_parquet(Path("~/trials.parquet"), BenchError)) == 0
    assert not list((tmp_path / "home").iterdir())
