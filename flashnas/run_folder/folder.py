"""The run folder of one search, open for writing. Nothing finished is lost.

The database is an Optuna study in a journal, which holds each evaluation the moment it ends, and is
checked line by line before Optuna reads it. Its name is the identity of the run and never the
folder's: a renamed or copied folder continues. trials.parquet is the trajectory in order. A
continued run replays the trajectory and finds its networks in the database.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flashnas.algorithms.trial import STATES, Trial, result_fields
from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import read_json, read_json_lines, read_parquet
from flashnas.base.system import (
    atomic_file,
    drop_torn_line,
    hold_lock,
    reason_of,
    recover_folder,
    uninterrupted,
    write_atomic,
)
from flashnas.base.text import first_line, shown
from flashnas.run_folder.front import front_path, programs_entries, write_front
from flashnas.run_folder.layout import (
    CONFIG,
    FORMAT,
    FRONT,
    JOURNAL,
    LOCK,
    MEASURED,
    TRIALS,
    Identity,
    TrialsTable,
    read_config,
    yaml_text,
)

SECONDS_EVERY = 30.0  # how often run.yaml learns the run time, which a kill would lose


def recorded_dtype(path: Path) -> str | None:
    """In which the trainings of a run multiply matrices; None where none is recorded."""
    if not (path / CONFIG).exists():
        return None
    trained = read_config(path).get("proxy")
    return trained.get("dtype") if isinstance(trained, dict) else None


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
        question = read_config(path).get("question")
        if not evaluated and isinstance(question, dict) and question.get("evaluator") is not None:
            raise RunError(
                f"{path}: its networks were scored by {question['evaluator']!r:.80}, which is a"
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


class _Outcome(TypedDict):
    """What the study keeps of an evaluation. score: as `executors.job.run_job` returns it."""

    hash: str
    notation: str
    score: dict[str, Any] | None
    reason: str


class Database:
    """The results of all evaluations of a run.

    Args:
        journal: the file.
        objectives: their number.

    Attributes:
        results: hash of a network -> the fields of a Trial that its evaluation fills.

    Raises:
        RunError: the journal is damaged.
    """

    def __init__(self, journal: Path, *, identity: str, objectives: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.journal = journal
        _check_journal(journal)
        try:
            storage = JournalStorage(JournalFileBackend(str(journal)))
            # Optuna's lock makes another error of an interrupt while it is released
            with uninterrupted():
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=f"flashnas-{identity}",
                    directions=["minimize"] * objectives,
                    load_if_exists=True,
                )
            trials = self._study.get_trials(deepcopy=False)
        except OSError:
            raise
        except Exception as error:  # Optuna raises KeyError and others by kind of damage
            raise RunError(
                f"{journal}: cannot be opened: {type(error).__name__}: {first_line(error)}"
            ) from None
        self.results: dict[str, dict[str, Any]] = {}
        for trial in trials:
            if trial.state.is_finished():
                place = f"{journal}: evaluation {trial.number} is damaged"
                recorded = trial.user_attrs.get("outcome")
                outcome = convert(recorded, _Outcome, place, RunError, name="outcome", finite=False)
                try:
                    fields = result_fields(outcome["score"], outcome["reason"])
                except ValueError as error:
                    raise RunError(f"{place}: {error}") from None
                self.results.setdefault(outcome["hash"], fields)

    def remember(
        self,
        trial: Trial,
        score: dict[str, Any] | None,
        reason: str,
        *,
        params: Mapping[str, Any],
        distributions: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> None:
        """Record a finished evaluation at once.

        Args:
            trial: the candidate that was evaluated.
            score: as `executors.job.run_job` returns it; None for a failure with its `reason`.
            params: the genotype as Optuna parameters inside `distributions`.
            values: the objectives, all minimised; None for a failure.
        """
        outcome: _Outcome = {
            "hash": trial.hash,
            "notation": trial.notation,
            "score": score,
            "reason": reason,
        }
        record = optuna.trial.create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            values=values,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs={"hash": trial.hash, "notation": trial.notation, "outcome": outcome},
        )
        with uninterrupted():
            self._study.add_trial(record)
        self.results[trial.hash] = result_fields(score, reason)


def _check_journal(journal: Path) -> None:
    """Cut a last line that is unfinished, and remove the lock of a process that was killed, since
    nobody else writes; raise RunError for any other damage, naming the line."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    drop_torn_line(journal, RunError)
    if not journal.exists():
        return
    try:
        for number, entry in enumerate(read_json_lines(journal, RunError), start=1):
            if not isinstance(entry, dict) or "op_code" not in entry:
                raise RunError(
                    f"{journal}:{number}: must be a record of Optuna's journal; got {shown(entry)}"
                )
    except RunError as error:
        raise RunError(f"{error}; restore the file, or choose another --out") from None


class RunFolder:
    """The folder of one run, open for writing by one process at a time.

    Args:
        facts: the head of run.yaml.
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
        identity: Identity,
        facts: dict[str, Any],
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
            if recorded is not None:
                identity.check_same(recorded.get("question"), recorded.place("question"))
            recover_folder(path / FRONT)
            before: dict[str, Any] = recorded or {}
            self.config = {
                "format": FORMAT,
                **facts,
                "started": before.get("started") or facts.get("started"),
                "seconds": (seconds := before.get("seconds")),
                "question": identity.values,
            }
            self.seconds_before = float(seconds) if isinstance(seconds, int | float) else 0.0
            self._opened = self._timed = time.monotonic()
            if recorded is None:  # a journal without it would be no run
                self.write_config()
            self.database = Database(
                path / JOURNAL,
                identity=identity.hash,
                objectives=len(identity.values["objectives"]),
            )
            self._check_complete()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._write_seconds()
        self.close()

    def close(self) -> None:
        self._lock.release()

    def _check_complete(self) -> None:
        """Raise RunError if the database lacks networks that trials.parquet lists."""
        if not (self.path / TRIALS).exists():
            return
        try:
            trials = read_parquet(self.path / TRIALS, RunError, columns=["hash", "state"])
        except RunError as error:
            raise RunError(f"{error}; remove it to have it written again") from None
        evaluated = set(trials.loc[trials["state"].isin(["complete", "failed"]), "hash"])
        if lost := evaluated - set(self.database.results):
            raise RunError(
                f"{self.database.journal}: lacks {len(lost)} of the {len(evaluated)} evaluations"
                f" that {TRIALS} lists, so that they would be made again; restore it, or choose"
                " another --out"
            )

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """Of this run, by hash of the network."""
        path = self.path / MEASURED
        if not path.exists():
            return {}
        try:
            return convert(read_json(path, RunError), dict[str, dict[str, float]], path, RunError)
        except RunError as error:
            raise RunError(f"{error}; remove it to have them timed again") from None

    def remember_measured(self, figures: dict[str, dict[str, float]]) -> None:
        write_atomic(self.path / MEASURED, json.dumps({**self.measured, **figures}, indent=1))

    def write_config(self, **updates: Any) -> None:
        self.config.update(updates)
        write_atomic(self.path / CONFIG, yaml_text(self.config))

    def write_finished(self, seconds: float, totals: dict[str, int]) -> None:
        self.write_config(
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            totals=totals,
            seconds=round(self.seconds_before + seconds, 1),
        )

    def summary(self, front: Sequence[Trial], failures: Mapping[str, int]) -> dict[str, Any]:
        """The object of `search --json` of a run that has ended."""
        config = self.config
        totals = dict(config["totals"])
        states = {name: totals.pop(name) for name in STATES}
        return {
            "run": str(self.path),
            "front": [
                {
                    "config": str(front_path(self.path, trial)),
                    "notation": trial.notation,
                    "hash": trial.hash,
                    **trial.figures,
                    **programs_entries(trial),
                }
                for trial in front
            ],
            **({"answer": config["answer"]} if config.get("answer") is not None else {}),
            "trials": states,
            "known": totals.pop("known"),
            "calibration": (config.get("table") or {}).get("calibration"),
            "failures": dict(failures),
            "seconds": config["seconds"],
            **totals,
        }

    def write_trials(self, trials: Sequence[Trial]) -> None:
        with atomic_file(self.path / TRIALS) as part:
            self._table.write(trials, part)
        if time.monotonic() - self._timed > SECONDS_EVERY:
            self._write_seconds()

    def _write_seconds(self) -> None:
        """Write how long a search that has not ended took so far."""
        if self.config.get("finished") is None:
            self._timed = time.monotonic()
            self.write_config(seconds=round(self.seconds_before + self._timed - self._opened, 1))

    def write_front(self, trials: Sequence[Trial]) -> list[Trial]:
        """Replace pareto/ by these trials; returns them with their numbers."""
        return write_front(self.path / FRONT, trials)
