"""Files that several workers may write at once: written aside, then renamed, so that none is ever seen half done."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashnas.base.errors import CorpusError


def cache_folder() -> Path:
    """Where tokenizers and token arrays are kept: FLASHNAS_CACHE, else ~/.cache/flashnas."""
    return Path(os.environ.get("FLASHNAS_CACHE") or Path.home() / ".cache" / "flashnas")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left on the device"
        else:
            reason = error.strerror or str(error)
        raise CorpusError(f"cannot cache data in {folder}: {reason};"
                          " free some space or name another folder with FLASHNAS_CACHE") from None


def file_in_cache(path: Path, content: bytes) -> None:
    """Write a file atomically; raises CorpusError naming the folder if it is full or read-only."""
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def folder_in_cache(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `path` at the end; if another process was first, its folder stays.

    Raises CorpusError naming the folder if it is full or read-only.
    """
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".part-"))
        try:
            yield temporary
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
