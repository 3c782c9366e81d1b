"""Jobs for executors, importable from a fresh process."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from flashnas.base.errors import CandidateError, CorpusError
from flashnas.executors.base import Work
from flashnas.executors.local import LocalExecutor

MARK = "FLASHNAS_TESTING_MARK"


@dataclass(frozen=True)
class OwnJob:
    """As a Job with a user's evaluator."""

    do: str
    evaluator: str = "mine"


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__("two arguments")


def pool_of(*, workers, timeout_s):
    """Worker processes that run `act`."""
    return LocalExecutor(Work(function=act, workers=workers, timeout_s=timeout_s))


def tries(file):
    """The processes in which a job with that file was begun."""
    return [int(word) for word in Path(file).read_text().split()] if Path(file).exists() else []


def act(job):
    """Does what the job says; with the file `tries` for the processes in which it is begun, of which
    a second one fails at nothing if the job is to fail `once`, and with a file `log`."""
    job = {"do": job.do} if isinstance(job, OwnJob) else job
    if "tries" in job:
        with open(job["tries"], "a") as file:
            file.write(f"{os.getpid()}\n")
    with _logged(job):
        if job.get("once") and len(tries(job["tries"])) > 1:
            return {"value": "second"}
        return _done(job)


def _done(job):
    match job["do"]:
        case "return":
            return {"value": job["value"], "pid": os.getpid()}
        case "fail":
            raise CandidateError("loss became NaN at step 3")
        case "bug":
            raise ValueError("boom\nsecond line")
        case "memory":
            raise MemoryError
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "terminate":
            if "search" in job:  # shortly after this process
                subprocess.Popen(
                    ["sh", "-c", f"sleep 0.2; kill {job['search']}"], start_new_session=True
                )
            os.kill(os.getpid(), signal.SIGTERM)
        case "hang":
            time.sleep(60)
        case "count slowly":
            time.sleep(2)
            return {"value": len(tries(job["tries"]))}
        case "exit":
            os._exit(0)
        case "abort":
            os.abort()
        case "leave":
            sys.exit(3)
        case "close":
            os.closerange(3, 256)
            time.sleep(60)
        case "unpicklable result":
            return {"value": lambda: 0}
        case "own error":
            raise UnpicklableError(1, 2)
        case "missing module":
            import nowhere

            return nowhere
        case "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
        case "driver":
            raise RuntimeError("CUDA error: device-side assert triggered\nCompile with ..")
        case "kernel":
            raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
        case "no corpus":
            raise CorpusError("/cache/1: not a prepared dataset: no such file")
        case "typo":
            return undefined_name  # noqa: F821
        case "slow":
            time.sleep(0.2)
            return {"value": job.get("value")}
        case "leave a mark":
            os.environ[MARK] = "1"
            os.chdir("/")
            return {"value": 0}
        case "look for a mark":
            return {"value": MARK in os.environ or os.getcwd() == "/"}
        case "state":
            return _state()
        case "poison":
            _poison()
            return {"value": 0}
        case "thread":
            threading.Thread(target=time.sleep, args=(60,)).start()
            return {"value": os.getpid()}
        case "eat by torch":
            import torch

            return {"value": float(torch.zeros(1_000_000_000).sum())}
        case "device":
            time.sleep(0.05)
            return {
                "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "pid": os.getpid(),
                "torch": "torch" in sys.modules,
            }
        case "start and hang" | "start and abort":
            child = subprocess.Popen(["sleep", "60"])
            Path(job["path"]).write_text(str(child.pid))
            if job["do"] == "start and abort":
                os.abort()
            time.sleep(60)


@contextlib.contextmanager
def _logged(job):
    """`name+` and `name-` in the file `log`, if the job names one."""
    for sign in "+-":
        if "log" in job:
            with open(job["log"], "a") as file:
                file.write(f"{job.get('name')}{sign}\n")
        if sign == "+":
            yield


def _state():
    import torch

    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "value": os.environ.get("POISON"),
        "home": os.environ.get("HOME"),
        "device": str(torch.get_default_device()),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _poison():
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(7)
    torch.set_grad_enabled(False)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    os.environ["POISON"] = "1"
    os.environ.pop("HOME", None)
    os.chdir("/")
