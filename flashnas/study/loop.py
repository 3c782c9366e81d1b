"""The search: a sampler proposes networks, tables and observed trainings score them, the best ones are
trained, and the front comes out. Every search is `search`, read from top to bottom.

It has two rhythms. Proposals are cheap: thousands are scored, until nothing better comes. Trainings
are dear: an acquisition chooses a few, all trials are scored anew by what they showed, and proposals
go on from there. Where an evaluator scores, or a sampler is named and no publication is read, each
proposal is trained (`Problem.train_each`).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import BudgetError
from flashnas.executors.base import Executor
from flashnas.samplers import Sampler
from flashnas.space import OperatorSpace
from flashnas.study.acquisition import Acquisition, acquire
from flashnas.study.next_trainings import price_of_flops
from flashnas.study.problem import Problem, sampler_of
from flashnas.study.record import Record
from flashnas.study.scorer import EvidenceScorer
from flashnas.study.trials import Trials, evenly_spread
from flashnas.trials.pareto import pareto
from flashnas.trials.trial import Trial

QUIET_CYCLES = 12  # in a row without a better network, after which proposals end; ..
QUIET_WHEN_SPARSE = 2  # .. where less than a quarter of a cycle is new: little is left to find
IDLE_CYCLES = 20  # in a row of which nothing can be trained: the space has no more
EVENED = 100  # of the best trials, of which the even order is looked at, too
BETTER = 1e-4  # nats per token by which a network counts as better
CANDIDATES = 200  # of an acquisition
Learn = Callable[[list[Trial]], None]  # how a sampler learns of what it proposed, or did not


def search(
    problem: Problem, executor: Executor | None = None, record: Record | None = None
) -> Trials:
    """Search, the same for the same seed, with any executor, interrupted or not.

    Args:
        problem: what is searched, for what, within which limits.
        executor: where trainings run; None: nothing is trained.
        record: listens, and knows what an earlier process decided and trained.

    Returns:
        Trials: the networks within the limits.

    Raises:
        BudgetError: no network that was tried is within the limits.
    """
    record = Record(problem) if record is None else record
    trials = Trials(
        problem.fitter,
        problem.objectives,
        problem.scorer,
        problem.min_recall,
        train_each=problem.train_each,
    )
    sampler = sampler_of(problem)
    add_target(problem, trials)
    sampler.start_from(learnt_before(problem, trials, record))
    while True:
        chosen: list[int] = []
        acquisition = None
        for batch, learn in rounds(problem, sampler, trials, record):
            trials.add(batch)
            if problem.train_each and (chosen := trials.untrained(batch)):
                break  # the sampler learns once they are trained
            learn(trials.told(batch))
        if executor is None or not record.left:
            break
        if not problem.train_each:
            acquisition = next_cycle(problem, trials, record.left)
            found = map(trials.find, (*acquisition.networks, *acquisition.spare))
            chosen = [index for index in found if index is not None]
        if not chosen:
            record.note("the space has no more candidates within the budget")
            break
        jobs = record.decided(trials, chosen, acquisition)
        for key, ended in executor.run(jobs, on_wait=record.report):
            record.ended(key, ended)
        learn_results(trials, record)
        if isinstance(trials.scorer, EvidenceScorer):
            trials.score(trials.scorer.informed_by(record.observed()))
        record.learnt(trials)
        if problem.train_each:
            learn(trials.told(batch))
            drawn = sampler.drawn_at_random
            record.drawn = {"at_random": drawn, "by_sampler": sampler.asked - drawn}
        else:  # its values are stale: a fresh one starts from all trials, the best ones last
            sampler = sampler_of(problem)
            sampler.start_from(trials.told(best_last(trials)))
    if not len(trials):
        recall = problem.min_recall
        asked = "" if recall is None else f" and has an expected recall of {recall:g} or more"
        raise BudgetError(
            f"none of {trials.looked_at:,} networks of space {problem.space.name!r} that were tried"
            f" meets the budget{asked}"
        )
    return trials


def rounds(
    problem: Problem, sampler: Sampler, trials: Trials, record: Record
) -> Iterator[tuple[Sequence[Any], Learn]]:
    """Proposals, batch by batch, and how the sampler learns of each: until nothing better comes;
    where each is trained, until there is something to train."""
    if problem.train_each:
        yield from trainable(problem, sampler, trials, record)
        return
    quiet, enough = 0, QUIET_CYCLES
    while not sampler.until_quiet or (len(trials.proposed) < problem.proposals and quiet < enough):
        level, before = trials.lowest, len(trials)
        if not (batch := sampler.ask()):
            break
        yield batch, sampler.tell
        if not len(trials) and sampler.until_quiet:  # what meets the budgets is rare
            yield [problem.fitter.feasible(problem.config.seed)], sampler.start_from
        enough = QUIET_CYCLES if len(trials) - before >= len(batch) / 4 else QUIET_WHEN_SPARSE
        quiet = 0 if trials.lowest < level - BETTER else quiet + 1
    if isinstance(problem.space, OperatorSpace) and sampler.until_quiet:
        trials.add(even_orders(problem.space, trials))


def add_target(problem: Problem, trials: Trials) -> None:
    """The network that is to be recommended, where there is one."""
    if problem.target is not None:
        genotype, network = problem.target
        trials.add([genotype])
        trials.target = trials.find(network)


def trainable(
    problem: Problem, sampler: Sampler, trials: Trials, record: Record
) -> Iterator[tuple[Sequence[Any], Learn]]:
    """Whole cycles, whatever is left, until one brings a network that can be trained."""
    for _ in range(IDLE_CYCLES if record.left else 0):
        if not (batch := sampler.ask()):
            break
        yield batch, sampler.tell
        if not len(trials):  # what meets the budgets is rare
            yield [problem.fitter.feasible(problem.config.seed)], sampler.start_from


def even_orders(space: OperatorSpace[Any], trials: Trials) -> list[Any]:
    """The genotypes of the best trials and of the front with their operators in an even order, on
    which no evidence depends."""
    front = np.flatnonzero(pareto(trials.columns, trials.guides))
    distinct = {}
    for index in {*map(int, front), *map(int, trials.ranked[:EVENED])}:
        network = trials.networks[index]
        distinct[network.hidden, frozenset(network.repeated())] = network
    evened = (
        space.locate(dataclasses.replace(network, operators=evenly_spread(network.operators)))
        for network in distinct.values()
    )
    return [genotype for genotype in dict.fromkeys(evened) if genotype is not None]


def next_cycle(problem: Problem, trials: Trials, at_most: int) -> Acquisition:
    """A cycle of trainings that are expected to gain most, of which `at_most` are left."""
    trainings, scorer = problem.trainings, trials.scorer
    assert trainings is not None
    assert isinstance(scorer, EvidenceScorer)
    new = trials.candidates(CANDIDATES, evaluated=False)
    every = dict.fromkeys([*trials.candidates(CANDIDATES), *new])
    of_trained = trials.ranks_by != "value"
    best = trials.networks[trials.best] if len(trials.ranked) else None
    return acquire(
        scorer,
        [trials.networks[index] for index in every],
        problem.schedule["cycle_size"],
        observed=trainings.observed,
        flops=trainings.flops,
        known=[trials.networks[index] for index in every if index in trials.results],
        price=np.zeros_like if of_trained or best is None else price_of_flops(scorer, best),
        of_trained=of_trained,
        best=float(trials.value[trials.best]) if of_trained and best is not None else None,
        at_most=at_most,
    )


def learn_results(trials: Trials, record: Record) -> None:
    """Let the trials learn what was evaluated, baselines that the search has come to among it."""
    for key, network in record.networks.items():
        if (index := trials.find(network)) is not None:
            trials.learn(index, record.results[key])


def learnt_before(problem: Problem, trials: Trials, record: Record) -> list[Trial]:
    """Take what earlier runs trained of the space within the limits. Those that a sampler would
    propose, which have the largest width, are returned, from the highest loss to the lowest."""
    widest: dict[Any, None] = {}
    earlier = () if problem.earlier is None else problem.earlier.within(problem.space)
    for genotype, network, label in earlier:
        trials.add([genotype])
        index = trials.find(network)
        known = index is not None and record.knows(network, label)
        if known and index == trials.proposed[genotype][0]:
            widest[genotype] = None
    learn_results(trials, record)
    return sorted(trials.told(widest), key=lambda trial: trial.point, reverse=True)


def best_last(trials: Trials) -> list[Any]:
    """All genotypes, those without a trial first, then the others by their best one."""
    ranked = dict.fromkeys(trials.genotypes[index] for index in trials.by_guide)
    return [*(each for each in trials.proposed if each not in ranked), *reversed(ranked)]
