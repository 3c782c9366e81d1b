"""The contract of a search algorithm, in a made-up world: latency follows from sizes, loss from
operators.
"""

import sys
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from flashnas.samplers import SAMPLERS, Goals, Trial
from flashnas.space import load_operator_space

CYCLE = 6
# of one operator of the shipped space `tiny`, per unit of width
COST_MS = {"d": 1.0, "a": 1.6, "m2": 1.2, "f": 0.5}
WORTH = {"d": 0.10, "a": 0.04, "m2": 0.06, "f": 0.03}  # nats that one operator lowers the loss by
# all genotypes of `tiny` fit the first, about a third of them the second
BUDGET_MS, TIGHT_BUDGET_MS = 900.0, 450.0
MIXED = ("complete", "complete", "failed", "complete", "infeasible")


def check_sampler(sampler, options=None, objectives=(2, 3)):
    """Check that a search algorithm keeps the contract of ask and tell.

    Args:
        sampler: the class, or its name in the registry.
        options: with which tens of candidates are enough, such as a small population.
        objectives: their numbers, with each of which it is checked.

    Raises:
        AssertionError: one line that names the algorithm and the rule.
    """
    for count in objectives:
        world = World(sampler, options, three_goals() if count == 3 else None)
        check_seed_fixes_the_trajectory(world)
        check_replay(world)
        check_candidates(world, TIGHT_BUDGET_MS if count == 2 else BUDGET_MS)
        check_partial_tells(world)
        for outcome, before in (("failed", 2), ("infeasible", 0)):
            check_lost_cycles(world, outcome, before)
        check_one_complete_candidate(world)
        check_start_from(world)
    world = World(sampler, options)
    check_global_random_state(world)
    check_sizes_of_asks(world)
    check_order_of_tells(world)
    for latency_known in (True, False):
        check_impossible_budget(world, latency_known)


# -- the made-up world -----------------------------------------------------------------------------


class World:
    """One algorithm in the shipped space `tiny`, and the answers to what it asks. goals: None: loss
    against latency."""

    def __init__(self, sampler, options=None, goals=None):
        self.cls = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
        self.options, self.goals = dict(options or {}), goals
        self.space = load_operator_space("tiny", "the contract of samplers")
        self.fit_width = self.fitter(BUDGET_MS)

    def fitter(self, budget_ms):
        """Widths are fitted to a budget."""

        def fit_width(genotype):
            operators = self.space.operators(genotype)
            latency_ms = None
            for hidden in reversed(self.space.hidden_sizes):
                latency_ms = hidden * sum(COST_MS[spec.kind] for spec in operators)
                if latency_ms <= budget_ms:
                    return self.space.build(operators, hidden), latency_ms
            return None, latency_ms

        return fit_width

    def make(self, seed=0, fit_width=None):
        return self.cls(
            space=self.space,
            seed=seed,
            fit_width=fit_width or self.fit_width,
            cycle_size=CYCLE,
            goals=self.goals,
            **self.options,
        )

    def answer(self, genotype, outcome="complete", fit_width=None):
        """What comes of a candidate; `outcome`: complete, failed or infeasible."""
        architecture, latency_ms = (fit_width or self.fit_width)(genotype)
        if architecture is None or outcome == "infeasible":
            return Trial(genotype=genotype, state="infeasible")
        if outcome == "failed":
            return Trial(genotype=genotype, architecture=architecture, state="failed")
        values = (
            (loss_of(architecture), latency_ms) if self.goals is None else values_of(architecture)
        )
        return Trial(genotype=genotype, architecture=architecture, state="complete", values=values)

    def run(
        self,
        algorithm,
        cycles,
        outcomes=("complete",),
        fit_width=None,
    ):
        """All evaluations of some cycles; the outcomes are given in turn."""
        told = []
        for _ in range(cycles):
            cycle = [
                self.answer(genotype, outcomes[(len(told) + i) % len(outcomes)], fit_width)
                for i, genotype in enumerate(algorithm.ask())
            ]
            algorithm.tell(cycle)
            told += cycle
        return told


def three_goals():
    """Loss, recall and latency, of which only the last is known before training."""
    return Goals((False, False, True), lambda architecture: (cost_of(architecture),))


def loss_of(architecture):
    """More DeltaNet, more width and a mixed order are better; between about 4 and 6 nats."""
    kinds = [spec.kind for spec in architecture.operators]
    switches = sum(a != b for a, b in pairwise(kinds))
    width = float(np.log2(architecture.hidden / 64))
    return 6.0 - sum(WORTH[kind] for kind in kinds) - 0.01 * switches - 0.2 * width


def cost_of(architecture):
    return architecture.hidden * sum(COST_MS[spec.kind] for spec in architecture.operators)


def values_of(architecture):
    """Loss, negative recall (attention helps, up to 0.9) and latency."""
    attention = sum(spec.kind == "a" for spec in architecture.operators)
    return loss_of(architecture), -min(0.1 + 0.2 * attention, 0.9), cost_of(architecture)


# -- the rules -------------------------------------------------------------------------------------


def check_seed_fixes_the_trajectory(world):
    first, again, other = (world.run(world.make(seed), 4, MIXED) for seed in (7, 7, 8))
    assert first == again, "the same seed and results must give the same candidates"
    assert [e.genotype for e in first] != [e.genotype for e in other], (
        "another seed must give other candidates"
    )


def check_global_random_state(world):
    first = world.run(world.make(), 3)
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(123)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(123)
    again = world.run(world.make(), 3)
    np.random.set_state(before)  # noqa: NPY002
    assert again == first, "candidates must not depend on numpy's or torch's global seed"


def check_replay(world):
    recorded = world.run(world.make(), 5)
    resumed = world.make()
    for start in range(0, 4 * CYCLE, CYCLE):
        cycle = recorded[start : start + CYCLE]
        assert resumed.ask() == [e.genotype for e in cycle], (
            "recorded results must replay to the same asks"
        )
        resumed.tell(cycle)
    assert world.run(resumed, 1) == recorded[4 * CYCLE :], (
        "a replayed search must continue as the uninterrupted one"
    )


def check_candidates(world, budget_ms):
    fit_width = world.fitter(budget_ms)
    told = world.run(
        world.make(fit_width=fit_width), 4, ("complete", "complete", "failed"), fit_width
    )
    assert len({e.genotype for e in told}) == len(told), "a candidate must not be proposed twice"
    for evaluation in told:
        assert evaluation.architecture is not None, "candidates must be within the budget"
        assert world.space.contains(evaluation.architecture), "candidates must be in the space"
        assert world.space.repair(evaluation.genotype) == evaluation.genotype, (
            "genotypes must be canonical"
        )


def check_sizes_of_asks(world):
    algorithm = world.make()
    assert len(algorithm.ask()) == CYCLE, "ask() must give `cycle_size` candidates"
    assert len(algorithm.ask(1)) == 1, "ask(1) must give one candidate"
    assert len(set(algorithm.pending)) == CYCLE + 1, (
        "`pending` must hold all candidates that were asked"
    )


def check_partial_tells(world):
    algorithm = world.make()
    world.run(algorithm, 2)
    asked = algorithm.ask(5)
    algorithm.tell([world.answer(genotype) for genotype in asked[:2]])
    more = algorithm.ask(4)
    assert list(algorithm.pending) == asked[2:] + more, (
        "part of a cycle may be told before more is asked"
    )
    assert len(set(asked + more)) == 9, "what is pending must not be proposed again"
    algorithm.tell([world.answer(genotype) for genotype in asked[2:] + more])
    assert len(algorithm.history) == 2 * CYCLE + 9, "`history` must hold every result"
    assert len(algorithm.ask()) == CYCLE, "the next cycle must be whole again"


def check_order_of_tells(world):
    algorithm = world.make()
    asked = algorithm.ask(2)
    with pytest.raises(ValueError, match="out of the order asked"):
        algorithm.tell([world.answer(asked[1])])
    algorithm.tell([world.answer(asked[0])])
    with pytest.raises(ValueError, match="out of the order asked"):
        algorithm.tell([world.answer(asked[0])])


def check_lost_cycles(world, outcome, before):
    algorithm = world.make()
    world.run(algorithm, before)
    lost = world.run(algorithm, 3, (outcome,))
    after = world.run(algorithm, 2)
    assert not any(e.complete for e in lost)
    assert all(e.complete for e in after), f"cycles of {outcome} candidates must not stop it"
    assert len({e.genotype for e in after}) == 2 * CYCLE


def check_one_complete_candidate(world):
    algorithm = world.make()
    world.run(algorithm, 3, ("complete", *["failed"] * 40))
    assert len(set(algorithm.ask())) == CYCLE, "one complete candidate must be enough to go on"


def check_start_from(world):
    """A search may start from candidates that were evaluated elsewhere."""
    known = list(
        {e.genotype: e for seed in (3, 4) for e in world.run(world.make(seed), 1)}.values()
    )
    first, again = world.make(), world.make()
    for algorithm in (first, again):
        algorithm.start_from(known)
    told = world.run(first, 3)
    assert told == world.run(again, 3), "equal starts must give the same candidates"
    assert first.history == [*known, *told], "`history` must begin with what the search starts from"
    assert not {e.genotype for e in known} & {e.genotype for e in told}, (
        "what a search starts from must not be proposed again"
    )


def check_impossible_budget(world, latency_known):
    nothing_fits = world.fitter(0.0)

    def fit_width(genotype):
        return None, nothing_fits(genotype)[1] if latency_known else None

    told = world.run(world.make(fit_width=fit_width), 3, fit_width=fit_width)
    assert not any(e.feasible for e in told)
    assert all(world.space.repair(e.genotype) == e.genotype for e in told)
    assert len({trial.genotype for trial in told[-CYCLE:]}) == CYCLE


def check_beats_random(sampler, options=None, seeds=7):
    """Best of 48 candidates, medians over `seeds` seeds: better than random ones by over 3 standard
    errors of random's median (1.25 standard deviations / root of `seeds`)."""
    world, random = World(sampler, options), World("random")
    learned, chance = (
        [min(losses_of(each, seed)) for seed in range(seeds)] for each in (world, random)
    )
    bar = median(chance) - 3 * 1.25 * float(np.std(chance)) / seeds**0.5
    assert median(learned) < bar, (
        f"the median of {seeds} seeds must be below {bar:.3f} nats, which is"
        f" better than random; got {median(learned):.3f}"
    )


def losses_of(world, seed):
    return [trial.values[0] for trial in world.run(world.make(seed), 8) if trial.values is not None]
