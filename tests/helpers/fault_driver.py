"""Searches in processes of their own, to be killed; they are forked, so that thirty cost
seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pandas as pd
from foreign_space import Gpt2Space
from slow_space import calls, loss_and_latency

import flashnas.training.trainer  # noqa: F401  (what a worker loads)
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search

LIMIT_S = 240


class Lines:
    """Writes notes."""

    def note(self, text):
        print(text, flush=True)

    def update(self, snapshot):
        pass


def run(out, workers, address=None):
    """Search, or continue what `out` holds. `address`: of a Ray. NSGA-II learns, and needs no
    seconds for a model.
    """
    asked = {
        "table": None,
        "trials": 16,
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


def start_driver(log: Path, out: Path, workers: int, address: str | None = None) -> Any:
    """A search in a process of its own, which writes to `log`."""
    return forks.start(_apart, str(log), out, workers, address)


def trajectory(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def none_left(path: Path) -> bool:
    """No process that evaluated a network is there; `path` holds the calls."""
    deadline = time.monotonic() + 10
    while (left := {pid for _, pid in calls(path) if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def wait_for(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _apart(log, out, workers, address):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    run(out, workers, address)
