"""Files of JSON lines, which a killed process leaves with all lines but the last one whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flashnas.base.errors import FlashnasError
from flashnas.base.foreign import MAX_JOURNAL_MB, check_count, check_regular, parse_json, read_text
from flashnas.base.system import sync_path


def append_synced(path: Path, line: str) -> None:
    """Append a line, of which `line` lacks the end, and wait until it is on the disk; FlashnasError
    for a link."""
    with open(
        check_regular(path, FlashnasError, write=True), "a", encoding="utf-8", newline=""
    ) as file:
        file.write(line + "\n")
    sync_path(path)


def complete_lines(text: str) -> str:
    """The text without a last line that has no end, as a killed process can leave it."""
    return text[: text.rfind("\n") + 1]


def drop_torn_line(path: Path, error: type[FlashnasError] = FlashnasError) -> None:
    """Cut a last line without an end off a file, if it is there; `error` for a link, through which
    another would be cut."""
    if not check_regular(path, error, write=True).exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def read_json_lines(path: str | Path, error: type[FlashnasError]) -> list[Any]:
    """The value of each line of a journal. A last line without its end, as a killed process leaves
    it, is left out."""
    text = read_text(path, error, max_mb=MAX_JOURNAL_MB)
    check_count(text, path, error, separators=",[{\n")
    lines = text.split("\n")[:-1]
    return [
        parse_json(line, f"{path}:{number}", error) for number, line in enumerate(lines, start=1)
    ]
