"""The processes of a training together, which hang at their start, which imports no torch."""

import os
import sys
import time
from pathlib import Path

from flashnas.training import candidate


def run(job):
    """A job whose processes are these."""
    return candidate.train_together(job, module="hanging_ranks")


def hang():
    Path(os.environ["RANKS_PIDS"], str(os.getpid())).write_text(str(os.getppid()))
    time.sleep(600)


if __name__ == "__main__":
    started = candidate._started_by_worker
    candidate._started_by_worker = lambda: started() and hang()
    sys.exit(candidate.main(Path(sys.argv[1])))
