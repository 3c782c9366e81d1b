"""A program in a process of its own: a request in, an answer or one line out.

The child runs this file, which imports nothing of flashnas, in the Python environment that has the program.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

TIMEOUT_S = 3600.0
# of the line of an error output that says most, the best first
SIGNS = tuple(map(re.compile, ("GGML_ASSERT", "error loading model:", r"^[\w.]+(Error|Exception)\b", "rror")))


class RuntimeFailure(Exception):
    """The process did not answer; the message is one line."""


def call(program: str, file: str, work: str, request: Mapping[str, Any], python: str = sys.executable,
         environment: Mapping[str, str] | None = None) -> Any:
    """What the function `work` of a file returns for a request, in a process of an interpreter; raises
    RuntimeFailure."""
    # -P: this environment's packages must not be found in another one
    return answer_of(program, [python, "-P", __file__, file, work], request, environment)


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
                               errors="replace", timeout=TIMEOUT_S, check=False,
                               env={**os.environ, **(environment or {})})
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


def _main(file: str, work: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program prints is not part of the answer
    spec: Any = importlib.util.spec_from_file_location("child", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    json.dump(getattr(module, work)(**json.load(sys.stdin)), out)
    out.flush()
    os._exit(0)  # without the program's own ending, which can wait for connections


if __name__ == "__main__":
    _main(*sys.argv[1:])
