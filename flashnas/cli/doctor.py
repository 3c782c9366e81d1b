"""`flashnas doctor`: shows what it found, and ends with exit code 1 where an operator is wrong."""

from __future__ import annotations

import sys

from flashnas.api.doctor import DoctorOptions, doctor
from flashnas.cli.command import show
from flashnas.cli.progress import CountProgress

UNHEALTHY = 1


def run(options: DoctorOptions, as_json: bool) -> int:
    with CountProgress(sys.stderr, "operators tested") as line:
        found = doctor(options, progress=line.update)
    show(found, as_json)
    return 0 if found.healthy else UNHEALTHY
