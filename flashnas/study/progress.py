"""Where a search is, for whoever shows it to a user."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.trials.trial import RUN

if TYPE_CHECKING:
    from flashnas.study.trainings import Trainings


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is.

    done, failed: evaluated networks of this run, baselines included, and of them those that failed.
    known: of `done`, networks whose score an earlier run had. total: networks that the run will
    evaluate, with baselines and known ones. best_loss, best_latency_ms: of the network with the
    lowest loss. share_done: of the trainings, by FLOPs. remaining_s: of the trainings, at the pace so
    far; None before there is one.
    """

    done: int
    failed: int
    total: int
    best_loss: float | None
    best_latency_ms: float | None
    remaining_s: float | None
    known: int = 0
    share_done: float = 0.0


class Progress(Protocol):
    """Shows a run to its user."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def update(self, snapshot: Snapshot) -> None:
        """Where the run is now; called about once a second."""


class Pace:
    """How fast trainings end, by FLOPs, as measured in this process."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self._mean_flops = fmean(trainings.typical_flops)
        self._flops: dict[str, float] = {}  # of the training of each network
        self._begun_s: float | None = None  # when the first one began here, ..
        self._before: set[str] = set()  # .. and what was known then

    def begin(self, results: Collection[str]) -> None:
        """A training may begin now. results: hashes of networks that have one."""
        if self._begun_s is None:
            self._begun_s, self._before = time.monotonic(), set(results)

    def of(
        self, networks: Mapping[str, Any], results: Mapping[str, Any], further: int
    ) -> tuple[float, float | None]:
        """The share that is done, and the seconds that the rest takes; None before a training has
        ended here.

        Args:
            networks: hash -> network, of those that are trained so far or now.
            results: of those that have ended.
            further: networks that are not chosen yet.
        """
        done = here = 0.0
        rest = further * self._mean_flops
        for key, network in networks.items():
            flops = self._flops_of(key, network)
            if (result := results.get(key)) is None:
                rest += flops
            elif result.get("source") != RUN:
                done += flops
                here += 0.0 if key in self._before else flops
        if not rest:
            return 1.0, 0.0
        remaining_s = None
        if self._begun_s is not None and here:
            remaining_s = (time.monotonic() - self._begun_s) * rest / here
        return done / (done + rest), remaining_s

    def _flops_of(self, key: str, network: Any) -> float:
        if key not in self._flops:
            self._flops[key] = self._mean_flops
            with contextlib.suppress(ArchitectureError, OperatorError):  # a failed trial
                self._flops[key] = self.trainings.flops(self.trainings.of(network))
        return self._flops[key]
