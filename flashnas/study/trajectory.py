"""The trials of a run in their order: evaluates what is new in a cycle, remembers the rest."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.executors import Executor
from flashnas.executors.job import Job
from flashnas.latency.costs import Costs
from flashnas.runs.folder import RunFolder
from flashnas.runs.snapshot import Progress, Snapshot
from flashnas.runs.trial import Origin, Outcome, State, Trial, outcome_key
from flashnas.search.objectives import point
from flashnas.study.rungs import Rungs


@dataclass(frozen=True)
class Candidate:
    """A trial before it has a state: what a cycle is about to evaluate. `architecture` is None when no width meets the
    budgets; `genotype` is the space's encoding. Private to this room: a recorded candidate is a Trial."""

    origin: Origin
    label: str
    genotype: dict[str, Any]
    architecture: Any | None


@dataclass(frozen=True)
class Stopped:
    """A training that was not continued: the tokens after which it paused, and the forecast of its final loss there."""

    rung: int
    expected_loss: float
    expected_loss_sd: float


class Tally:
    """What a run shows of itself, counted as it grows, so that a run of any length is shown in the same time."""

    def __init__(self) -> None:
        self.done = self.failed = self.stopped = self.from_bench = self.searched_from_bench = 0
        self.paused: set[str] = set()                       # hashes of trainings that wait at a rung
        self.trials: Counter[tuple[str, str]] = Counter()   # (state, origin) -> trials
        self.best: tuple[float, str] | None = None          # lowest loss, hash
        self.trainings, self.seconds = 0, 0.0               # of this run, and those of an earlier part of it
        self._ended: set[str] = set()

    def ended(self, outcome: Outcome) -> None:
        """Count the outcome of a network of the trajectory, once; one that paused waits, and seeds are not networks."""
        if outcome.hash in self._ended or outcome.seed is not None:
            return
        if outcome.rung is not None:
            self.paused.add(outcome.hash)
            return
        self.paused.discard(outcome.hash)
        self._ended.add(outcome.hash)
        self.from_bench += outcome.from_bench
        if outcome.score is None:
            self.failed += 1
            return
        self.done += 1
        if self.best is None or outcome.score["loss"] < self.best[0]:
            self.best = outcome.score["loss"], outcome.hash

    def stops(self, outcome: Outcome) -> None:
        """Count a paused training that is not continued, and its time."""
        self.paused.discard(outcome.hash)
        self.stopped += 1
        if outcome.score is not None:
            self.trainings, self.seconds = self.trainings + 1, self.seconds + outcome.score["seconds"]

    def reopens(self, outcome: Outcome) -> None:
        """Count a stopped training as one that waits again."""
        self.paused.add(outcome.hash)
        self.stopped -= 1
        if outcome.score is not None:
            self.trainings, self.seconds = self.trainings - 1, self.seconds - outcome.score["seconds"]

    def took(self, outcome: Outcome) -> None:
        """Count the time of a finished evaluation that was made for the run."""
        part = outcome.rung is not None or outcome.seed is not None
        if outcome.score is not None and not outcome.from_bench and not part:
            self.trainings, self.seconds = self.trainings + 1, self.seconds + outcome.score["seconds"]

    def placed(self, trial: Trial) -> None:
        """Count a trial."""
        self.trials[trial.state, trial.origin] += 1
        self.searched_from_bench += trial.origin == "search" and trial.from_bench

    def removed(self, trial: Trial) -> None:
        """Undo `placed`."""
        self.trials[trial.state, trial.origin] -= 1
        self.searched_from_bench -= trial.origin == "search" and trial.from_bench


class Trajectory:
    """Evaluates the networks of a cycle that are new, records each as it finishes, and turns all into trials.

    Args:
        total: networks that the run will evaluate, baselines included, without those that a bench answers; for the
            display.
        workers: jobs that run side by side; for the remaining time.
        distributions: Optuna's for the encoding; empty where the space has none.
        objectives: names, trained ones first.
        costs: the figures of a network.
        make_job: network -> its evaluation.
        known_score: network -> its score by a bench, or None.
        folder: where trials and outcomes are recorded.
        pool: runs the jobs.
        progress: shows them.
        rungs: where trainings pause; None: nowhere.
        foresee: network and short loss (None: without one) -> what is expected of a full training, as fields of a
            Trial.
    """

    def __init__(self, *, total: int, workers: int, distributions: Mapping[str, Any], objectives: Sequence[str],
                 costs: Costs, make_job: Callable[[Any], Job],
                 known_score: Callable[[Any], dict[str, Any] | None], folder: RunFolder, pool: Executor,
                 progress: Progress, rungs: Rungs | None = None,
                 foresee: Callable[[Any, float | None], dict[str, Any]] = lambda network, loss: {}) -> None:
        self.rungs, self.foresee = rungs or Rungs(), foresee
        self.total, self.workers, self.distributions = total, workers, distributions
        self.objectives, self.costs, self.make_job = tuple(objectives), costs, make_job
        self.known_score, self.folder, self.pool, self.progress = known_score, folder, pool, progress
        self.trials: list[Trial] = []
        self.networks: dict[str, Any] = {}     # hash -> network, all that were proposed
        self.stopped: dict[str, Stopped] = {}  # hash -> what is expected of a training that was not continued
        self._checkpoints_fail = False
        self.seeds_left = 0                    # trainings under further seeds that are known to be needed
        self.placed: set[str] = set()         # hashes of networks that a trial holds
        self.tally = Tally()
        for outcome in self.outcomes.values():
            self.tally.took(outcome)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return self.folder.database.outcomes

    def evaluate(self, cycle: int, candidates: Sequence[Candidate]) -> list[Trial]:
        """Trials of the candidates, in their order. Those of a search pause at the rungs; cycle 0 does not."""
        new: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.architecture is not None:
                self.networks.setdefault(candidate.architecture.hash, candidate.architecture)
                if candidate.architecture.hash not in self.placed:
                    new.setdefault(candidate.architecture.hash, candidate)
                if candidate.architecture.hash in self.outcomes:
                    self.tally.ended(self.outcomes[candidate.architecture.hash])
        for key, candidate in new.items():
            known = None if key in self.outcomes else self.known_score(candidate.architecture)
            if known is not None:
                self.remember(candidate, known, "")
        on = self._promoted(new) if cycle and self.rungs.tokens else new
        self._train(on, None)
        trials = [self.place(cycle, candidate) for candidate in candidates]
        self.folder.write_trials(self.trials)
        if self.rungs.tokens:
            self.folder.remove_checkpoints(set(new))
        self.report()
        return trials

    # -- trainings -----------------------------------------------------------------------------------------------

    def _promoted(self, new: Mapping[str, Candidate]) -> dict[str, Candidate]:
        """Train the candidates from rung to rung; returns those that train on to the end.

        A decision sees the networks of earlier cycles, those of this cycle that a bench knows, and the curves of this
        cycle to the rung: it does not depend on the order of completion, nor on what a continued run has finished.
        """
        from_bench = [key for key in new if key in self.outcomes and self.outcomes[key].from_bench]
        finished = [*(trial.hash for trial in self.trials if trial.state == "complete"), *from_bench]
        scores = {key: score for key in finished if (score := self.outcomes[key].score) is not None}
        points = [self.point_of(key, score["loss"]) for key, score in scores.items()]
        curves = [score["curve"] for key, score in scores.items() if not self.outcomes[key].from_bench]
        on = {key: candidate for key, candidate in new.items() if key not in from_bench}
        for rung in self.rungs.tokens:
            self._train(on, rung)
            paused = {key: found.score for key in on if (found := self.outcomes.get(outcome_key(key, rung=rung)))
                      if found.score is not None}  # the others failed
            if not paused:
                return {}
            costs = [self.point_of(key, 0.0)[1:] for key in paused]
            decision = self.rungs.decide([score["curve"] for score in paused.values()], costs, finished=points,
                                         curves=curves)
            for place, key in enumerate(paused):
                if not decision.promoted[place]:
                    self.stop(key, Stopped(rung, float(decision.losses[place]), float(decision.sds[place])))
            on = {key: on[key] for key, stays in zip(paused, decision.promoted, strict=True) if stays}
        return on

    def stop(self, key: str, stopped: Stopped) -> None:
        """A paused training is not continued."""
        self.stopped[key] = stopped
        self.tally.stops(self.outcomes[outcome_key(key, rung=stopped.rung)])

    def reopen(self, key: str) -> None:
        """A stopped training is continued after all."""
        self.tally.reopens(self.outcomes[outcome_key(key, rung=self.stopped.pop(key).rung)])

    def point_of(self, key: str, loss: float) -> tuple[float, ...]:
        """The objectives of a network with this loss, which comes first."""
        found = point(self.objectives, {**self.costs.metrics(self.networks[key]), "loss": loss}, {})
        assert found is not None, "with rungs, all objectives but the loss are known"
        return found

    def _train(self, candidates: Mapping[str, Candidate], rung: int | None) -> None:
        """Train, or train on, what is not recorded yet: to a rung, or to the end."""
        jobs: dict[str, Job] = {}
        for key, candidate in candidates.items():
            known = self.outcomes.get(key) or self.outcomes.get(outcome_key(key, rung=rung))
            if known is not None:
                self.tally.ended(known)
                continue
            jobs[key] = self.job_of(candidate, rung)
        for key, ended in self.pool.run(jobs, on_wait=self.report):
            self.remember(candidates[key], ended.result, ended.reason, rung if ended.result is not None else None)
            self.report()

    def job_of(self, candidate: Candidate, rung: int | None) -> Job:
        """The training of a candidate to a rung, or, without one, to its end, from where it paused before."""
        assert candidate.architecture is not None
        job, key = self.make_job(candidate.architecture), candidate.architecture.hash
        if self.rungs.tokens and candidate.origin == "search":
            if job.evaluator is None:
                job = dataclasses.replace(job, checkpoints=str(self.folder.checkpoints_of(key)))
            job = dataclasses.replace(job, pause_tokens=rung or 0, curve=self._curve(key))
        return job

    def _curve(self, key: str) -> tuple[tuple[int, float], ...]:
        """The curve of a network to its last rung."""
        paused = [self.outcomes.get(outcome_key(key, rung=rung)) for rung in self.rungs.tokens]
        found = [outcome.score["curve"] for outcome in paused if outcome is not None and outcome.score is not None]
        return tuple((int(tokens), float(loss)) for tokens, loss in found[-1]) if found else ()

    def remember(self, candidate: Candidate, score: dict[str, Any] | None, reason: str, rung: int | None = None,
                 ) -> None:
        """Record how an evaluation ended, or that it paused at a rung."""
        network = candidate.architecture
        assert network is not None
        outcome = Outcome(hash=network.hash, notation=network.notation, score=score, reason=reason, rung=rung)
        known = self.costs.metrics(network)
        if self.costs.known and score and (twice := sorted(set(score.get("metrics", {})) & set(known))):
            raise ConfigError(f"the evaluator returned {twice[0]!r}, which the latency table or cost function gives;"
                              " leave it out, or search with table=None")
        values = self.values_of(network, outcome)
        with_params = (candidate.origin == "search" and bool(self.distributions) and not outcome.from_bench
                       and rung is None)
        if rung is not None and score:
            self._note_checkpoint(score.get("checkpoint_problem", ""))
        self.folder.database.remember(outcome, params=candidate.genotype if with_params else {},
                                      distributions=self.distributions if with_params else {}, values=values)
        self.tally.took(outcome)
        self.tally.ended(outcome)

    def _note_checkpoint(self, problem: str) -> None:
        """Tell why the checkpoint of a pause could not be written, once until one is written again."""
        if problem and not self._checkpoints_fail:
            self.progress.note(f"checkpoints cannot be written, so that paused trainings start again: {problem}")
        self._checkpoints_fail = bool(problem)

    def values_of(self, network: Any, outcome: Outcome) -> tuple[float, ...] | None:
        """The objectives of an outcome, minimised; None if it failed or paused."""
        if outcome.score is None or outcome.rung is not None:
            return None
        fields = outcome.fields()
        return point(self.objectives, {**self.costs.metrics(network), **fields,
                                       **self.foresee(network, fields.get("loss"))}, fields.get("scores", {}))

    def place(self, cycle: int, candidate: Candidate, at: int | None = None) -> Trial:
        """The candidate, whose outcome is known, as the next trial, or in the place of an earlier trial of itself."""
        number = len(self.trials) if at is None else at
        known: dict[str, Any] = {"number": number, "cycle": cycle, "origin": candidate.origin,
                                 "label": candidate.label, "genotype": candidate.genotype}
        network = candidate.architecture
        if network is None:
            trial = Trial(**known, state="infeasible", reason="no width of the space meets the budgets")
        else:
            stopped = self.stopped.get(network.hash)
            outcome = self.outcomes[network.hash if stopped is None else outcome_key(network.hash, rung=stopped.rung)]
            state: State = ("reused" if network.hash in self.placed and at is None else
                            "stopped" if stopped is not None else "complete" if outcome.score else "failed")
            self.placed.add(network.hash)
            fields = outcome.fields()
            figures = {**self.costs.metrics(network), **fields, **self.foresee(network, fields.get("loss"))}
            if stopped is not None:
                figures.update(loss=None, bits_per_byte=None, expected_loss=stopped.expected_loss,
                               expected_loss_sd=stopped.expected_loss_sd)
            if figures.get("params") is not None:
                figures["params"] = int(figures["params"])
            trial = Trial(**known, state=state, reason=outcome.reason, notation=network.notation, hash=network.hash,
                          hidden=getattr(network, "hidden", None), **figures)
        if at is None:
            self.trials.append(trial)
        else:
            self.tally.removed(self.trials[at])
            self.trials[at] = trial
        self.tally.placed(trial)
        return trial

    def expect(self, candidates: Sequence[Candidate]) -> None:
        """Candidates that are scored by published trainings alone, as trials in the state `expected`."""
        for candidate in candidates:
            network = candidate.architecture
            if network is None or network.hash in self.placed:
                continue
            self.placed.add(network.hash)
            self.networks[network.hash] = network
            figures: dict[str, Any] = {**self.costs.metrics(network), **self.foresee(network, None)}
            trial = Trial(number=len(self.trials), cycle=0, origin=candidate.origin, label=candidate.label,
                          genotype=candidate.genotype, state="expected", notation=network.notation, hash=network.hash,
                          hidden=network.hidden, **{**figures, "params": int(figures["params"])})
            self.trials.append(trial)
            self.tally.placed(trial)
        self.folder.write_trials(self.trials)

    def cost_again(self) -> None:
        """Give all trials the metrics that the costs now say."""
        for place, trial in enumerate(self.trials):
            if trial.hash in self.networks:
                found: dict[str, Any] = {**self.costs.metrics(self.networks[trial.hash]), "params": trial.params}
                self.trials[place] = dataclasses.replace(trial, **found)
        self.folder.write_trials(self.trials)

    # -- what came of it -----------------------------------------------------------------------------------------

    def count(self, state: str, origin: str | None = None) -> int:
        return sum(count for (own, by), count in self.tally.trials.items() if own == state and origin in (None, by))

    @property
    def searched(self) -> int:
        """Different networks that the search proposed, without those outside the budgets."""
        return sum(self.count(state, "search") for state in ("complete", "stopped", "failed"))

    @property
    def evaluated(self) -> int:
        """Of `searched`, those whose evaluation was started: they count against the number asked for."""
        return self.searched - self.tally.searched_from_bench

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common())

    def tokens(self) -> dict[str, int]:
        """Training tokens of this run that were computed for a recorded score: `tokens`, all of them; of these
        `tokens_repeated`, because a training did not find its checkpoint, `tokens_tasks`, on synthetic tasks, and
        `tokens_seeds`, for further seeds of finalists, with their tasks. `tokens_saved`: those that the stopped
        trainings would have needed to their end.

        A failed training counts up to its last rung, since nobody knows where it ended. What a killed process had
        trained since the last rung is not counted, and neither are scores from a bench. An evaluator's fidelities count
        once, since nobody knows how it continues; so do scores of versions that did not say where they began.
        """
        placed = {trial.hash for trial in self.trials if trial.state in ("complete", "stopped", "failed")}
        parts: dict[str, list[tuple[int, int | None]]] = {}  # of each training: tokens reached, and where it began
        tasks = seeds = repeated = 0
        for outcome in self.outcomes.values():
            if outcome.hash not in placed or outcome.score is None or outcome.from_bench:
                continue
            found, of_tasks = (int(outcome.score.get(name) or 0) for name in ("tokens", "task_tokens"))
            tasks += of_tasks
            seeds += 0 if outcome.seed is None else found + of_tasks
            parts.setdefault(outcome_key(outcome.hash, seed=outcome.seed), []).append(
                (found, outcome.score.get("begun_tokens")))
        trained = 0
        for of_network in parts.values():
            before = 0
            for reached, begun in sorted(of_network, key=lambda part: part[0]):
                again = 0 if begun is None else max(before - int(begun), 0)
                trained, repeated, before = trained + reached - before + again, repeated + again, reached
        saved = sum(self.rungs.whole - stopped.rung for stopped in self.stopped.values())
        return {"tokens": trained + tasks, "tokens_repeated": repeated, "tokens_tasks": tasks, "tokens_seeds": seeds,
                "tokens_saved": saved}

    def report(self) -> None:
        """Show where the run is."""
        tally = self.tally
        over = tally.done + tally.failed + tally.stopped
        left = max(self.total + tally.from_bench - over, 0) + self.seeds_left
        side_by_side = max(1, min(self.workers, left))
        loss, key = tally.best or (None, "")
        latency_ms = None if loss is None else {**self.costs.metrics(self.networks[key]), **(
            self.outcomes[key].score or {}).get("metrics", {})}.get("latency_ms")
        self.progress.update(Snapshot(
            done=tally.done, failed=tally.failed, stopped=tally.stopped, paused=len(tally.paused),
            seeds_left=self.seeds_left,
            reused=self.count("reused"), infeasible=self.count("infeasible"),
            total=max(self.total + tally.from_bench, over), from_bench=tally.from_bench, best_loss=loss,
            best_latency_ms=latency_ms,
            remaining_s=left * tally.seconds / tally.trainings / side_by_side if tally.trainings else None))
