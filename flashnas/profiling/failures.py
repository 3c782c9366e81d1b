"""Why a program in a process of its own gave no answer, in one line."""

from __future__ import annotations

import re
import signal

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
