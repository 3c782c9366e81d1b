"""The processes of a training together, of which those of RANKS_WHO do what RANKS_DO says: at their start, which
imports no torch, or after RANKS_STEPS steps."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from flashnas.proxy import ranks
from flashnas.proxy.together import train_together


def run(job):
    """A job whose processes are these."""
    return train_together(job, module="dying_ranks")


def act(what):
    from flashnas.base.errors import CandidateMemoryError

    match what:
        case "lacks memory":
            raise CandidateMemoryError("out of memory while training")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            Path(os.environ["RANKS_PIDS"], str(os.getpid())).write_text(str(os.getppid()))
            time.sleep(600)


def install():
    if os.environ["RANK"] not in os.environ["RANKS_WHO"]:
        return
    steps, started = int(os.environ.get("RANKS_STEPS", "0")), ranks._started_by_worker
    if not steps:
        ranks._started_by_worker = lambda: started() and act(os.environ["RANKS_DO"])
        return
    from flashnas.training import optimizer

    step_of = optimizer.Optimizers.step

    def step(self, number):
        if number == steps:
            act(os.environ["RANKS_DO"])
        return step_of(self, number)

    optimizer.Optimizers.step = step


if __name__ == "__main__":
    install()
    sys.exit(ranks.main(Path(sys.argv[1])))
