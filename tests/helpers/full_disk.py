"""A file system that is really full: a small one of its own, which a file fills up but for some
room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE_KB = 32_768  # the report of a finished run needs some megabytes


class Disk:
    """A tmpfs and the file that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def leave(self, room_kb: int) -> None:
        """Fill all but so much."""
        self._ballast.unlink(missing_ok=True)
        stat = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(stat.f_bavail * stat.f_frsize - 1024 * room_kb))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
