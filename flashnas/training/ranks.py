"""One of the processes that train a candidate together; torchrun starts `python -m
flashnas.training.ranks FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from flashnas.base.system import die_with_parent, write_atomic
from flashnas.training.candidate import train_candidate
from flashnas.training.together import FAILED, JOB, SCORE, WORKER

LOST = ("gloo", "NCCL", "Connection closed by peer", "another process of this training has ended")


def main(folder: Path) -> int:
    """One of the processes; returns its exit code."""
    die_with_parent()
    if not _started_by_worker():
        return 1
    from flashnas.training.distributed import processes
    from flashnas.training.recipe import Recipe

    job = json.loads((folder / JOB).read_bytes())
    rank = os.environ["RANK"]
    try:
        with processes(threads=1) as ranks:
            try:
                ranks.check(Recipe.from_dict(job["recipe"]))
                score = train_candidate(job, ranks)
            except BaseException as error:
                _write_failure(folder, rank, error)
                raise
            if ranks.first:
                write_atomic(folder / SCORE, json.dumps(score))
    except BaseException as error:
        _write_failure(folder, rank, error)
        return 1
    return 0


def _started_by_worker() -> bool:
    """False if the worker or torchrun has ended before this process could be tied to them."""
    if sys.platform != "linux":
        return True
    try:
        grandparent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return False
    return grandparent == os.environ.get(WORKER)


def _write_failure(folder: Path, rank: str, error: BaseException) -> None:
    """For the worker; of several errors of one process the first."""
    path = folder / f"{FAILED}-{rank}"
    if path.exists():
        return
    text = (str(error).strip().splitlines() or [""])[0]
    lost = isinstance(error, SystemExit) or any(words in text for words in LOST)
    kind = type(error)
    write_atomic(
        path,
        json.dumps({"class": kind.__name__, "module": kind.__module__, "text": text, "lost": lost}),
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
