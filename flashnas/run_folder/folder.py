"""The run folder of one search, open for writing. Nothing finished is lost.

trials.parquet is the trajectory in order. Where networks are evaluated, `journal.py` holds what was
decided and each result the moment it ends; a continued run replays the trajectory from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.base.plugins import code_name
from flashnas.base.system import (
    atomic_file,
    atomic_folder,
    hold_lock,
    reason_of,
    recover_folder,
    write_atomic,
    write_synced,
)
from flashnas.base.text import shown
from flashnas.run_folder.front import HELD, ForeignNetwork
from flashnas.run_folder.journal import RunJournal
from flashnas.run_folder.layout import (
    CONFIG,
    FORMAT,
    FRONT,
    JOURNAL,
    LOCK,
    TRIALS,
    Identity,
    TrialsTable,
    as_recorded,
    front_file,
    front_path,
    read_config,
    yaml_text,
)
from flashnas.trials.trial import STATES, Trial

SECONDS_EVERY = 30.0  # how often run.yaml learns the run time, which a kill would lose


def recorded_dtype(path: Path) -> str | None:
    """In which the trainings of a run multiply matrices; None where none is recorded."""
    if not (path / CONFIG).exists():
        return None
    recipe = read_config(path).get("recipe")
    return recipe.get("dtype") if isinstance(recipe, dict) else None


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
        check_can_begin(path, resume=resume)
        self.path = path
        self._table = TrialsTable(encode)
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
            # again: another process may have made a run meanwhile
            check_can_begin(path, resume=resume)
            recorded = read_config(path) if (path / CONFIG).exists() else None
            self.identity = Identity(facts, asked)
            if recorded is not None:
                self.identity.check_same(Identity(recorded, asked), path / CONFIG)
            recover_folder(path / FRONT)
            before: dict[str, Any] = recorded or {}
            self.config = as_recorded(
                {
                    "format": FORMAT,
                    **facts,
                    "started": before.get("started") or facts.get("started"),
                    "seconds": (seconds := before.get("seconds")),
                }
            )
            self.seconds_before = float(seconds) if isinstance(seconds, int | float) else 0.0
            self._opened = self._timed = time.monotonic()
            if recorded is None:  # a journal without it would be no run
                self.write_config()
        except BaseException:
            self.close()
            raise

    def open_journal(self) -> RunJournal:
        """Of the evaluations. Raises RunError where it is damaged or has lost some."""
        journal = RunJournal(self.path / JOURNAL, identity=self.identity.hash)
        journal.check_complete(self.path / TRIALS)
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._write_seconds()
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
        config = self.config
        totals = dict(config["totals"])
        states = {name: totals.pop(name) for name in STATES}
        return {
            "run": str(self.path),
            "front": [self._summary_of(trial) for trial in front],
            **({} if recommended is None else {"recommended": self._summary_of(recommended)}),
            **({"answer": config["answer"]} if config.get("answer") is not None else {}),
            "trials": states,
            "known": totals.pop("known"),
            "calibration": (config.get("table") or {}).get("calibration"),
            "failures": dict(failures),
            "seconds": config["seconds"],
            **totals,
        }

    def _summary_of(self, trial: Trial) -> dict[str, Any]:
        return {
            "config": str(front_path(self.path, trial)),
            "notation": trial.notation,
            "hash": trial.hash,
            **trial.figures,
            **programs_entries(trial),
        }

    def write_trials(self, trials: Sequence[Trial]) -> None:
        if not trials:
            return
        with atomic_file(self.path / TRIALS) as part:
            self._table.write(trials, part)
        if time.monotonic() - self._timed > SECONDS_EVERY:
            self._write_seconds()

    def _write_seconds(self) -> None:
        """Write how long a search that has not ended took so far."""
        if self.config.get("finished") is None:
            self._timed = time.monotonic()
            self.write_config(seconds=round(self.seconds_before + self._timed - self._opened, 1))

    def write_front(self, trials: Sequence[Trial], recommended: Trial | None = None) -> list[Trial]:
        """Replace pareto/ by these trials; returns them with their numbers."""
        return write_front(self.path / FRONT, trials, recommended)


def programs_entries(trial: Trial) -> dict[str, Any]:
    """`missed` and `runs_in`, where they are known."""
    return {
        **({} if trial.missed is None else {"missed": list(trial.missed)}),
        **({} if trial.runs_in is None else {"runs_in": trial.runs_in}),
    }


def write_front(
    folder: Path, trials: Sequence[Trial], recommended: Trial | None = None
) -> list[Trial]:
    """Replace the folder of a front; returns the trials as `read_front` does. recommended: has a
    file of its own, too."""
    numbered = [
        dataclasses.replace(trial, front_number=number)
        for number, trial in enumerate(trials, start=1)
    ]
    with atomic_folder(folder) as fresh:
        for trial in numbered:
            write_synced(front_file(fresh, trial), yaml_text(_entry(trial)))
        if recommended is not None:
            write_synced(front_file(fresh, recommended), yaml_text(_entry(recommended)))
    return [
        Trial(
            architecture=as_recorded_network(trial.architecture),
            **{name: getattr(trial, name) for name in HELD},
        )
        for trial in numbered
    ]


def _entry(trial: Trial) -> dict[str, Any]:
    """What the file of a network holds."""
    network = as_recorded_network(trial.architecture)
    made_by = {"made_by": network.made_by} if isinstance(network, ForeignNetwork) else {}
    return {
        "notation": trial.notation,
        "hash": trial.hash,
        **made_by,
        "architecture": network.to_dict(),
        "figures": trial.figures,
        "sources": trial.sources,
        "origin": {
            "number": trial.number,
            "label": trial.label or "search",
            **({} if trial.origin == "search" else {"origin": trial.origin}),
        },
        **programs_entries(trial),
        "operators_ms": trial.operators_ms,
    }


def as_recorded_network(network: Any) -> Architecture | ForeignNetwork:
    """A network as the front holds it."""
    if isinstance(network, Architecture | ForeignNetwork):
        return network
    made_by = code_name(type(network))
    return ForeignNetwork(made_by, network.notation, network.hash, network.to_dict())
