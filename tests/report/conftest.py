"""Run folders for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_builder import make_trials, write_run

from flashnas.report import Run
from flashnas.study.trial import Trial


@pytest.fixture
def build_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder of `count` trials; `reason` is what failed ones state."""
    def build(count: int = 40, *, reason: str = "loss is not finite at step 31", trials: list[Trial] | None = None,
              **options: Any) -> Path:
        return write_run(tmp_path / "demo", make_trials(count, reason) if trials is None else trials, **options)
    return build


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", make_trials())


@pytest.fixture(scope="session")
def run(run_folder: Path) -> Run:
    return Run.load(run_folder)
