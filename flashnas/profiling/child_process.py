"""A program in a process of its own: a request in, an answer or one line out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

TIMEOUT_S = 3600.0
# of the line of an error output that says most, the best first
SIGNS = tuple(map(re.compile, ("GGML_ASSERT", "error loading model:", r"^[\w.]+(Error|Exception)\b", "rror")))


class RuntimeFailure(Exception):
    """The process did not answer; the message is one line."""


def answer_of(program: str, command: Sequence[str], request: Mapping[str, Any],
              environment: Mapping[str, str] | None = None) -> Any:
    """What a process writes to its standard output as JSON.

    Args:
        program: its name in messages.
        command: starts the process.
        request: written to its standard input as JSON.
        environment: variables beside those of this process.

    Raises:
        RuntimeFailure: it ended without an answer.
    """
    try:
        child = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True,
                               errors="replace",
                               timeout=TIMEOUT_S, check=False, env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"{program} did not answer within {TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise RuntimeFailure(f"{program} could not be started: {command[0]}: {error.strerror}") from None
    if child.returncode:
        how = f"exit code {child.returncode}"
        if child.returncode < 0:
            how = signal.Signals(-child.returncode).name
        raise RuntimeFailure(f"{program} ended with {how}: {_reason(child.stderr)}")
    try:
        return json.loads(child.stdout)
    except ValueError:
        raise RuntimeFailure(f"{program} gave no answer: {_reason(child.stderr)}") from None


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for sign in SIGNS:
        for line in reversed(lines):
            if sign.search(line):
                return line
    return lines[-1] if lines else "without a message"
