"""The rules of algorithm 1, by hand: who joins, who leaves, who wins, what is redrawn."""

from bit_space import Bits, BitSpace

from flashnas.samplers import SAMPLERS, Trial


def make(space, **options):
    fit_width = options.pop("fit_width", space.fit_width)
    return SAMPLERS["aging-evolution"](
        space=space,
        seed=options.pop("seed", 0),
        fit_width=fit_width,
        **options,
    )


def complete(genotype, loss):
    return Trial(genotype=genotype, values=(loss, 1.0))


def distance(a, b):
    return sum(x != y for x, y in zip(a.bits, b.bits, strict=True))


def test_the_oldest_leave_whatever_their_loss():
    algorithm = make(BitSpace(12), population=3)
    asked = algorithm.ask(3) + algorithm.ask(2)
    algorithm.tell(
        [complete(g, loss) for g, loss in zip(asked, [0.1, 5.0, 4.0, 9.0, 8.0], strict=True)]
    )
    assert [member.genotype for member in algorithm.population] == asked[2:]


def test_a_tournament_of_all_always_mutates_the_best():
    algorithm = make(BitSpace(12), population=6, tournament=6)
    asked = algorithm.ask(6)
    algorithm.tell([complete(g, 5.0 - (i == 2)) for i, g in enumerate(asked)])
    assert all(distance(child, asked[2]) == 1 for child in algorithm.ask(8))


def test_the_worst_of_distinct_entrants_never_wins():
    algorithm = make(BitSpace(16), population=4, tournament=2, seed=3)
    asked = [Bits((bit,) * 16) for bit in (0, 1)] + [Bits((0, 1) * 8), Bits((0,) * 8 + (1,) * 8)]
    algorithm.ask(4)
    algorithm.population.extend(
        complete(g, loss) for g, loss in zip(asked, [1.0, 2.0, 3.0, 4.0], strict=True)
    )
    wins = [min(range(4), key=lambda i: distance(child, asked[i])) for child in algorithm.ask(40)]
    # of the 6 pairs the best wins 3, the second 2, the third 1
    assert wins.count(3) == 0
    assert wins.count(0) > wins.count(1) > wins.count(2) > 0


def test_a_cycle_comes_from_one_population():
    algorithm = make(BitSpace(12), population=2, tournament=2, cycle_size=5)
    first = algorithm.ask(2)
    algorithm.tell([complete(first[0], 1.0), complete(first[1], 2.0)])
    cycle = algorithm.ask()
    algorithm.tell([complete(cycle[0], 0.5)])
    assert len(cycle) == 5
    assert all(distance(child, first[0]) == 1 for child in cycle)


def test_failed_and_infeasible_candidates_never_join():
    algorithm = make(BitSpace(12), population=2)
    asked = algorithm.ask(2)
    algorithm.tell([complete(g, 3.0) for g in asked])
    bad = algorithm.ask(4)
    algorithm.tell(
        [
            Trial(genotype=bad[0], state="failed"),
            Trial(genotype=bad[1], state="infeasible"),
            Trial(genotype=bad[2], values=(float("nan"), 1.0)),
            Trial(genotype=bad[3], state="infeasible"),
        ]
    )
    assert [member.genotype for member in algorithm.population] == asked


def test_a_budget_that_random_draws_hardly_ever_meet_is_reached_by_walking():
    space = BitSpace(24)  # one genotype in about 7000 is within the budget

    def fit_width(genotype):
        architecture, latency_ms = space.fit_width(genotype)
        return (architecture if sum(genotype.bits) <= 3 else None), latency_ms

    asked = make(space, fit_width=fit_width, population=10).ask(10)
    assert sum(fit_width(g)[0] is not None for g in asked) >= 8
