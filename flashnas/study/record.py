"""The record of a run: its trials in their order, and what their evaluations ended with."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.executors.job import Job
from flashnas.runs.folder import RunFolder
from flashnas.runs.snapshot import Progress, Snapshot
from flashnas.runs.trial import Origin, Outcome, State, Trial, outcome_key
from flashnas.search.algorithm import Evaluation
from flashnas.search.objectives import FULL, point
from flashnas.study.clock import Clock, front_size, training_plan
from flashnas.study.question import Question

REPORT_SHARE = 20        # a report is not repeated before so many times the time that it took, ..
QUICK_S = 0.002          # .. unless that was less than this


@dataclass(eq=False)
class Candidate:
    """A network on its way to a trial.

    network: None where no width meets the budgets. genotype: what the algorithm learns it by; None for a
    baseline. number: of its cycle, or of the proposal in a search without cycles; 0 for what nobody proposed.
    pending: the algorithm waits for it; else it learns of it as of a candidate from elsewhere. place: of its
    trial.
    """

    origin: Origin
    label: str
    network: Any | None
    genotype: Any | None = None
    number: int = 0
    pending: bool = False
    place: int | None = None

    @property
    def key(self) -> str:
        assert self.network is not None
        hashed: str = self.network.hash
        return hashed


@dataclass(frozen=True)
class Stopped:
    """A training that was not continued: the tokens after which it paused, and the forecast there."""

    rung: int
    expected_loss: float
    expected_loss_sd: float


class Record:
    """The trials and outcomes of one run.

    trials, candidates: in one order. networks: by hash, all that were met so far. stopped: by hash. placed:
    hashes with a trial. searching: False once the front has its further seeds, of which seeds_left are to
    come. finished: of the completed networks the objectives, and the curve if it was trained here, in the
    order of completion as decisions see it.
    """

    def __init__(self, question: Question, folder: RunFolder, progress: Progress, workers: int) -> None:
        self.question, self.folder, self.progress = question, folder, progress
        self.outcomes = folder.database.outcomes
        self.trials: list[Trial] = []
        self.candidates: list[Candidate] = []
        self.networks: dict[str, Any] = {}
        self.stopped: dict[str, Stopped] = {}
        self.placed: set[str] = set()
        self.finished: dict[str, tuple[tuple[float, ...], Any]] = {}
        self.searched = self.evaluated = self.seeds_left = 0
        self.searching = True
        self.clock = Clock(training_plan(question, workers))
        self._distributions = question.space.distributions()
        self._total = question.config.trials + len(question.new_baselines)
        self._checkpoints_fail, self._next_report = False, 0.0

    # -- evaluations -----------------------------------------------------------------------------------------

    def job(self, candidate: Candidate, rung: int | None) -> Job:
        """The training of a candidate to a rung, or to its end, from where it paused before."""
        job, rungs = self.question.job(candidate.network), self.question.rungs.tokens
        if not rungs or candidate.origin != "search":
            return job
        if job.evaluator is None:
            job = dataclasses.replace(job, checkpoints=str(self.folder.checkpoints_of(candidate.key)))
        paused = (self.outcomes.get(outcome_key(candidate.key, rung=passed)) for passed in rungs)
        curves = [outcome.score["curve"] for outcome in paused if outcome and outcome.score]
        return dataclasses.replace(job, pause_tokens=rung or 0, curve=tuple(
            (int(tokens), float(loss)) for tokens, loss in curves[-1]) if curves else ())

    def remember(self, network: Any, score: dict[str, Any] | None, reason: str = "", *,
                 rung: int | None = None, seed: int | None = None,
                 candidate: Candidate | None = None) -> None:
        """Record how an evaluation ended, or that it paused at a rung, as an Outcome; with the genotype of
        the candidate if the search proposed it."""
        outcome = Outcome(hash=network.hash, notation=network.notation, score=score, reason=reason,
                          rung=None if score is None else rung, seed=seed)
        costs = self.question.costs
        given = (score or {}).get("metrics", {})
        if costs.known and (twice := sorted(set(given) & set(costs.metrics(network)))):
            raise ConfigError(f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                              " gives; leave it out, or search with table=None")
        if outcome.rung is not None and score:
            problem = score.get("checkpoint_problem", "")
            if problem and not self._checkpoints_fail:  # once, until one is written again
                self.progress.note("checkpoints cannot be written, so that paused trainings start again:"
                                   f" {problem}")
            self._checkpoints_fail = bool(problem)
        with_params = (candidate is not None and candidate.origin == "search" and bool(self._distributions)
                       and outcome.rung is None and not outcome.from_bench)
        self.folder.database.remember(
            outcome, distributions=self._distributions if with_params else {},
            params=self.question.space.encode(candidate.genotype) if candidate and with_params else {},
            values=None if score is None or outcome.rung is not None else
            point(self.question.config.objectives, self._figures(network, outcome),
                  outcome.fields().get("scores", {})))

    def _figures(self, network: Any, outcome: Outcome | None) -> dict[str, Any]:
        """The fields of a Trial that costs, evaluation and forecasts fill."""
        fields = {} if outcome is None else outcome.fields()
        return {**self.question.costs.metrics(network), **fields,
                **self.question.foresee(network, fields.get("loss"))}

    def point_of(self, key: str, loss: float) -> tuple[float, ...]:
        """The objectives of a network with this loss, which comes first."""
        values = point(self.question.config.objectives,
                       {**self.question.costs.metrics(self.networks[key]), "loss": loss}, {})
        assert values is not None, "with rungs, all objectives but the loss are known"
        return values

    # -- trials ----------------------------------------------------------------------------------------------

    def place(self, candidate: Candidate) -> Trial:
        """The candidate as the next trial, or in the place of an earlier trial of itself."""
        network, again = candidate.network, candidate.place is not None
        number = len(self.trials) if candidate.place is None else candidate.place
        common: dict[str, Any] = {
            "number": number, "cycle": candidate.number, "origin": candidate.origin, "label": candidate.label,
            "genotype": {} if candidate.genotype is None else self.question.space.encode(candidate.genotype)}
        if network is None:
            trial = Trial(**common, state="infeasible", reason="no width of the space meets the budgets")
        else:
            stopped = self.stopped.get(network.hash)
            rung = None if stopped is None else stopped.rung
            outcome = self.outcomes.get(outcome_key(network.hash, rung=rung))
            state: State = ("reused" if network.hash in self.placed and not again else
                            "stopped" if stopped is not None else "expected" if outcome is None else
                            "complete" if outcome.score else "failed")
            figures = self._figures(network, outcome)
            if stopped is not None:
                figures.update(loss=None, bits_per_byte=None, expected_loss=stopped.expected_loss,
                               expected_loss_sd=stopped.expected_loss_sd)
            if figures.get("params") is not None:
                figures["params"] = int(figures["params"])
            trial = Trial(**common, state=state, reason="" if outcome is None else outcome.reason,
                          notation=network.notation, hash=network.hash,
                          hidden=getattr(network, "hidden", None), **figures)
            self.placed.add(network.hash)
            if state == "complete" and self.question.rungs.tokens and trial.loss is not None:
                self.finished[network.hash] = (self.point_of(network.hash, trial.loss),
                                               None if trial.from_bench else trial.curve)
        if again:
            self.trials[number] = trial
            return trial
        candidate.place = number
        self.trials.append(trial)
        self.candidates.append(candidate)
        if candidate.origin == "search":
            new = trial.state in ("complete", "stopped", "failed")
            self.searched += new
            self.evaluated += new and not trial.from_bench
        return trial

    def values_of(self, trial: Trial, **figures: Any) -> tuple[float, ...] | None:
        """As they are compared, or None. figures: in place of its own."""
        return point(self.question.config.objectives, {**vars(trial), **figures}, trial.scores)

    def evaluation(self, candidate: Candidate) -> Evaluation:
        """The trial of a candidate as the algorithms see it, with everything minimised. Of a stopped training
        they learn the final loss that was expected."""
        assert candidate.place is not None
        trial = self.trials[candidate.place]
        loss = trial.loss if trial.expected_loss is None else trial.expected_loss
        values = self.values_of(trial, loss=loss)
        return Evaluation(genotype=candidate.genotype, architecture=candidate.network,
                          feasible=candidate.network is not None, loss=None if values is None else values[0],
                          latency_ms=trial.latency_ms, failed=values is None, values=values)

    def cost_again(self) -> None:
        for place, trial in enumerate(self.trials):
            if trial.hash in self.networks:
                metrics: dict[str, Any] = {**self.question.costs.metrics(self.networks[trial.hash]),
                                           "params": trial.params}
                self.trials[place] = dataclasses.replace(trial, **metrics)
        self.finished = {key: (self.point_of(key, values[0]), curve)
                         for key, (values, curve) in self.finished.items()}
        self.write()

    def write(self) -> None:
        self.folder.write_trials(self.trials)

    def time(self, hashes: Sequence[str]) -> None:
        """Time the networks that were not timed yet, where the table's device is at hand."""
        model, timing, timed = self.question.model, self.question.timing, self.folder.measured
        networks = [self.networks[key] for key in hashes if key not in timed]
        if model is None or timing is None or not networks:
            return
        from flashnas.profiling.finalists import measure_finalists  # loads torch

        self.progress.note(f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
                           f" {model.table.device.label}")
        self.folder.remember_measured(measure_finalists(networks, model, timing, self.progress.note))

    # -- what came of it -------------------------------------------------------------------------------------

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common())

    def tokens(self) -> dict[str, int]:
        """Training tokens of this run that were computed for a recorded score: `tokens`, all of them; of
        these `tokens_repeated`, because a training did not find its checkpoint, `tokens_tasks`, on synthetic
        tasks, and `tokens_seeds`, for further seeds, with their tasks. `tokens_saved`: those that the stopped
        trainings would have needed. A failed training counts up to its last rung. An evaluator's fidelities
        count once, since nobody knows how it continues."""
        parts: dict[str, list[tuple[int, int | None]]] = {}
        of_tasks = of_seeds = repeated = trained = 0
        for outcome in self.outcomes.values():
            if outcome.hash not in self.placed or outcome.score is None or outcome.from_bench:
                continue
            reached, on_tasks = (int(outcome.score.get(name) or 0) for name in ("tokens", "task_tokens"))
            of_tasks += on_tasks
            of_seeds += 0 if outcome.seed is None else reached + on_tasks
            parts.setdefault(outcome_key(outcome.hash, seed=outcome.seed), []).append(
                (reached, outcome.score.get("begun_tokens")))
        for of_training in parts.values():
            before = 0
            for reached, begun in sorted(of_training, key=lambda part: part[0]):
                again = 0 if begun is None else max(before - int(begun), 0)
                trained, repeated, before = trained + reached - before + again, repeated + again, reached
        saved = sum(self.question.rungs.whole - stopped.rung for stopped in self.stopped.values())
        return {"tokens": trained + of_tasks, "tokens_repeated": repeated, "tokens_tasks": of_tasks,
                "tokens_seeds": of_seeds, "tokens_saved": saved}

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
        rungs = self.question.rungs.tokens
        paused = sum(key not in ended and key not in self.stopped
                     and outcome_key(key, rung=rungs[0]) in self.outcomes
                     for key in self.networks) if rungs else 0
        over = len(ended) + len(self.stopped)
        self._set_clock(max(self._total + from_bench - over, 0) if self.searching else 0, ended)
        best = self._best(scores)
        latency_ms = None if best is None else {**self.question.costs.metrics(self.networks[best]),
                                                **scores[best].get("metrics", {})}.get("latency_ms")
        return Snapshot(
            done=len(scores), failed=len(ended) - len(scores), stopped=len(self.stopped), paused=paused,
            seeds_left=self.seeds_left, reused=self.count("reused"), infeasible=self.count("infeasible"),
            total=max(self._total + from_bench, over), from_bench=from_bench,
            best_loss=None if best is None else self._losses(scores)[best], best_latency_ms=latency_ms,
            remaining_s=self.clock.remaining_s, share_done=self.clock.share_done)

    def _best(self, scores: Mapping[str, dict[str, Any]]) -> str | None:
        config, losses = self.question.config, self._losses(scores)
        figures = {key: self.question.foresee(self.networks[key], loss) for key, loss in losses.items()}
        quality = {key: point([FULL], told, {}) or (losses[key],) for key, told in figures.items()}
        keeping = [key for key, told in figures.items()
                   if told.get("expected_recall", 0.0) >= config.recall_floor]
        return min(keeping or quality, key=lambda key: quality[key], default=None)

    def _losses(self, scores: Mapping[str, dict[str, Any]]) -> dict[str, float]:
        """Of the scored networks within the budgets as predictions are now; with further seeds the mean."""
        means = {trial.hash: trial.loss for trial in self.trials if trial.seeds}
        fits = self.question.fitter.fits_network if self.question.config.measure_every else lambda _: True
        return {key: means.get(key) or score["loss"] for key, score in scores.items()
                if fits(self.networks[key])}

    def _set_clock(self, left: int, ended: Mapping[str, Outcome]) -> None:
        """left: networks that have not ended."""
        question, rungs, plan = self.question, self.question.rungs, self.clock.plan
        parts: dict[str, tuple[float, float]] = {}   # of each training, its last part
        begun: dict[str, float] = {}
        for outcome in self.outcomes.values():
            network = self.networks.get(outcome.hash)
            if network is None or outcome.from_bench or outcome.score is None:
                continue
            share = 1.0 if outcome.rung is None else outcome.rung / rungs.whole
            key = outcome_key(outcome.hash, seed=outcome.seed)
            if share >= begun.get(key, 0.0):
                begun[key] = share
                parts[key] = share * question.expected_s(network), float(outcome.score["seconds"])
        finished = sum(not outcome.from_bench for outcome in ended.values())
        promoted = (finished + 1) / (finished + len(self.stopped) + 2)
        drawn = [question.expected_s(network) * max(plan.share(promoted) - begun.get(key, 0.0), 0.0)
                 if rungs.tokens else question.expected_s(network) for key, network in self.networks.items()
                 if key not in ended and key not in self.stopped]
        seeds = float(self.seeds_left)
        if self.searching and plan.seeds:
            values = [point(question.config.objectives, vars(trial), trial.scores) for trial in self.trials
                      if trial.state == "complete"]
            front, share = front_size(values), self.clock.share_done
            front = plan.finalists if front is None else front
            seeds = plan.seeds * (share * front + (1 - share) * plan.finalists)
        self.clock.update(done=list(parts.values()), drawn=drawn, candidates=max(left - len(drawn), 0),
                          promoted=promoted, seeds=seeds)
