"""What a worker process runs for one candidate: a training in this process, or by several processes,
each on a GPU or on a core of its own. Importing this module does not import torch.

Several processes are started by torchrun, as `python -m flashnas.training.candidate FOLDER`. The
job and its score are files of a folder that the worker makes and removes. All processes end when
one of them fails, and with the worker: torchrun is in its group, and the kernel kills each process
with the one that started it.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.base import errors
from flashnas.base.errors import CandidateDiedError, CandidateMemoryError, DeviceError
from flashnas.base.system import die_with_parent, keep_memory, limit_threads, write_atomic

if TYPE_CHECKING:
    from flashnas.training.distributed import Ranks

MODULE = "flashnas.training.candidate"
JOB, SCORE, FAILED = "job.json", "score.json", "failed"
WORKER = "FLASHNAS_WORKER"  # number of the process that started torchrun
EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")  # of a process, in what torchrun prints
# errors that say no more than that another process has ended
LOST = ("gloo", "NCCL", "Connection closed by peer", "another process of this training has ended")


def run_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate on one thread, or by several processes.

    Args:
        job: plain data: `architecture` (`Architecture.to_dict()` at full width), `dataset` (a
            prepared folder), `recipe` (`Recipe.to_dict()`) and `seed`. Optional: `deadline_s`, the
            limit of the training; `processes`, if more than one train it together.

    Returns:
        `ProxyScore.to_dict()`.

    Raises:
        CandidateError: with the reason in one line, if the candidate fails.
    """
    return train_together(job) if job.get("processes", 1) > 1 else train_candidate(job)


def train_candidate(job: dict[str, Any], ranks: Ranks | None = None) -> dict[str, Any]:
    """`run_candidate` in this process, which may be one of several."""
    single_thread()
    keep_memory()
    from flashnas.architecture import Architecture
    from flashnas.data.dataset import Dataset
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import train

    recipe = Recipe.from_dict(job["recipe"])
    dataset = Dataset.open(job["dataset"])
    proxy = recipe.proxy_of(Architecture.from_dict(job["architecture"]), dataset.vocab)
    return train(
        proxy, dataset, recipe, job["seed"], deadline_s=job.get("deadline_s"), ranks=ranks
    ).to_dict()


def single_thread() -> None:
    """One thread for every numerical library: candidates run in parallel, and one thread gives
    reproducible bits."""
    limit_threads(1)
    import torch

    torch.set_num_threads(1)


# -- several processes: the worker ------------------------------------------------------------------


def train_together(job: dict[str, Any], module: str = MODULE) -> dict[str, Any]:
    """The score of a training by `job["processes"]` processes, each of which runs `module` with the
    folder as its argument.

    Raises:
        CandidateError, OSError and others: what a process raised.
        CandidateMemoryError: a process was killed, which most often is the kernel's when memory is
            out.
        CandidateDiedError: a process was ended by another signal.
    """
    with tempfile.TemporaryDirectory(prefix="flashnas-ranks-") as name:
        folder = Path(name)
        write_atomic(folder / JOB, json.dumps(job))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(job["processes"]), "--module", module, name]
        with open(folder / "output", "wb") as output:
            code = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
                preexec_fn=die_with_parent,
                env={**os.environ, WORKER: str(os.getpid())},
            ).returncode
        if code == 0 and (folder / SCORE).exists():
            score: dict[str, Any] = json.loads((folder / SCORE).read_bytes())
            return score
        raise _reason(folder, code)


def _reason(folder: Path, code: int) -> Exception:
    """What the processes raised: the first that is not about a lost connection to another one."""
    for path in sorted(folder.glob(f"{FAILED}-*")):
        report = json.loads(path.read_bytes())
        if not report["lost"]:
            return _error_of(report)
    output = (folder / "output").read_text(errors="replace")
    codes = [int(text) for text in EXIT_CODE.findall(output)]
    by_torchrun = -signal.SIGTERM  # when another one failed; all of them: by somebody else
    for number in codes:
        if number < 0 and (number != by_torchrun or set(codes) == {by_torchrun}):
            name = signal.Signals(-number).name
            if name == "SIGKILL":
                return CandidateMemoryError(
                    "a process of the training died (SIGKILL, out of memory?)"
                )
            return CandidateDiedError(f"a process of the training died ({name})")
    lines = [line for line in output.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    last = lines[-1] if lines else (output.strip().splitlines() or [f"exit code {code}"])[-1]
    return DeviceError(f"torchrun could not train: {last[:200]}")  # before a process could say why


def _error_of(report: dict[str, Any]) -> Exception:
    """An error as another process raised it; that of a library, which no architecture causes, as a
    DeviceError."""
    name, text = report["class"], report["text"]
    kind = getattr(errors if report["module"] == errors.__name__ else builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # such as UnicodeDecodeError, which is built from more than a text
            pass
    return DeviceError(f"{name}: {text}")


# -- several processes: one of them -----------------------------------------------------------------


def main(folder: Path) -> int:
    """Train the job of a folder as one of its processes; returns the exit code."""
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
    kind, text = type(error), (str(error).strip().splitlines() or [""])[0]
    lost = isinstance(error, SystemExit) or any(words in text for words in LOST)
    report = {"class": kind.__name__, "module": kind.__module__, "text": text, "lost": lost}
    write_atomic(path, json.dumps(report))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
