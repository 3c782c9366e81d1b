"""A PostgreSQL server of its own, from the binaries of the system's packages."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def binaries() -> Path | None:
    """The folder with initdb and postgres, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(place) for place in [shutil.which("initdb")] if place]
    return found[-1].parent if found else None


class Postgres:
    """A server on a free port of this machine. As root it runs as the user `postgres`, which initdb demands."""

    def __init__(self) -> None:
        self.bin = binaries()
        assert self.bin is not None
        self.folder = Path(tempfile.mkdtemp(prefix="flashnas-pg-", dir="/tmp"))
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run(str(self.bin / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "flash", "-N")
        self.url = f"postgresql://flash:secret@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def _command(self, *words: str) -> list[str]:
        return ["runuser", "-u", self.user, "--", *words] if os.getuid() == 0 else list(words)

    def _run(self, *words: str) -> None:
        subprocess.run(self._command(*words), check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Start it, or start it again after `kill`, and wait until it answers."""
        assert self.bin is not None
        self._server = subprocess.Popen(
            self._command(str(self.bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k",
                          str(self.folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=on"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True)
        for _ in range(600):
            if subprocess.run([str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)],
                              capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("PostgreSQL does not start")

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def _pids(self) -> list[int]:
        """Of the postmaster and its children."""
        first = self.pid
        return [first, *(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == first)]

    def kill(self) -> None:
        """kill -9 of the whole server."""
        pids = self._pids()
        os.kill(pids[0], signal.SIGKILL)
        assert self._server is not None
        self._server.wait()
        for _ in range(100):  # its children notice that it is gone
            if not any(_parent(pid) for pid in pids):
                break
            time.sleep(0.1)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block no process of it runs, and nobody gets an answer."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            assert self._server is not None
            for pid in [*pids, self._server.pid]:  # runuser stops with its child
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._server is not None and self._server.poll() is None:
            os.kill(self.pid, signal.SIGQUIT)
            self._server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _parent(pid: int) -> int:
    """Of a process that runs; 0 for one that has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state == "Z" else int(parent)
