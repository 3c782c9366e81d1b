"""The processes of a training together, which hang at their start, which imports no torch."""

import os
import sys
import time
from pathlib import Path

from flashnas.training import ranks
from flashnas.training.together import train_together


def run(job):
    """A job whose processes are these."""
    return train_together(job, module="hanging_ranks")


def hang():
    Path(os.environ["RANKS_PIDS"], str(os.getpid())).write_text(str(os.getppid()))
    time.sleep(600)


if __name__ == "__main__":
    started = ranks._started_by_worker
    ranks._started_by_worker = lambda: started() and hang()
    sys.exit(ranks.main(Path(sys.argv[1])))
