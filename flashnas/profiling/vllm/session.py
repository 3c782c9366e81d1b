"""The process that times networks in vLLM (child.py), as seen from flashnas."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from flashnas.base.documents import convert
from flashnas.base.errors import ConfigError, DeviceError
from flashnas.profiling.failures import how_it_ended, reason_of

CHILD = Path(__file__).with_name("child.py")
TIMEOUT_S = 1800.0  # of one answer
END_S = 30.0  # of an engine that is told to end
# of an engine on a CPU: in the process that times it, so that its processor time is known
ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}


T = TypeVar("T")


@dataclass(frozen=True)
class Described:
    """What the interpreter has (`describe` of child.py)."""

    version: str
    torch: str
    device: Literal["cpu", "cuda"]
    label: str
    memory_bytes: int
    peak_flops: float
    bandwidth_bytes_s: float


@dataclass(frozen=True)
class TimedRepeats:
    """Milliseconds of each repeat (`time_network` of child.py)."""

    prompts: list[list[float]]
    steps: list[list[float]]

    def __post_init__(self) -> None:
        if not all(repeats and min(repeats) > 0 for repeats in (*self.prompts, *self.steps)):
            raise ValueError("times must be above 0")


class Session:
    """Answers one question after the other. The process starts with the first one, and anew after
    one that failed.

    Args:
        python: the interpreter that has vLLM.
        work: `describe` or `time`.
        variables: of its environment, unless the user has set them.
    """

    def __init__(self, python: str, work: str, variables: dict[str, str]) -> None:
        self._command = [python, "-P", str(CHILD), work]
        self._variables = variables
        self._child: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None  # the error output, from which the reason is read
        atexit.register(self.end)

    def ask(self, kind: type[T], **question: Any) -> T:
        """Raises DeviceError, with the reason in one line, if there is no answer of that kind."""
        child = self._child if self._child and self._child.poll() is None else self._start()
        assert child.stdin
        try:
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
            line = self._line(child)
            answer = json.loads(line)
        except (OSError, ValueError):
            self.end()
            raise DeviceError(f"vLLM {how_it_ended(child.returncode)}: {self._reason()}") from None
        return convert(answer, kind, error=DeviceError, name="the answer of vLLM")

    def _start(self) -> subprocess.Popen[str]:
        self.end()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it is as long-lived as the child)
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                start_new_session=True,  # so that its engine can be ended with it
                env={**self._variables, **os.environ},
            )
        except OSError as error:
            raise DeviceError(f"{self._command[0]} cannot be started: {error.strerror}") from None
        return self._child

    def _line(self, child: subprocess.Popen[str]) -> str:
        """The next line of the answers; empty when the process has ended, even where one that it
        started keeps the pipe open."""
        assert child.stdout
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            ended = child.poll() is not None
            if select.select([child.stdout], [], [], 0.0 if ended else 1.0)[0]:
                return child.stdout.readline()
            if ended:
                break
        return ""

    def _reason(self) -> str:
        if self._said is None:
            return "without a message"
        self._said.seek(0)
        return reason_of(self._said.read().decode(errors="replace"))

    def end(self) -> None:
        """End the process; its engine ends with it."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin
        assert child.stdout
        with child.stdout, contextlib.suppress(OSError):
            child.stdin.close()  # which ends its loop
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_S)
            os.killpg(child.pid, signal.SIGKILL)  # what is left of the engine, or all of it
        child.wait()


@functools.cache
def describe(python: str) -> Described:
    """Version and device of vLLM (child.py); raises ConfigError if the interpreter has none."""
    session = Session(python, "describe", {})
    try:
        return session.ask(Described)
    except DeviceError as error:
        raise ConfigError(f"--vllm-python {python}: {error}") from None
    finally:
        session.end()


@functools.cache
def running(python: str, device: str, threads: int) -> Session:
    """The session of this process with one interpreter."""
    on_cpu = {**ON_CPU, "OMP_NUM_THREADS": str(threads)}
    return Session(python, "time", on_cpu if device == "cpu" else {})
