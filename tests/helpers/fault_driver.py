"""Searches and workers in processes of their own, to be killed; they are forked, so that thirty cost seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import forks
from slow_space import NamedSpace, loss_and_latency

import flashnas.training.trainer  # noqa: F401  (what a worker loads)
from flashnas.cli.main import main
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search


class Lines:
    """Writes notes, and once that the search has opened its folder and its database."""

    said = False

    def note(self, text):
        print(text, flush=True)

    def update(self, snapshot):
        if not self.said:
            print(f"driver {os.getpid()} runs", flush=True)
        self.said = True


def question(workers, url=None, **more):
    asked = {"table": None, "trials": 16, "cycle_size": 4, "workers": workers, "seed": 5, **more}
    if url:
        asked |= {"executor": "storage", "storage": url, "executor_options": {"stale_s": 3.0}}
    return SearchConfig(**asked)


def run(out, workers, url=None, **more):
    """Search, or continue what `out` holds."""
    run_search(question(workers, url, **more), Path(out), resume=True, progress=Lines(), evaluator=loss_and_latency,
               space=NamedSpace())


def start_driver(log: Path, out: Path, workers: int, url: str | None = None) -> Any:
    """A search in a process of its own, which writes to `log`."""
    return _started(log, run, out, workers, url)


def start_worker(log: Path, url: str) -> Any:
    """`flashnas worker` in a process of its own."""
    return _started(log, main, ["worker", "--storage", url, "--workers", "1", "--evaluator",
                                "slow_space:loss_and_latency"])


def _started(log, function, *words):
    return forks.start(_apart, str(log), function, words)


def _apart(log, function, words):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(function(*words))
