"""The journal of a run: lines of JSON, each of which is on the disk before anything follows from it.

    {"format": 4, "identity": "0123456789abcdef"}
    {"decided": [{"hash": .., "notation": ..}, ..]}            before the first of these trainings
    {"ended": hash, "notation": .., "score": {..}, "reason": ""}    score: null for a failure
    {"timed": {hash: {"latency_ms": .., ..}, ..}}              finalists, on the device

The identity is that of the run and not its folder's name: a renamed or copied folder continues. A
last line that a kill left unfinished is dropped; whatever else is damaged is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import append_synced, drop_torn_line, read_json_lines, read_parquet
from flashnas.base.text import shown
from flashnas.run_folder.layout import FORMAT, TRIALS
from flashnas.trials.trial import RUN

# fields of a Trial that a score has by the same name; its `seconds` become `train_seconds`
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


class _Network(TypedDict):
    hash: str


class _Line(TypedDict, total=False):
    """score: as `executors.job.run_job` returns it."""

    decided: list[_Network]
    ended: str
    score: dict[str, Any] | None
    reason: str
    timed: dict[str, dict[str, float]]


class RunJournal:
    """What was decided in a run, and what came of it.

    Args:
        path: the file.
        identity: of the run.

    Attributes:
        results: hash of a network -> the fields of a Trial that its evaluation fills.
        decisions: of earlier processes: the hashes of the networks of each, in order.
        times: hash of a network -> its metrics as timed on the device.

    Raises:
        RunError: the file is damaged, or of another run.
    """

    def __init__(self, path: Path, *, identity: str) -> None:
        self.path = path
        self.results: dict[str, dict[str, Any]] = {}
        self.decisions: list[list[str]] = []
        self.times: dict[str, dict[str, float]] = {}
        head = {"format": FORMAT, "identity": identity}
        try:
            drop_torn_line(path, RunError)
            lines = read_json_lines(path, RunError) if path.exists() else []
            for key, value in head.items() if lines else ():
                if not isinstance(lines[0], dict) or lines[0].get(key) != value:
                    raise RunError(
                        f"{path}:1: must have the {key} {value!r} of this run; got"
                        f" {shown(lines[0])}"
                    )
            for number, line in enumerate(lines[1:], start=2):
                self._read(line, f"{path}:{number}")
        except RunError as error:
            raise RunError(f"{error}; restore the file, or choose another --out") from None
        if not lines:
            self._append(head)

    @property
    def trained(self) -> list[str]:
        """Hashes of the decided networks that have a result of this run, failures among them."""
        every = dict.fromkeys(key for decided in self.decisions for key in decided)
        return [key for key in every if self.results.get(key, {"source": RUN}).get("source") != RUN]

    def decide(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Record the networks of the next trainings, before the first one begins. entries: of each
        `hash` and `notation`, and what else fixes the training."""
        self._append({"decided": [dict(entry) for entry in entries]})

    def remember(
        self, hash: str, notation: str, score: dict[str, Any] | None, reason: str = ""
    ) -> None:
        """Record how an evaluation ended, the moment it does.

        Args:
            score: as `executors.job.run_job` returns it; None for a failure with its `reason`.
        """
        result = result_fields(score, reason)
        self._append({"ended": hash, "notation": notation, "score": score, "reason": reason})
        self.results[hash] = result

    def remember_times(self, times: dict[str, dict[str, float]]) -> None:
        """Record the metrics of networks, by hash, as timed on the device."""
        self._append({"timed": times})
        self.times |= times

    def check_complete(self, trials: Path) -> None:
        """Raise RunError if the journal lacks evaluations that trials.parquet lists."""
        if not trials.exists():
            return
        try:
            listed = read_parquet(trials, RunError, columns=["hash", "state"])
        except RunError as error:
            raise RunError(f"{error}; remove it to have it written again") from None
        evaluated = set(listed.loc[listed["state"].isin(["complete", "failed"]), "hash"])
        if lost := evaluated - set(self.results):
            raise RunError(
                f"{self.path}: lacks {len(lost)} of the {len(evaluated)} evaluations that {TRIALS}"
                " lists, so that they would be made again; restore it, or choose another --out"
            )

    def _append(self, line: Mapping[str, Any]) -> None:
        append_synced(self.path, json.dumps(line))

    def _read(self, line: Any, place: str) -> None:
        entry = convert(line, _Line, place, RunError, finite=False)
        if "decided" in entry:
            self.decisions.append([network["hash"] for network in entry["decided"]])
        self.times |= entry.get("timed", {})
        if "ended" in entry:
            try:
                result = result_fields(entry.get("score"), entry.get("reason", ""))
            except ValueError as error:
                raise RunError(f"{place}: {error}") from None
            self.results[entry["ended"]] = result


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
            raise ValueError(f"score.{name} must be a finite number; got {shown(value)}")
    return {
        "state": "complete",
        "source": "training",
        **score.get("metrics", {}),
        **{name: score[name] for name in SCORED if name in score},
        "train_seconds": score["seconds"],
    }
