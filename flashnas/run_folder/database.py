"""The database of a run: an Optuna study in a journal, which holds each evaluation the moment it
ends, and is checked line by line before Optuna reads it. Its name is the identity of the run and
never the folder's: a renamed or copied folder continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import read_parquet
from flashnas.base.json_lines import drop_torn_line, read_json_lines
from flashnas.base.process import uninterrupted
from flashnas.base.text import first_line, shown
from flashnas.run_folder.layout import TRIALS
from flashnas.trials.trial import Trial

# fields that a score has by the same name; its `seconds` become `train_seconds`
SCORED = (
    "loss",
    "bits_per_byte",
    "curve",
    "scores",
    "proxy_params",
    "tokens",
    "tokens_per_s",
    "seed",
    "backends",
    "source",
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


def check_complete(database: Database, trials: Path) -> None:
    """Raise RunError if the database lacks networks that trials.parquet lists."""
    if not trials.exists():
        return
    try:
        listed = read_parquet(trials, RunError, columns=["hash", "state"])
    except RunError as error:
        raise RunError(f"{error}; remove it to have it written again") from None
    evaluated = set(listed.loc[listed["state"].isin(["complete", "failed"]), "hash"])
    if lost := evaluated - set(database.results):
        raise RunError(
            f"{database.journal}: lacks {len(lost)} of the {len(evaluated)} evaluations that"
            f" {TRIALS} lists, so that they would be made again; restore it, or choose another"
            " --out"
        )


def result_fields(score: Mapping[str, Any] | None, reason: str = "") -> dict[str, Any]:
    """The fields of a Trial that its evaluation fills.

    Args:
        score: as `executors.job.run_job` returns it; None for a failure.
        reason: of the failure.

    Raises:
        ValueError: the score lacks a finite loss or its seconds.
    """
    if score is None:
        return {"state": "failed", "reason": reason}
    for name in ("loss", "seconds"):
        value = score.get(name)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise ValueError(f"outcome.score.{name} must be a number; got {value!r:.60}")
    return {
        "state": "complete",
        "source": "training",
        **score.get("metrics", {}),
        **{name: score[name] for name in SCORED if name in score},
        "train_seconds": score["seconds"],
    }
