"""A run's study for people: a copy in memory with named objectives, readable attributes and notes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from flashnas.architecture.folding import compressed
from flashnas.base.errors import RunError
from flashnas.base.schema import convert
from flashnas.runs.database import recorded_trials
from flashnas.runs.identity import Identity
from flashnas.runs.layout import JOURNAL, NUMBERS
from flashnas.runs.run import RecordedRun, rows
from flashnas.runs.trial import Outcome
from flashnas.search.objectives import larger_is_better, minimised, point

ATTRIBUTES = ("label", *NUMBERS, "reason", "outside")


class StudyView:
    """The study of a run as it is shown. note: writes the note of a study or a trial, as
    `optuna_dashboard.save_note`. Raises RunError if the folder is not a run, or its study cannot be read."""

    def __init__(self, folder: Path, note: Callable[[Any, str], None]) -> None:
        self.run, self._note = RecordedRun.load(folder), note
        self._shown: dict[str, tuple[int, bool]] = {}  # of an outcome, its trial, and whether the run has it
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        names, entry = self.run.objectives, self.run.entry
        self.study = optuna.create_study(
            storage=InMemoryStorage(), study_name=self.run.name,
            directions=["maximize" if larger_is_better(name) else "minimize" for name in names])
        with warnings.catch_warnings():  # Optuna calls it experimental
            warnings.simplefilter("ignore")
            self.study.set_metric_names([f"{name} + sd" if name == "full_loss" else name for name in names])
        note(self.study, f"# {self.run.name}\n\n    {entry('command')}\n\nSpace {entry('space', 'name')},"
                         f" table {entry('table', 'name')}, workload {entry('workload', 'name')}, budgets"
                         f" {entry('budgets')}.\n\nThis is a copy: the run cannot be changed here.")
        self.refresh()

    @property
    def count(self) -> int:
        return len(self._shown)

    def refresh(self) -> None:
        """Add what has ended since the last call, and the figures that the run has of it since then."""
        self.run = RecordedRun.load(self.run.path)
        figures = {row.hash: row._asdict() for row in rows(self.run.trials) if row.state != "reused"}
        name = Identity(self.run.entry("question") or {}).hash
        for trial in recorded_trials(self.run.path / JOURNAL, identity=name):
            outcome = convert(trial.user_attrs.get("outcome"), Outcome,
                              f"{self.run.path}: evaluation {trial.number} is damaged", RunError,
                              name="outcome", finite=False)
            self._add(outcome, trial, {**outcome.fields(), **figures.get(outcome.hash, {})})
        for key, row in figures.items():
            if row["state"] == "expected":
                self._add(Outcome(hash=key, notation=row["notation"], score=None), None, row)

    def _add(self, outcome: Outcome, trial: FrozenTrial | None, figures: dict[str, Any]) -> None:
        number, whole = self._shown.get(outcome.key, (None, False))
        if number is not None and whole >= ("number" in figures):
            return
        names, score, notation = self.run.objectives, outcome.score or {}, outcome.notation
        values = point(names, figures, {}) if trial is None else trial.values
        shown = create_trial(
            state=TrialState.COMPLETE if trial is None else trial.state,
            values=values and [minimised(name, value) for name, value in zip(names, values, strict=True)],
            params={} if trial is None else trial.params,
            distributions={} if trial is None else trial.distributions,
            intermediate_values={int(tokens): loss for tokens, loss in score.get("curve") or ()},
            user_attrs={"architecture": compressed(notation), "hash": outcome.hash, **{
                name: value for name in ATTRIBUTES if (value := figures.get(name)) not in (None, "")
                and value == value}, **({"reason": outcome.reason} if outcome.reason else {})})
        if trial is not None and trial.datetime_complete is not None:  # a search records what has ended
            shown.datetime_complete = trial.datetime_complete
            shown.datetime_start = trial.datetime_complete - timedelta(seconds=score.get("seconds", 0))
        if number is None:
            self.study.add_trial(shown)
            number = self.study.get_trials(deepcopy=False)[-1]._trial_id
        else:
            shown.number = shown._trial_id = number
            self.study._storage._set_trial(number, shown)  # type: ignore[attr-defined]
        self._note(SimpleNamespace(storage=self.study._storage, study=self.study, _trial_id=number),
                   f"**{compressed(notation)}**\n\n`{notation}`")
        self._shown[outcome.key] = number, "number" in figures
