"""The record of a run: its trials in their order, and what their evaluations ended with."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.runs.folder import RunFolder
from flashnas.runs.snapshot import Progress, Snapshot
from flashnas.runs.trial import Origin, Outcome, State, Trial
from flashnas.search.algorithm import Evaluation
from flashnas.search.objectives import FULL, point
from flashnas.study.clock import Clock, training_plan
from flashnas.study.problem import Problem

REPORT_SHARE = 20  # a report is not repeated before so many times the time that it took, ..
QUICK_S = 0.002  # .. unless that was less than this


@dataclass(eq=False)
class Candidate:
    """A network on its way to a trial.

    network: None where no width meets the budgets. genotype: what the algorithm learns it by; None
    for a baseline. cycle: its number; 0 for what nobody proposed. pending: the algorithm waits for
    it; else it learns of it as of a candidate from elsewhere.
    """

    origin: Origin
    label: str
    network: Any | None
    genotype: Any | None = None
    cycle: int = 0
    pending: bool = False
    trial: Trial | None = None

    @property
    def key(self) -> str:
        assert self.network is not None
        hashed: str = self.network.hash
        return hashed


class Record:
    """The trials and outcomes of one run.

    networks: by hash, all that were met so far. placed: hashes with a trial. cycles: drawn so far.
    searched: trials that were new; evaluated: those of them that cost an evaluation.
    """

    def __init__(
        self, problem: Problem, folder: RunFolder, progress: Progress, workers: int
    ) -> None:
        self.problem, self.folder, self.progress = problem, folder, progress
        self.outcomes = folder.database.outcomes
        self.trials: list[Trial] = []
        self.networks: dict[str, Any] = {}
        self.placed: set[str] = set()
        self.cycles = self.searched = self.evaluated = 0
        self.clock = Clock(training_plan(problem, workers))
        self._distributions = problem.space.distributions()
        self._total = problem.config.trials + len(problem.new_baselines)
        self._next_report = 0.0

    # -- evaluations -------------------------------------------------------------------------------

    def remember(
        self, candidate: Candidate, score: dict[str, Any] | None, reason: str = ""
    ) -> None:
        """Record how an evaluation ended; with the genotype of the candidate if the search proposed
        it.
        """
        network, costs, space = candidate.network, self.problem.costs, self.problem.space
        assert network is not None
        outcome = Outcome(hash=network.hash, notation=network.notation, score=score, reason=reason)
        given = (score or {}).get("metrics", {})
        if costs.known and (twice := sorted(set(given) & set(costs.metrics(network)))):
            raise ConfigError(
                f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                " gives; leave it out, or search with table=None"
            )
        with_params = (
            candidate.origin == "search" and bool(self._distributions) and not outcome.from_bench
        )
        self.folder.database.remember(
            outcome,
            distributions=self._distributions if with_params else {},
            params=space.encode(candidate.genotype) if with_params else {},
            values=None
            if score is None
            else point(self.problem.config.objectives, self._figures(network, outcome)),
        )

    def _figures(self, network: Any, outcome: Outcome | None) -> dict[str, Any]:
        """The fields of a Trial that costs, evaluation and published trainings fill."""
        fields = {} if outcome is None else outcome.fields()
        return {
            **self.problem.costs.metrics(network),
            **fields,
            **self.problem.expected_figures(network, fields.get("loss")),
        }

    # -- trials ------------------------------------------------------------------------------------

    def place(self, candidate: Candidate) -> Trial:
        """The candidate as the next trial."""
        network = candidate.network
        common: dict[str, Any] = {
            "number": len(self.trials),
            "cycle": candidate.cycle,
            "origin": candidate.origin,
            "label": candidate.label,
            "genotype": {}
            if candidate.genotype is None
            else self.problem.space.encode(candidate.genotype),
        }
        if network is None:
            trial = Trial(
                **common, state="infeasible", reason="no width of the space meets the budgets"
            )
        else:
            outcome = self.outcomes.get(network.hash)
            state: State = (
                "reused"
                if network.hash in self.placed
                else "expected"
                if outcome is None
                else "complete"
                if outcome.score
                else "failed"
            )
            figures = self._figures(network, outcome)
            if figures.get("params") is not None:
                figures["params"] = int(figures["params"])
            trial = Trial(
                **common,
                state=state,
                reason="" if outcome is None else outcome.reason,
                notation=network.notation,
                hash=network.hash,
                hidden=getattr(network, "hidden", None),
                **figures,
            )
            self.placed.add(network.hash)
        candidate.trial = trial
        self.trials.append(trial)
        if candidate.origin == "search":
            new = trial.state in ("complete", "failed")
            self.searched += new
            self.evaluated += new and not trial.from_bench
        return trial

    def values_of(self, trial: Trial) -> tuple[float, ...] | None:
        """As they are compared, or None."""
        return point(self.problem.config.objectives, vars(trial))

    def evaluation(self, candidate: Candidate) -> Evaluation:
        """The trial of a candidate as the algorithms see it, with everything minimised."""
        trial = candidate.trial
        assert trial is not None
        values = self.values_of(trial)
        return Evaluation(
            genotype=candidate.genotype,
            architecture=candidate.network,
            feasible=candidate.network is not None,
            loss=None if values is None else values[0],
            latency_ms=trial.latency_ms,
            failed=values is None,
            values=values,
        )

    def write(self) -> None:
        self.folder.write_trials(self.trials)

    def best_value(self) -> float | None:
        """The lowest value that ranks, of the trials that keep the floor for recall; None without
        one."""
        floor = self.problem.config.recall_floor
        values = [
            values[0]
            for trial in self.trials
            if (trial.expected_recall or 0.0) >= floor
            and (values := self.values_of(trial)) is not None
        ]
        return min(values, default=None)

    # -- what came of it ---------------------------------------------------------------------------

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(
            Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common()
        )

    def tokens(self) -> int:
        """Training tokens of this run that were computed for a recorded score."""
        return sum(
            int(outcome.score.get("tokens") or 0)
            for outcome in self.outcomes.values()
            if outcome.hash in self.placed and outcome.score is not None and not outcome.from_bench
        )

    def report(self, *, now: bool = False) -> None:
        """Show where the run is; rarely where there is much to count, unless it has to be now."""
        started = time.monotonic()
        if now or started >= self._next_report:
            self.progress.update(self._snapshot())
            ended = time.monotonic()
            took_s = ended - started
            self._next_report = ended + REPORT_SHARE * took_s if took_s > QUICK_S else 0.0

    def _snapshot(self) -> Snapshot:
        ended = {key: self.outcomes[key] for key in self.networks if key in self.outcomes}
        scores = {key: outcome.score for key, outcome in ended.items() if outcome.score is not None}
        from_bench = sum(outcome.from_bench for outcome in ended.values())
        total = max(self._total + from_bench, len(ended))
        self._set_clock(total - len(ended))
        best = self._best(scores)
        latency_ms = (
            None
            if best is None
            else {
                **self.problem.costs.metrics(self.networks[best]),
                **scores[best].get("metrics", {}),
            }.get("latency_ms")
        )
        return Snapshot(
            done=len(scores),
            failed=len(ended) - len(scores),
            reused=self.count("reused"),
            infeasible=self.count("infeasible"),
            total=total,
            from_bench=from_bench,
            best_loss=None if best is None else scores[best]["loss"],
            best_latency_ms=latency_ms,
            remaining_s=self.clock.remaining_s,
            share_done=self.clock.share_done,
        )

    def _best(self, scores: Mapping[str, dict[str, Any]]) -> str | None:
        quality, keeping = {}, []
        for key, score in scores.items():
            figures = self.problem.expected_figures(self.networks[key], score["loss"])
            quality[key] = point([FULL], figures) or (score["loss"],)
            if figures.get("expected_recall", 0.0) >= self.problem.config.recall_floor:
                keeping.append(key)
        return min(keeping or quality, key=lambda key: quality[key], default=None)

    def _set_clock(self, left: int) -> None:
        """left: networks that have not ended."""
        expected_s = self.problem.time_limit.expected_s
        done = [
            (expected_s(self.networks[outcome.hash]), float(outcome.score["seconds"]))
            for outcome in self.outcomes.values()
            if outcome.hash in self.networks
            and outcome.score is not None
            and not outcome.from_bench
        ]
        drawn = [
            expected_s(network)
            for key, network in self.networks.items()
            if key not in self.outcomes
        ]
        self.clock.update(done=done, drawn=drawn, candidates=max(left - len(drawn), 0))
