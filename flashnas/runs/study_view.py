"""A run's study for people: a copy in memory with named objectives, readable attributes and notes.

The study itself is only read: of the journal a copy of its whole lines, of another database its trials. What
a dashboard changes is changed in the copy in memory and nowhere else.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from flashnas.architecture.folding import compressed
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.files import complete_lines
from flashnas.base.foreign import MAX_JOURNAL_MB, read_text
from flashnas.base.hints import first_line
from flashnas.base.schema import convert
from flashnas.runs.identity import Identity
from flashnas.runs.layout import JOURNAL
from flashnas.runs.outage import engine_url, shown_url
from flashnas.runs.run import RecordedRun, rows
from flashnas.runs.trial import Outcome
from flashnas.search.objectives import larger_is_better, minimised, point

# of a trial, in the order in which they are shown
ATTRIBUTES = ("label", "loss", "bits_per_byte", "full_loss", "full_loss_sd", "expected_loss",
              "expected_recall", "latency_ms", "lower_ms", "upper_ms", "ttft_ms", "tpot_ms",
              "throughput_tok_s", "memory_gb", "params", "tokens", "train_seconds", "reason", "outside")

Note = Callable[[Any, str], None]     # of a study or a trial, as `optuna_dashboard.save_note`


class StudyView:
    """The study of a run as it is shown.

    Args:
        folder: the run folder.
        url: the database of the search, where it was given one.
        note: writes the note of a study or a trial.

    Raises:
        RunError: the folder is not a run, or its study cannot be read.
    """

    def __init__(self, folder: Path, url: str | None, note: Note) -> None:
        self.run, self._url, self._note = RecordedRun.load(folder), url, note
        self.storage = InMemoryStorage()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        names = self.run.objectives
        self.study = optuna.create_study(storage=self.storage, study_name=self.run.name, directions=[
            "maximize" if larger_is_better(name) else "minimize" for name in names])
        with warnings.catch_warnings():  # of an experimental function, and of short trainings' curves
            warnings.simplefilter("ignore")
            self.study.set_metric_names([f"{name} + sd" if name == "full_loss" else name for name in names])
        self._places: dict[str, int] = {}      # trial of the view by key
        self._noted: dict[str, str] = {}
        self._note(self.study, self._head())
        self.refresh()

    def refresh(self) -> int:
        """Add what has ended since the last call; returns the number of trials that are shown."""
        self.run = RecordedRun.load(self.run.path)
        figures = {row.hash: row for row in rows(self.run.trials) if row.state != "reused"}
        for trial in self._recorded():
            outcome = convert(trial.user_attrs.get("outcome"), Outcome,
                              f"{self.run.path}: evaluation {trial.number} is damaged", RunError,
                              name="outcome", finite=False)
            if outcome.key not in self._places:
                self._add(outcome, trial, figures.get(outcome.hash))
        for row in figures.values():
            if row.state == "expected" and row.hash not in self._places:
                self._add(Outcome(hash=row.hash, notation=row.notation, score=None), None, row)
            elif row.hash in self._places:
                self._write_note(row.hash, row.notation, row)
        return len(self._places)

    def _add(self, outcome: Outcome, trial: FrozenTrial | None, row: Any | None) -> None:
        names = self.run.objectives
        values = trial.values if trial is not None else point(names, row._asdict(), {})
        score = outcome.score or {}
        state = TrialState.COMPLETE if values is not None else TrialState.FAIL if trial is None else trial.state
        known = {**outcome.fields(), **({} if row is None else row._asdict())}
        attributes = {name: known[name] for name in ATTRIBUTES
                      if known.get(name) not in (None, "") and known[name] == known[name]}
        if outcome.reason:
            attributes["reason"] = outcome.reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shown = create_trial(
                state=state, params={} if trial is None else trial.params,
                values=None if values is None else [minimised(n, v) for n, v in zip(names, values, strict=True)],
                distributions={} if trial is None else trial.distributions,
                intermediate_values={int(tokens): loss for tokens, loss in score.get("curve") or ()},
                user_attrs={"architecture": compressed(outcome.notation), **attributes, "hash": outcome.hash})
            if trial is not None and trial.datetime_complete is not None:  # a search records what has ended
                shown.datetime_complete = trial.datetime_complete
                shown.datetime_start = trial.datetime_complete - timedelta(seconds=score.get("seconds", 0))
            self.study.add_trial(shown)
        self._places[outcome.key] = len(self._places)
        self._write_note(outcome.key, outcome.notation, row)

    def _recorded(self) -> list[FrozenTrial]:
        """The trials that the search has recorded, in the order of completion."""
        name = f"flashnas-{Identity(self.run.entry('question') or {}).hash}"
        place = str(self.run.path / JOURNAL) if self._url is None else f"storage {shown_url(self._url)}"
        with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
            try:
                storage: Any = None if self._url is None else engine_url(self._url)
                if storage is None:
                    copy = Path(folder) / JOURNAL
                    copy.write_text(complete_lines(read_text(self.run.path / JOURNAL, RunError,
                                                             max_mb=MAX_JOURNAL_MB)))
                    storage = JournalStorage(JournalFileBackend(str(copy)))
                study = optuna.load_study(study_name=name, storage=storage)
                return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            except FlashnasError:
                raise
            except Exception as error:  # Optuna raises KeyError and others by kind of damage
                hint = "" if self._url else "; a search with --storage is shown with the same --storage"
                raise RunError(f"{place}: the study of this run cannot be read: {type(error).__name__}:"
                               f" {first_line(error)}{hint}") from None

    def _write_note(self, key: str, notation: str, row: Any | None) -> None:
        """The architecture and its figures, once for each state of these."""
        lines = [f"**{compressed(notation)}**", "", f"`{notation}`"]
        if row is not None:
            place = self.run.finalists[1].get(row.hash)
            lines += [] if place is None else ["", f"On the front: {self.run.front[place].name}"]
            figures = {name: value for name, value in row._asdict().items()
                       if name in ATTRIBUTES and value not in (None, "") and value == value}
            lines += ["", "| figure | value |", "|---|---|", *(
                f"| {name} | {value if isinstance(value, str) else f'{value:,.0f}' if value >= 1e4 else f'{value:.5g}'} |"
                for name, value in figures.items())]
        text = "\n".join(lines)
        if self._noted.get(key) != text:
            self._noted[key] = text
            number = self._places[key]
            self._note(SimpleNamespace(storage=self.storage, study=self.study,
                                       _trial_id=self.study.get_trials(deepcopy=False)[number]._trial_id), text)

    def _head(self) -> str:
        """The note of the study: what was asked."""
        entry = self.run.entry
        return "\n".join([f"# {self.run.name}", "", f"    {entry('command') or 'flashnas.search'}", "",
                          f"Space {entry('space', 'name')}, table {entry('table', 'name')}, workload"
                          f" {entry('workload', 'name')}, budgets {entry('budgets')}.", "",
                          "This is a copy: the run itself cannot be changed here."])
