"""The run folder of one search, open for writing. Nothing finished is lost.

trials.parquet is the trajectory in order. Where networks are evaluated, `journal.py` holds what was
decided and each result the moment it ends; a continued run replays the trajectory from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from flashnas.base.documents import fingerprint
from flashnas.base.errors import RunError
from flashnas.base.system import (
    hold_lock,
    reason_of,
    recover_folder,
    write_atomic,
)
from flashnas.base.text import difference, shown
from flashnas.run_folder.journal import RunJournal
from flashnas.run_folder.layout import (
    CONFIG,
    CYCLE_SIZE,
    FORMAT,
    FRONT,
    JOURNAL,
    LOCK,
    TRIALS,
    as_recorded,
    front_path,
    identity_of,
    read_config,
    write_front,
    write_trials,
    yaml_text,
)
from flashnas.trials.trial import STATES, Trial


def started_with(path: Path) -> dict[str, Any]:
    """What a run was started with and goes on with, for `load_problem`: in which type its trainings
    multiply matrices, and its schedule, which 0.3.0 did not record; None where nothing was trained."""
    if not (path / CONFIG).exists():
        return {}
    recorded = read_config(path)
    cycle = (recorded.get("options") or {}).get("cycle_size", CYCLE_SIZE)
    return {
        "dtype": (recorded.get("recipe") or {}).get("dtype"),
        "schedule": recorded.get("schedule", {"start": CYCLE_SIZE, "cycle_size": cycle}),
    }


def check_can_begin(path: Path, *, resume: bool, evaluated: bool = True) -> None:
    """Raise RunError in one line if a run cannot begin in the folder, or go on there with `resume`;
    nothing is created. evaluated: an evaluator of the user's own is at hand."""
    if (path / CONFIG).exists():
        if not resume:
            raise RunError(
                f"{path}: holds a run already; continue it with --resume or choose another --out"
            )
        if (path / FRONT).exists() and not (path / FRONT).is_dir():
            raise RunError(
                f"{path / FRONT}: is a file, and the front of a run is a folder; move the file away"
            )
        evaluator = read_config(path).get("evaluator")
        if not evaluated and evaluator is not None:
            raise RunError(
                f"{path}: its networks were scored by {shown(evaluator)}, which is a"
                f" function and not an option; continue in Python: flashnas.search(resume="
                f"{str(path)!r}, evaluator=THAT_FUNCTION)"
            )
    # all that is there after a disk was full, or a kill
    elif path.exists() and any(
        not place.name.startswith((LOCK, f".{CONFIG}.")) for place in path.iterdir()
    ):
        raise RunError(
            f"{path}: exists and is not a run folder (it has no {CONFIG}); choose another --out"
        )


class RunFolder:
    """The folder of one run, open for writing by one process at a time.

    Args:
        facts: the head of run.yaml.
        asked: names of the options that fix the trajectory.
        resume: a run in the folder may be continued.
        encode: genotype -> Optuna parameters.

    Raises:
        RunError: the folder cannot be used, is busy, answers another question, or has lost finished
            work.
    """

    def __init__(
        self,
        path: Path,
        *,
        facts: dict[str, Any],
        asked: Sequence[str],
        resume: bool,
        encode: Callable[[Any], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = path
        self._encode = encode
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be created: {reason_of(error)}; choose another --out"
            ) from None
        self._lock = hold_lock(
            path / LOCK, RunError(f"{path}: another process is writing this run")
        )
        try:
            check_can_begin(path, resume=resume)
            recorded = read_config(path) if (path / CONFIG).exists() else None
            identity = identity_of(facts, asked)
            before: dict[str, Any] = recorded or {}
            if before and (other := difference(identity_of(before, asked), identity)):
                raise RunError(
                    f"{path / CONFIG}: {other}; choose another --out or the same question"
                )
            self.identity = fingerprint(identity)  # in the first line of the journal
            recover_folder(path / FRONT)
            kept = {name: before[name] for name in ("started", "seconds") if before.get(name)}
            self.config: dict[str, Any] = as_recorded({"format": FORMAT, **facts, **kept})
            self.seconds_before = kept.get("seconds", 0.0)
            self._opened = time.monotonic()
            if recorded is None:  # a journal without it would be no run
                self.write_config()
        except BaseException:
            self.close()
            raise

    def open_journal(self) -> RunJournal:
        """Of the evaluations. Raises RunError where it is damaged or has lost some."""
        journal = RunJournal(self.path / JOURNAL, identity=self.identity)
        journal.check_complete(self.path / TRIALS)
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self.config.get("finished") is None:
                seconds = self.seconds_before + time.monotonic() - self._opened
                self.write_config(seconds=round(seconds, 1))
        self.close()

    def close(self) -> None:
        self._lock.release()

    def write_config(self, **updates: Any) -> None:
        self.config.update(as_recorded(updates))
        write_atomic(self.path / CONFIG, yaml_text(self.config))

    def write_finished(self, seconds: float, totals: dict[str, int]) -> None:
        self.write_config(
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            totals=totals,
            seconds=round(self.seconds_before + seconds, 1),
        )

    def summary(
        self, front: Sequence[Trial], recommended: Trial | None, failures: Mapping[str, int]
    ) -> dict[str, Any]:
        """The object of `search --json` of a run that has ended."""
        config, totals = self.config, self.config["totals"]
        return {
            "run": str(self.path),
            "front": [self._summary_of(trial) for trial in front],
            **({} if recommended is None else {"recommended": self._summary_of(recommended)}),
            **({"answer": config["answer"]} if config.get("answer") is not None else {}),
            "trials": {name: totals[name] for name in STATES},
            "calibration": (config.get("table") or {}).get("calibration"),
            "failures": dict(failures),
            "seconds": config["seconds"],
            **{name: totals[name] for name in totals if name not in STATES},
        }

    def _summary_of(self, trial: Trial) -> dict[str, Any]:
        return {
            "config": str(front_path(self.path, trial)),
            "notation": trial.notation,
            "hash": trial.hash,
            **trial.figures,
            **{
                name: value
                for name in ("missed", "runs_in")
                if (value := getattr(trial, name)) is not None
            },
        }

    def write_trials(self, trials: Sequence[Trial]) -> None:
        if trials:
            write_trials(self.path / TRIALS, trials, self._encode)

    def write_front(self, trials: Sequence[Trial], recommended: Trial | None = None) -> list[Trial]:
        """Replace pareto/ by these trials; returns them with their numbers."""
        return write_front(self.path / FRONT, trials, recommended)
