"""Searches in processes of their own, to be killed; they are forked, so that thirty cost
seconds.
"""

import os
import time
from pathlib import Path

import forks
from foreign_space import Gpt2Space
from slow_space import calls, loss_and_latency

import flashnas.training.trainer  # noqa: F401  (what a worker loads)
from flashnas.study.config import SearchConfig
from flashnas.study.run_search import run_search

LIMIT_S = 240


class Lines:
    """Writes notes."""

    def note(self, text):
        print(text, flush=True)

    def update(self, snapshot):
        pass


def run(out, workers, address=None, trials=16):
    """Search, or continue what `out` holds. `address`: of a Ray. NSGA-II learns, and needs no
    seconds for a model.
    """
    asked = {
        "table": None,
        "trials": trials,
        "cycle_size": 4,
        "workers": workers,
        "seed": 5,
        "sampler": "nsga2",
    }
    if address:
        asked |= {"executor": "ray", "executor_options": {"address": address}}
    run_search(
        SearchConfig(**asked),
        Path(out),
        resume=True,
        progress=Lines(),
        evaluator=loss_and_latency,
        space=Gpt2Space(),
    )


def start_driver(log, out, *asked):
    """A search in a process of its own, which writes to `log`; `asked`: as of `run`."""
    return forks.start(_apart, str(log), out, *asked)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended before it was read
        return False


def none_left(path):
    """No process that evaluated a network is there; `path` holds the calls."""
    deadline = time.monotonic() + 10
    while (left := {pid for _, pid in calls(path) if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def wait_for(condition, limit_s=LIMIT_S):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _apart(log, out, *asked):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    run(out, *asked)
