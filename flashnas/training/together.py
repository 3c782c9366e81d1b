"""One candidate on several GPUs, or on several cores: its worker starts them by torchrun.

The job and its score are files of a folder that the worker makes and removes. All processes end
when one of them fails, and with the worker: torchrun is in its group, and the kernel kills each
process with the one that started it.
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
from typing import Any

from flashnas.base import errors
from flashnas.base.errors import CandidateDiedError, CandidateMemoryError, DeviceError
from flashnas.base.system import die_with_parent, write_atomic

JOB, SCORE, FAILED = "job.json", "score.json", "failed"
WORKER = "FLASHNAS_WORKER"  # number of the process that started torchrun
EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")  # of a process, in what torchrun prints


def train_together(job: dict[str, Any], module: str = "flashnas.training.ranks") -> dict[str, Any]:
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
        with open(folder / "output", "wb") as output:
            code = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc-per-node",
                    str(job["processes"]),
                    "--module",
                    module,
                    name,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
                preexec_fn=die_with_parent,
                env={**os.environ, WORKER: str(os.getpid())},
            ).returncode
        if code == 0 and (folder / SCORE).exists():
            scored: dict[str, Any] = json.loads((folder / SCORE).read_bytes())
            return scored
        raise _reason(folder, code)


def _reason(folder: Path, code: int) -> Exception:
    """What the processes raised: the first that is not about a lost connection to another one."""
    said = [json.loads(path.read_bytes()) for path in sorted(folder.glob(f"{FAILED}-*"))]
    own = [report for report in said if not report["lost"]]
    if own:
        return _error(own[0])
    output = (folder / "output").read_text(errors="replace")
    codes = [int(text) for text in EXIT_CODE.findall(output)]
    by_torchrun = -signal.SIGTERM  # when another one failed; all of them: by somebody else
    killed = next(
        (
            number
            for number in codes
            if number < 0 and (number != by_torchrun or set(codes) == {by_torchrun})
        ),
        None,
    )
    if killed is not None:
        name = signal.Signals(-killed).name
        return (
            CandidateMemoryError("a process of the training died (SIGKILL, out of memory?)")
            if (name == "SIGKILL")
            else CandidateDiedError(f"a process of the training died ({name})")
        )
    lines = [line for line in output.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    last = lines[-1] if lines else (output.strip().splitlines() or [f"exit code {code}"])[-1]
    return DeviceError(f"torchrun could not train: {last[:200]}")  # before a process could say why


def _error(said: dict[str, Any]) -> Exception:
    """An error as another process raised it; that of a library, which no architecture causes, as a
    DeviceError."""
    name, text = said["class"], said["text"]
    kind = getattr(errors if said["module"] == errors.__name__ else builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # such as UnicodeDecodeError, which is built from more than a text
            pass
    return DeviceError(f"{name}: {text}")
