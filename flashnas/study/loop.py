"""A search from its problem to its answer.

Candidates are drawn together in cycles, evaluated side by side, and learned by the algorithm in the
order drawn. The trajectory does not depend on workers or interruptions: a continued run replays it,
and what its database holds is not evaluated again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.algorithms.algorithm import Prior
from flashnas.algorithms.trial import Trial
from flashnas.base.registry import foreign_errors
from flashnas.base.system import terminate_as_interrupt
from flashnas.executors.base import Executor
from flashnas.run_folder.folder import check_can_begin, recorded_dtype
from flashnas.space import OperatorSpace
from flashnas.study.answer import chances_to_change
from flashnas.study.config import SearchConfig
from flashnas.study.explore import Explored, explore
from flashnas.study.finish import finish
from flashnas.study.opening import executor_of, opened, options_given
from flashnas.study.problem import Problem, load_problem
from flashnas.study.progress import AnswerTime, Progress
from flashnas.study.record import Record
from flashnas.training.cost import training_flops

MAX_FRONT = 12  # networks of a front that nothing was trained for
IDLE_CYCLES = 20  # cycles in a row without anything new: the space is exhausted
NEAR = 20  # networks near the recommended one that the algorithm looks at, beside the front
UNIT_FLOPS = 1e12  # of the cost of a training
MIN_CHANCE = 0.01  # that a training changes the answer; below it nothing more is trained


def run_search(
    config: SearchConfig,
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    command: str = "",
    **objects: Any,
) -> dict[str, Any]:
    """Search, and leave a run folder.

    Args:
        resume: continue the run in `out` if there is one; else an existing run is an error.
        objects: in place of names in `config`, as `load_problem` takes them.

    Returns:
        The object of `flashnas search --json`: run, front, trials (counts by state), known (of the
        complete ones, those whose score an earlier run had), failures (reason -> count), seconds and
        tokens.

    Raises:
        FlashnasError: in one line, for whatever the user can change.
    """
    check_can_begin(out, resume=resume, evaluated=objects.get("evaluator") is not None)
    with terminate_as_interrupt():
        took = AnswerTime()
        problem = load_problem(config, note=progress.note, **objects)
        problem = problem.with_dtype(recorded_dtype(out) if resume else None)
        with (
            _place_of_a_full_disk(out),
            foreign_errors(("progress object", progress), *problem.foreign(), direct=False),
        ):
            executor = executor_of(problem, progress.note)
            with (
                opened(
                    problem, executor, out, resume=resume, progress=progress, command=command
                ) as record,
                executor,
            ):
                if problem.scorer is not None:
                    progress.note(str(took))
                expected = explored(problem)
                if expected is not None:
                    record.clock.start(took.left_s)
                record.folder.write_config(options=options_given(config))
                loop = Loop(record, expected)
                for line in loop.plan_lines():
                    progress.note(line)
                loop.run(executor)
                return finish(record, expected)


def explored(problem: Problem) -> Explored | None:
    """What the scorer expects of the space; None where short losses rank."""
    if problem.scorer is None:
        return None
    config = problem.config
    assert isinstance(problem.space, OperatorSpace), "a scorer knows its operators"
    return explore(
        problem.space,
        problem.fitter,
        problem.scorer,
        seed=config.seed,
        min_recall=config.recall_floor,
    )


class Loop:
    """The trials of one search. expected: what the scorer expects; None where short losses rank.
    idle: cycles in a row with nothing new."""

    def __init__(self, record: Record, expected: Explored | None) -> None:
        self.record, self.problem, self.expected = record, record.problem, expected
        self.idle = 0

    def run(self, executor: Executor) -> None:
        """Evaluate the baselines, what is expected to be the best, and what the algorithm asks for."""
        record, note = self.record, self.record.progress.note
        baselines = [
            Trial.of(network, origin="baseline", label=label)
            for label, network in self.problem.baselines
        ]
        self._evaluate(baselines, executor)
        self._start_from_scored()
        if first := self._first()[: self._left]:
            self._evaluate(self._proposals(first), executor)
        while self._left:
            if not self._may_change():
                note("no further training is likely to change the answer: the search ends here")
                break
            with self._sampler_errors():
                genotypes = list(self.algorithm.ask(self._left))
            self._evaluate(self._proposals(genotypes), executor, asked=True)
        if self.idle >= IDLE_CYCLES:
            note(
                f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the"
                " budget"
            )
        self._add_expected()
        record.report(ended=True)
        record.write()

    def plan_lines(self) -> list[str]:
        """How networks are ranked, what is recommended so far, what trainings cost and may change."""
        problem, expected = self.problem, self.expected
        lines = list(problem.notes)
        if expected is not None:
            best = expected.networks[expected.best(problem.config.recall_floor)]
            lines.append(
                f"published trainings alone recommend {best.notation}, of"
                f" {len(expected.networks):,} networks within the budgets"
            )
        if problem.recipe is not None:
            lines.append(str(self.record.clock))
        if problem.recipe is not None and expected is not None:
            chances = self._chances()
            lines.append(
                f"may change: {np.count_nonzero(chances > MIN_CHANCE)} of the networks near the"
                f" recommended one would take its place with a probability above {MIN_CHANCE:.0%}"
                f" after a short training; the highest is {max(chances, default=0.0):.0%}"
            )
        return lines

    # -- cycles ------------------------------------------------------------------------------------

    @property
    def _left(self) -> int:
        """How many candidates the next cycle has; 0 when enough are evaluated or the space is
        exhausted."""
        config = self.problem.config
        if self.idle >= IDLE_CYCLES:
            return 0
        return max(0, min(config.cycle_size, config.trials - self.record.evaluated))

    def _evaluate(
        self, proposals: Sequence[Trial], executor: Executor, *, asked: bool = False
    ) -> None:
        """Evaluate the new networks of a cycle; then all proposals become trials, in the order
        proposed, and the algorithm learns of them. asked: the algorithm proposed them."""
        if not proposals:
            return
        record, before = self.record, self.record.searched
        new: dict[str, Trial] = {}
        for proposal in proposals:
            if proposal.feasible and proposal.hash not in record.recorded:
                record.networks.setdefault(proposal.hash, proposal.architecture)
                if self.problem.changes(proposal.architecture):
                    new.setdefault(proposal.hash, proposal)
        for proposal in new.values():
            self._look_up(proposal)
        jobs = {
            key: self.problem.job(proposal.architecture)
            for key, proposal in new.items()
            if key not in record.results
        }
        for key, ended in executor.run(jobs, on_wait=record.report):
            record.remember(new[key], ended.result, ended.reason)
            record.report()
        trials = [record.add(proposal) for proposal in proposals]
        record.write()
        record.report()
        if trials[0].origin == "search":
            self.idle = self.idle + 1 if record.searched == before else 0
        self._learn(trials, asked=asked)

    def _look_up(self, proposal: Trial) -> None:
        """Take the score of an earlier run, where there is one."""
        record = self.record
        record.networks.setdefault(proposal.hash, proposal.architecture)
        if proposal.hash not in record.results:
            score = self.problem.score(proposal.architecture)
            if score is not None:
                record.remember(proposal, score)

    # -- the algorithm -----------------------------------------------------------------------------

    @functools.cached_property
    def algorithm(self) -> Any:
        """Made when it is first asked: a run that had ended, or trains nothing, does not need it."""
        algorithm = self.problem.algorithm()
        if (prior := self._prior()) is not None:
            algorithm.use_prior(prior)
        return algorithm

    def _prior(self) -> Prior | None:
        """What the scorer tells the algorithm; None where there is none, or nothing is trained."""
        problem, expected = self.problem, self.expected
        scorer, recipe = problem.scorer, problem.recipe
        if scorer is None or expected is None or recipe is None:
            return None
        floor = problem.config.recall_floor
        order = dict.fromkeys([*expected.ranked(floor, NEAR), *reversed(expected.front(floor))])
        return Prior(
            value_of=scorer.values,
            moves_of=scorer.step_sds,
            cost_of=lambda network: training_flops(recipe.proxy_of(network), recipe) / UNIT_FLOPS,
            best=[
                expected.genotypes[index]
                for index in order
                if problem.changes(expected.networks[index])
            ],
        )

    def _sampler_errors(self) -> AbstractContextManager[None]:
        """What code of another package raises in a call of the algorithm is one line."""
        return foreign_errors(("sampler", self.algorithm), *self.problem.foreign())

    def _learn(self, trials: Sequence[Trial], *, asked: bool = False) -> None:
        """Tell the algorithm of trials that it asked for, or of others."""
        learned = [trial for trial in trials if trial.genotype is not None]
        if learned:
            with self._sampler_errors():
                (self.algorithm.tell if asked else self.algorithm.start_from)(learned)

    # -- proposals ---------------------------------------------------------------------------------

    def _proposals(self, genotypes: Sequence[Any]) -> list[Trial]:
        """Those of the next cycle, each at the largest width within the budgets."""
        self.record.cycles += 1
        return [
            Trial.of(
                self.problem.fitter.fit_width(genotype)[0],
                genotype=genotype,
                cycle=self.record.cycles,
            )
            for genotype in genotypes
        ]

    def _start_from_scored(self) -> None:
        """Make trials of the networks of the space within the budgets that have a score. The
        algorithm learns those that it would propose, which have the largest width, from the highest
        loss to the lowest."""
        problem, record = self.problem, self.record
        proposals = [
            Trial.of(network, genotype=genotype, origin="run", label=label)
            for genotype, network, label in problem.scored_networks()
            if network.hash not in record.networks  # else it is a baseline
        ]
        if not proposals:
            return
        for proposal in proposals:
            self._look_up(proposal)
        trials = [record.add(proposal) for proposal in proposals]
        record.write()
        record.report()
        fitting = [
            trial
            for trial in trials
            if problem.fitter.fit_width(trial.genotype)[0] == trial.architecture
        ]
        self._learn(sorted(fitting, key=lambda trial: -(trial.loss or 0.0)))

    def _first(self) -> list[Any]:
        """The genotypes that are expected to be the best, the recommended one first: their
        trainings are the most likely to change the answer."""
        problem, expected = self.problem, self.expected
        if expected is None:
            return []
        ranked = expected.ranked(problem.config.recall_floor, problem.config.cycle_size)
        return [
            expected.genotypes[index]
            for index in ranked
            if problem.changes(expected.networks[index])
        ]

    def _add_expected(self) -> None:
        """Trials of the networks that the scorer expects to be the best, as far as they have none."""
        expected, record = self.expected, self.record
        if expected is None:
            return
        front = expected.spread(expected.front(self.problem.config.recall_floor), MAX_FRONT)
        for index in dict.fromkeys([*front, *expected.front(None)[-1:]]):
            network = expected.networks[index]
            if network.hash not in record.recorded:
                record.networks[network.hash] = network
                record.add(Trial.of(network, genotype=expected.genotypes[index]))

    # -- what trainings may change -----------------------------------------------------------------

    def _may_change(self) -> bool:
        """Whether some training is likely enough to change the answer."""
        if self.expected is None or self.problem.config.train_anyway:
            return True
        return bool(max(self._chances(), default=0.0) > MIN_CHANCE)

    def _chances(self) -> np.ndarray:
        """Probability of each untrained network near the recommended one that its training makes it
        the recommended one."""
        problem, expected = self.problem, self.expected
        assert expected is not None
        assert problem.scorer is not None
        untrained = [
            network
            for index in expected.ranked(problem.config.recall_floor, 10 * NEAR)
            if (network := expected.networks[index]).hash not in self.record.recorded
        ]
        best = self.record.best_value()
        if best is None:
            best = float(expected.value[expected.best(problem.config.recall_floor)])
        return chances_to_change(problem.scorer, untrained, best)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error
