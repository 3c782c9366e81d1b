"""Identity: all that fixes the trajectory of a run. A run is continued only under the same identity."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import RunError
from flashnas.base.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The question that a run answers. How it is answered (workers, storage, time limits, number of trials) is not
    part of it.

    bench is the digest of the scores that a bench answers with, start_from of those of earlier runs; None, and left out
    of the record, if there are none.
    table_hash changes with any row or calibration of the table; `margins` are those of the certificate of `confidence`;
    `corpus` is the digest of the prepared text. `evaluator` is the name of the user's function: recipe, data, tokenizer
    and corpus are then None. `rungs` are tokens; `rung_curves` is the digest of a bench's curves from which the
    forecast of final losses learns. They, and `rung_chance`, are left out of the record where there are no rungs.
    `foresight` is the digest of the published trainings, of the planned training and of what short trainings tell.
    """

    space: str
    space_hash: str
    table: str | None
    table_hash: str | None
    mode: str | None
    workload: dict[str, Any] | None
    budgets: dict[str, float]
    confidence: float | None
    margins: dict[str, float] | None
    objectives: tuple[str, ...]
    sampler: str
    sampler_options: dict[str, Any]
    cycle_size: int
    seed: int
    baselines: bool
    recipe: dict[str, Any] | None
    data: str | None
    tokenizer: str | None
    corpus: str | None
    evaluator: str | None
    bench: str | None = None
    rungs: tuple[int, ...] = ()
    rung_chance: float | None = None
    rung_curves: str | None = None
    start_from: str | None = None
    asynchronous: bool = False
    measure_every: int | None = None
    processes_per_candidate: int = 1
    rank_by: str = "short"
    foresight: str | None = None
    min_recall: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as run.yaml records it under `question`."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        for name in ("bench", "start_from", "measure_every", "foresight", "min_recall"):  # as in runs without these
            if getattr(self, name) is None:
                del found[name]
        if not self.asynchronous:
            del found["asynchronous"]
        if self.processes_per_candidate == 1:
            del found["processes_per_candidate"]
        if not self.rungs:
            for name in ("rungs", "rung_chance", "rung_curves"):
                del found[name]
        return found

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits; the name of the run's study in its database."""
        return fingerprint(self.to_dict())

    def check_same(self, recorded: Any, place: str) -> None:
        """Raise RunError naming the first field in which the recorded question differs.

        Args:
            recorded: the entry `question` of a run.yaml.
            place: file and line, for the message.
        """
        if not isinstance(recorded, dict):
            raise RunError(f"{place}: question must be a mapping; got {recorded!r:.60}")
        known, asked = json.loads(json.dumps(recorded, default=str)), self.to_dict()
        for key in (*asked, *sorted(set(known) - set(asked))):
            if asked.get(key) != known.get(key):
                hint = "; the run folder belongs to another space" if key.startswith("space") else (
                    "; the scores of the bench are others than then" if key == "bench" else
                    "; the runs hold other networks than then" if key == "start_from" else "")
                raise RunError(f"{place}: question.{key} is {known.get(key)!r}, but this search asks"
                               f" {asked.get(key)!r}{hint}; choose another --out or the same question")
