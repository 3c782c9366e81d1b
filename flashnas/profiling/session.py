"""A program in a process of its own, as seen from flashnas: questions, answers, and in one line why
there is none.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

from flashnas.base.errors import DeviceError

TIMEOUT_S = 3600.0  # of one answer
END_S = 30.0  # of a process that is told to end
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# of the line of an error output that says most, the best first
SIGNS = tuple(
    map(
        re.compile,
        (
            "GGML_ASSERT",
            "error loading model:",
            r"\bERROR\b.*\] [\w.]+(Error|Exception)\b",  # of a process that vLLM starts
            r"^[\w.]+(Error|Exception)\b",
            "rror",
        ),
    )
)


class Session:
    """Answers one question after the other. The process starts with the first one, and anew after
    one that failed.

    Args:
        program: its name in messages.
        command: what runs. It reads each question, and writes its answer, as a line of JSON.
        variables: of its environment, unless the user has set them.
    """

    def __init__(
        self, program: str, command: Sequence[str], variables: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        self.program, self._command, self._variables = program, command, variables
        self._child: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None  # the error output, from which the reason is read
        atexit.register(self.end)

    def ask(self, question: Any) -> Any:
        """Raises DeviceError, with the reason in one line, if there is no answer."""
        child = self._child if self._child and self._child.poll() is None else self._start()
        assert child.stdin
        try:
            child.stdin.write(json.dumps(question, default=str) + "\n")
            child.stdin.flush()
            return json.loads(self._line(child))
        except (OSError, ValueError):
            self.end()
            ended = how_it_ended(child.returncode)
            raise DeviceError(f"{self.program} {ended}: {self._reason()}") from None

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


def how_it_ended(code: int | None) -> str:
    """Of a process with this exit code; None: it was still running."""
    if code is None or code == 0:
        return "gave no answer"
    return f"ended with {f'exit code {code}' if code > 0 else signal.Signals(-code).name}"


def reason_of(stderr: str) -> str:
    """The line of an error output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for sign in SIGNS:
        for line in reversed(lines):
            if sign.search(line):
                return line
    return lines[-1] if lines else "without a message"
