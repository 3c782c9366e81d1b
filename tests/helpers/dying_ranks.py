"""The processes of a training together, of which one does what RANKS_DO says after two steps."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from flashnas.proxy.ranks import main
from flashnas.proxy.together import train_together

STEPS = 2


def run(job):
    """A job whose processes are these."""
    return train_together(job, module="dying_ranks")


def act(what):
    from flashnas.base.errors import CandidateMemoryError

    match what:
        case "lacks memory":
            raise CandidateMemoryError("out of memory while training")
        case "diverges":
            from flashnas.base.errors import CandidateError

            raise CandidateError("training loss became nan after 256 tokens")
        case "typo":
            return undefined_name  # noqa: F821
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            Path(os.environ["RANKS_PIDS"], str(os.getpid())).write_text(str(os.getppid()))
            time.sleep(600)


def install():
    from flashnas.training import optimizer

    step_of = optimizer.Optimizers.step

    def step(self, number):
        if number == STEPS and os.environ["RANK"] in os.environ["RANKS_WHO"]:
            act(os.environ["RANKS_DO"])
        return step_of(self, number)

    optimizer.Optimizers.step = step


if __name__ == "__main__":
    install()
    sys.exit(main(Path(sys.argv[1])))
