"""Session: one search while it runs, between `prepare` and `finish`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.settings import MAX_SEED
from flashnas.latency.costs import TableCosts
from flashnas.runs.answer import Answer
from flashnas.runs.folder import RunFolder
from flashnas.runs.front import FrontEntry, recorded
from flashnas.runs.snapshot import Progress
from flashnas.runs.trial import Trial
from flashnas.search import SearchAlgorithm
from flashnas.search.algorithm import Evaluation
from flashnas.search.objectives import point
from flashnas.search.pareto import non_dominated
from flashnas.study.answer import answer_of
from flashnas.study.checks import side_by_side
from flashnas.study.foresight import FIGURES
from flashnas.study.opening import executor_of, run_facts
from flashnas.study.question import Question
from flashnas.study.seeds import train_under_seeds
from flashnas.study.self_correction import Version
from flashnas.study.trajectory import Candidate, Trajectory

STATES = ("complete", "stopped", "failed", "reused", "infeasible", "expected")
LARGEST_FRONT = 12       # networks of a front that nothing was trained for
CORRECTED_FRONTS = 3     # times that the front is drawn again because timing it corrected the predictions
IDLE_CYCLES = 20          # cycles in a row without anything new: the space is exhausted
IN_ENTRY = ("loss", "bits_per_byte", "latency_ms", "lower_ms", "upper_ms", "ttft_ms", "tpot_ms", "throughput_tok_s",
            "memory_gb", "params")


class Session:
    """A search with its folder, workers and trials.

    Args:
        question: what is searched.
        out: the run folder.
        resume: continue the run in it if there is one.
        progress: shows the run.
        command: the command line, for run.yaml.
    """

    def __init__(self, question: Question, out: Path, *, resume: bool, progress: Progress, command: str) -> None:
        self.question, self.progress = question, progress
        self.algorithm: SearchAlgorithm = self._algorithm(question.config.seed)
        self.baselines = question.baselines()
        self.pool = executor_of(question, progress.note)
        config = question.config
        self.folder = RunFolder(out, identity=question.identity(),
                                facts=run_facts(question, out, command, self.pool), resume=resume,
                                storage=config.storage, note=progress.note)
        different = {network.hash for _, network in self.baselines
                     if network is not None and question.known_score(network) is None}
        self.trajectory = Trajectory(
            total=config.trials + len(different), workers=side_by_side(config, self.pool, progress.note),
            distributions=question.space.distributions(), objectives=config.objectives, costs=question.costs,
            make_job=question.job, known_score=question.known_score, folder=self.folder, pool=self.pool,
            progress=progress, rungs=question.rungs, foresee=question.foresee)
        self.cycle, self.idle = 0, 0
        self.correction = question.self_correction()
        self._learnt: list[tuple[Any, Candidate, int]] = []  # genotype, candidate and trial of what was learnt

    def __enter__(self) -> Self:
        self.pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.__exit__(*error)
        self.folder.close()

    def sampler_errors(self) -> AbstractContextManager[None]:
        """Around a call of the algorithm: what code of another package raises in it is one line."""
        return foreign_errors(("sampler", self.algorithm), *self.question.foreign())

    def _algorithm(self, seed: int) -> SearchAlgorithm:
        """A fresh algorithm, with what published trainings tell it."""
        algorithm = self.question.algorithm(seed)
        if (prior := self.question.prior()) is not None:
            algorithm.use_prior(prior)
        return algorithm

    # -- the steps of the loop -----------------------------------------------------------------------------------

    def evidence_text(self) -> str | None:
        """One line on what published trainings alone recommend; None in a search that does not rank by them."""
        question, told = self.question, self.question.foretold
        if told is None:
            return None
        place = told.best(question.recall_floor)
        assert place is not None, "budgets that no network meets are refused earlier"
        return (f"published trainings alone recommend {told.networks[place].notation}, of {len(told.networks):,}"
                " networks within the budgets")

    def answer_by_evidence(self) -> None:
        """Trials of the networks that published trainings expect to be the best, and of the pure stacks: all there is
        in a search that trains nothing."""
        question, told = self.question, self.question.foretold
        assert told is not None
        self.trajectory.expect([Candidate("baseline", label, {}, network) for label, network in self.baselines])
        places = dict.fromkeys([*told.spread(told.front(question.recall_floor), LARGEST_FRONT), *told.front(None)[-1:]])
        self.trajectory.expect([Candidate("search", "", question.space.encode(told.genotypes[place]),
                                          told.networks[place]) for place in places])

    def evaluate_baselines(self) -> None:
        """The pure-operator models, or what the space names; cycle 0."""
        if self.baselines:
            self.trajectory.evaluate(0, [Candidate("baseline", label, {}, network) for label, network in
                                         self.baselines])

    def start_from_bench(self) -> None:
        """The networks of the space that a bench or an earlier run has scores for and that meet the budgets; cycle 0.

        All become trials. The algorithm learns those that it would propose, which have the largest width within the
        budgets, from the highest loss to the lowest.
        """
        space, fitter, objectives = self.question.space, self.question.fitter, self.question.config.objectives
        genotypes, candidates = [], []
        for one in self.question.known_networks():
            if one.network.hash not in self.trajectory.networks:  # else it is a baseline
                genotypes.append(one.genotype)
                candidates.append(Candidate("bench", one.label, space.encode(one.genotype), one.network))
        if not candidates:
            return
        trials = self.trajectory.evaluate(0, candidates)
        self._learnt += [(genotype, candidate, trial.number)
                         for genotype, candidate, trial in zip(genotypes, candidates, trials, strict=True)]
        learnt = [evaluation_of(genotype, candidate, trial, objectives)
                  for genotype, candidate, trial in zip(genotypes, candidates, trials, strict=True)
                  if fitter.latency_of(genotype)[0] == candidate.architecture]
        with self.sampler_errors():
            self.algorithm.start_from(sorted(learnt, key=lambda evaluation: -(evaluation.loss or 0.0)))

    def train_refits(self) -> None:
        """The genotypes of earlier runs at the width that they have here, in cycles; the algorithm learns them."""
        todo = self.refits()
        while todo and self.wanted:
            cycle, todo = todo[:self.wanted], todo[self.wanted:]
            evaluations = self.evaluate(cycle)
            with self.sampler_errors():
                self.algorithm.start_from(evaluations)

    def train_expected(self) -> None:
        """The first cycle of a search that ranks by full trainings: the networks that publications expect to be the
        best, since a training of one of these is the most likely to change the answer."""
        if (cycle := self.expected()[:self.wanted]) and self.cycle == 0:
            evaluations = self.evaluate(cycle)
            with self.sampler_errors():
                self.algorithm.start_from(evaluations)

    def expected(self) -> list[Any]:
        """The genotypes that publications expect to be the best, of different value, the recommended one first."""
        question, told = self.question, self.question.foretold
        if told is None:
            return []
        return [told.genotypes[place] for place in told.nearest(question.recall_floor, question.config.cycle_size)]

    def refits(self) -> list[Any]:
        """The genotypes of earlier runs that are worth a training at the width that they have here."""
        objectives = self.question.config.objectives
        points = [values for trial in self.trajectory.trials if trial.state == "complete"
                  and (values := point(objectives, trial.to_dict(), trial.scores)) is not None]
        known = np.array(points).reshape(-1, len(objectives))
        return self.question.refits(known[non_dominated(known)] if len(known) else known)

    @property
    def wanted(self) -> int:
        """How many candidates the next cycle draws; 0 when enough are evaluated or the space is exhausted."""
        config = self.question.config
        left = config.trials - self.trajectory.evaluated
        return 0 if self.idle >= IDLE_CYCLES else min(config.cycle_size, left)

    def evaluate(self, genotypes: Sequence[Any]) -> list[Evaluation]:
        """Fit the genotypes to the budgets, evaluate what is new, and return what the algorithm learns from it."""
        self.cycle += 1
        before = self.trajectory.searched
        candidates = [Candidate("search", "", self.question.space.encode(genotype),
                                self.question.fitter.latency_of(genotype)[0]) for genotype in genotypes]
        trials = self.trajectory.evaluate(self.cycle, candidates)
        self.idle = self.idle + 1 if self.trajectory.searched == before else 0
        objectives = self.question.config.objectives
        self._learnt += [(genotype, candidate, trial.number)
                         for genotype, candidate, trial in zip(genotypes, candidates, trials, strict=True)]
        return [evaluation_of(genotype, candidate, trial, objectives)
                for genotype, candidate, trial in zip(genotypes, candidates, trials, strict=True)]

    def correct(self, further: Sequence[str] = ()) -> bool:
        """Time what is due, and search on by a correction that is fitted to all timed networks; True if it is another.

        The algorithm then starts afresh from the trials whose networks have the width that the corrected latency
        allows. A continued run finds the times in its folder and makes the same corrections.

        Args:
            further: hashes of networks to time besides those that are due.
        """
        if self.correction is None:
            return False
        wanted = list(dict.fromkeys([*self.correction.due(self.trajectory.trials), *further]))
        self._time(wanted)
        known, networks = self.folder.measured, self.trajectory.networks
        if not self.correction.update([(networks[key], known[key]) for key in wanted if key in known],
                                      len(self.trajectory.trials)):
            return False
        self.trajectory.cost_again()
        versions = self.correction.versions
        self.folder.write_config(corrections=[version.to_dict() for version in versions])
        self.progress.note(correction_text(versions[-1]))
        config, fitter = self.question.config, self.question.fitter
        self.algorithm = self._algorithm((config.seed + len(versions)) % (MAX_SEED + 1))
        learnt = [evaluation_of(genotype, candidate, self.trajectory.trials[number], config.objectives)
                  for genotype, candidate, number in self._learnt
                  if fitter.latency_of(genotype)[0] == candidate.architecture]
        with self.sampler_errors():
            self.algorithm.start_from(learnt)
        return True

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """Write the front and the totals; returns the object of `search --json`.

        Raises:
            RunError: if no network could be evaluated.
        """
        if self.idle >= IDLE_CYCLES:
            self.progress.note(f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the"
                               " budget")
        failures = self.trajectory.failures()
        for reason, count in failures.items():
            self.progress.note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
        self.folder.remove_checkpoints()
        self._train_under_seeds()
        entries = self._measured([self._entry(trial) for trial in self._front()])
        for _ in range(CORRECTED_FRONTS):
            if not self.correct([entry.hash for entry in entries]):
                break
            entries = self._measured([self._entry(trial) for trial in self._front()])
        answer = self.answer()
        front = self.folder.write_front(entries if answer is None else _with_standings(entries, answer))
        if answer is not None:
            self.folder.write_config(answer=answer.to_dict())
        totals = {state: self.trajectory.count(state) for state in STATES}
        from_bench = sum(trial.state == "complete" and trial.from_bench for trial in self.trajectory.trials)
        tokens = self.trajectory.tokens()
        seconds = time.time() - self.question.started
        self.folder.write_finished(seconds, {**totals, "from_bench": from_bench, **tokens})
        return {"run": str(self.folder.path),
                "front": [{"config": str(entry.path), "notation": entry.notation, "hash": entry.hash, **entry.figures,
                           **({} if entry.missed is None else {"missed": list(entry.missed)})} for entry in front],
                **({} if answer is None else {"answer": answer.to_dict()}),
                "trials": totals, "from_bench": from_bench, "failures": failures,
                "seconds": round(seconds, 1), **tokens}

    def _train_under_seeds(self) -> None:
        """Give the networks of the front the means of several seeds, if these are asked for; where full trainings rank,
        those alone that cannot be told from the recommended one."""
        question, first = self.question, self.question.config.seed
        if further := range(first + 1, first + (question.config.seeds or 1)):
            train_under_seeds(self.trajectory, self._front if question.foresight is None else self._tied, further,
                              make_job=question.job, known_score=question.known_score)

    def _tied(self) -> list[Trial]:
        """The trials of the front that cannot be told from the recommended one."""
        answer = self.answer()
        tied = set() if answer is None else {standing.hash for standing in answer.standings if standing.tied}
        return [trial for trial in self._front() if trial.hash in tied]

    def _front(self) -> list[Trial]:
        """The trials of the non-dominated networks, fastest first."""
        objectives = self.question.config.objectives
        fitter = self.question.fitter
        state = "complete" if self.question.config.trials else "expected"
        scored = [(trial, values) for trial in self.trajectory.trials if trial.state == state
                  if self.correction is None or fitter.fits_network(self.trajectory.networks[trial.hash])
                  if (values := point(objectives, trial.to_dict(), trial.scores)) is not None]
        if not scored:
            reasons = "; ".join(sorted(self.trajectory.failures())) or "none tried"
            raise RunError(f"{self.folder.path}: no candidate could be trained; reasons: {reasons}")
        best = _best_of(scored)
        if self.question.foresight is not None:  # and those that a floor for recall leaves
            floor = self.question.recall_floor
            best |= _best_of([(trial, values) for trial, values in scored if (trial.expected_recall or 0.0) >= floor])
        return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))

    def answer(self) -> Answer | None:
        """What the search recommends; None where it does not rank by full trainings."""
        question, told = self.question, self.question.foretold
        if question.foresight is None or told is None:
            return None
        trials = self.trajectory.trials
        state = "complete" if question.config.trials else "expected"
        front = told.front(question.recall_floor)
        best = told.best(question.recall_floor)
        before = "" if best is None else told.networks[best].notation
        return answer_of(
            question.foresight, self._front(), [trial for trial in trials
                                                if trial.origin == "baseline" and trial.state == state],
            self.trajectory.networks, min_recall=question.recall_floor,
            budget_ms=question.config.budgets.get("latency_ms"), before=before,
            untrained=[told.networks[place] for place in front if told.networks[place].hash not in
                       self.trajectory.outcomes])

    def _entry(self, trial: Trial) -> FrontEntry:
        network = self.trajectory.networks[trial.hash]
        costs = self.question.costs
        certificate = self.question.certificate if self.correction is None else self.correction.certificate
        figures = {**{name: getattr(trial, name) for name in IN_ENTRY}, **trial.scores}
        if trial.full_loss is not None:
            figures.update({name: getattr(trial, name) for name in FIGURES})
        if trial.seeds is not None:
            figures.update(seeds=trial.seeds, loss_se=trial.loss_se)
        if certificate and isinstance(costs, TableCosts):
            figures["bound_ms"] = certificate.bound(costs.estimate(network), "latency_ms")
        return FrontEntry(notation=trial.notation, hash=trial.hash, architecture=recorded(network), figures=figures,
                          origin={"number": trial.number, "label": trial.label or "search"}, **costs.details(network))

    def _measured(self, entries: Sequence[FrontEntry]) -> list[FrontEntry]:
        """The entries with times from the device and what they miss; as they are where the device is not at hand."""
        if self.question.model is None or self.question.timing is None:
            return list(entries)
        from flashnas.profiling.finalists import missed  # loads torch

        self._time([entry.hash for entry in entries])
        known = self.folder.measured
        return [dataclasses.replace(
            entry, missed=tuple(missed(known[entry.hash], self.question.budgets)),
            figures={**entry.figures, "measured_ms": known[entry.hash]["latency_ms"],
                     "measured_ttft_ms": known[entry.hash]["ttft_ms"],
                     "measured_tpot_ms": known[entry.hash]["tpot_ms"]}) if entry.hash in known else entry
            for entry in entries]


    def _time(self, hashes: Sequence[str]) -> None:
        """Time the networks that this run has not timed yet."""
        model, timing, known = self.question.model, self.question.timing, self.folder.measured
        todo = [self.trajectory.networks[key] for key in hashes if key not in known]
        if todo and model is not None and timing is not None:
            from flashnas.profiling.finalists import measure_finalists

            self.progress.note(f"timing {len(todo)} network{'s' * (len(todo) > 1)} end to end on"
                               f" {model.table.device.label}")
            self.folder.remember_measured(measure_finalists(todo, model, timing, self.progress.note))


def _best_of(scored: Sequence[tuple[Trial, tuple[float, ...]]]) -> dict[str, Trial]:
    """The non-dominated trials, by hash."""
    if not scored:
        return {}
    mask = non_dominated(np.array([values for _, values in scored]))
    return {trial.hash: trial for (trial, _), keep in zip(scored, mask, strict=True) if keep}


def _with_standings(entries: Sequence[FrontEntry], answer: Answer) -> list[FrontEntry]:
    """The entries with what the answer says of each."""
    known = {standing.hash: standing for standing in answer.standings}
    return [dataclasses.replace(entry, figures={
        **entry.figures, "full_loss_difference": known[entry.hash].difference,
        "full_loss_difference_sd": known[entry.hash].sd, "probability_best": known[entry.hash].best})
        if entry.hash in known else entry for entry in entries]


def correction_text(version: Version) -> str:
    """One line on a correction for the user."""
    errors = f"{version.left_out_error:.1%} against {version.table_error:.1%} by the table"
    if not version.taken:
        return f"{version.networks} networks timed: the table predicts them best (a correction: {errors})"
    return f"{version.networks} networks timed: latencies corrected; mean error of networks left out {errors}"


def evaluation_of(genotype: Any, candidate: Candidate, trial: Trial, objectives: Sequence[str]) -> Evaluation:
    """A trial as the algorithms see it: with the genotype itself, and everything minimised. Of a stopped training they
    learn the final loss that was expected."""
    loss = trial.loss if trial.expected_loss is None else trial.expected_loss
    values = point(objectives, {**trial.to_dict(), "loss": loss}, trial.scores)
    return Evaluation(genotype=genotype, architecture=candidate.architecture,
                      feasible=candidate.architecture is not None, loss=None if values is None else values[0],
                      latency_ms=trial.latency_ms, failed=values is None, values=values)
