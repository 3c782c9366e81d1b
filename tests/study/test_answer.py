"""What a search recommends, from trials that are made by hand: the models are the shipped ones."""

import pytest
from foretelling import asked

from flashnas.architecture import Architecture
from flashnas.runs.trial import Trial
from flashnas.study.answer import TOLD_APART, answer_of
from flashnas.training.recipe import Recipe

FLOOR = -0.05
FAST = "1024: 4x(m2 f a f)"
HYBRID = "1536: 4x(m2 f m2 f a f)"
TWIN = "1536: 2x(m2 f m2 f a f m2 f a f m2 f)"  # the same shares: it cannot be told from the hybrid
LARGE = "2048: 5x(m2 f m2 f a f)"
STATES, ATTENTION = "1536: 12x(m2 f)", "1280: 10x(a f)"


@pytest.fixture(scope="module")
def foresight():
    return asked("nemotron_flash", 1500.0, trials=0)[2]


@pytest.fixture(scope="module")
def reading():
    """Of a search whose short losses count."""
    return asked("nemotron_flash", 1500.0, recipe=Recipe.load("cpu"))[2]


class Answered:
    """`answer_of` for networks by their notation; latencies rise in the order of the front."""

    def __init__(
        self,
        foresight,
        front,
        baselines=(),
        *,
        losses=None,
        budget_ms=None,
        upper_ms=None,
        untrained=(),
        min_recall=FLOOR,
        before="",
        state="complete",
    ):
        self.networks = {text: Architecture.parse(text) for text in (*front, *baselines)}
        self.trials = {}
        for number, (text, network) in enumerate(self.networks.items()):
            loss = (losses or {}).get(text)
            self.trials[text] = Trial(
                number=number,
                cycle=0,
                origin="baseline" if text in baselines else "search",
                genotype={},
                state=state,
                label=f"pure {text}" if text in baselines else "",
                notation=network.notation,
                hash=network.hash,
                hidden=network.hidden,
                params=network.params,
                latency_ms=100.0 + number,
                upper_ms=(upper_ms or {}).get(text),
                loss=loss,
                **foresight.figures(network, loss),
            )
        self.answer = answer_of(
            foresight,
            [self.trials[text] for text in front],
            [self.trials[text] for text in baselines],
            {network.hash: network for network in self.networks.values()},
            min_recall=min_recall,
            budget_ms=budget_ms,
            before=before,
            untrained=[Architecture.parse(text) for text in untrained],
        )

    def hash(self, text):
        return self.networks[text].hash

    def value(self, text):
        return self.trials[text].full_loss + self.trials[text].full_loss_sd


def test_the_lowest_pessimistic_loss_is_recommended(foresight):
    asked_for = Answered(foresight, [FAST, HYBRID, LARGE], [STATES, ATTENTION])
    answer = asked_for.answer
    assert answer.recommended == asked_for.hash(min((FAST, HYBRID, LARGE), key=asked_for.value))
    assert (answer.kept, answer.without_floor) == (True, {})
    assert [standing.hash for standing in answer.standings] == [
        asked_for.hash(text) for text in (FAST, HYBRID, LARGE)
    ]
    (own,) = [standing for standing in answer.standings if standing.hash == answer.recommended]
    assert (own.difference, own.sd, own.tied) == (0.0, pytest.approx(0.0, abs=1e-6), True)
    assert all(0 <= standing.best <= 1 for standing in answer.standings)
    assert sum(standing.best for standing in answer.standings) <= 1 + 1e-9
    assert answer.train_tokens == 1e11
    assert not answer.extrapolated


def test_networks_of_the_same_shares_are_tied_and_the_fastest_of_them_is_named(foresight):
    asked_for = Answered(foresight, [FAST, HYBRID, TWIN], [STATES])
    answer = asked_for.answer
    tied = {standing.hash for standing in answer.standings if standing.tied}
    assert {asked_for.hash(HYBRID), asked_for.hash(TWIN)} <= tied
    assert answer.cheapest == asked_for.hash(HYBRID if asked_for.hash(FAST) not in tied else FAST)
    small = Answered(foresight, ["512: 2x(m2 f a f)", LARGE])
    assert [standing.tied for standing in small.answer.standings] == [False, True]
    assert small.answer.standings[0].difference > 1.3 * small.answer.standings[0].sd
    assert small.answer.cheapest == small.answer.recommended == small.hash(LARGE)


def test_a_difference_is_told_by_its_probability(foresight):
    asked_for = Answered(foresight, [FAST, HYBRID, LARGE])
    for standing in asked_for.answer.standings:
        ratio = standing.difference / standing.sd if standing.sd > 1e-9 else 0.0
        assert standing.tied == (ratio < 0.8416), "the normal quantile of TOLD_APART"
    assert TOLD_APART == 0.8


def test_the_best_pure_stack_is_named_and_the_reasons_add_up(reading):
    asked_for = Answered(
        reading,
        [FAST, HYBRID],
        [STATES, ATTENTION],
        losses={FAST: 4.5, HYBRID: 4.3, STATES: 4.35, ATTENTION: 4.5},
    )
    answer, pure = asked_for.answer, asked_for.answer.pure
    best = min((STATES, ATTENTION), key=asked_for.value)
    assert (pure["hash"], pure["label"], pure["latency_ms"]) == (
        asked_for.hash(best),
        f"pure {best}",
        asked_for.trials[best].latency_ms,
    )
    expected = asked_for.trials[HYBRID].full_loss - asked_for.trials[best].full_loss
    assert pure["difference"] == pytest.approx(expected, abs=1e-9)
    assert set(answer.reasons) == {"size", "shape", "mix", "training"}
    assert sum(answer.reasons.values()) == pytest.approx(pure["difference"], abs=1e-9)
    assert answer.reasons["training"] != 0
    assert (pure["probability"] > 0.5) == (pure["difference"] < 0)


def test_without_a_training_no_reason_is_one(foresight):
    answer = Answered(foresight, [HYBRID], [STATES], state="expected").answer
    assert answer.reasons["training"] == pytest.approx(0.0, abs=1e-12)
    assert not answer.trained
    assert answer.to_change == {}


def test_a_pure_stack_may_be_the_recommended_one(foresight):
    asked_for = Answered(foresight, [ATTENTION], [ATTENTION])
    assert (
        asked_for.answer.recommended == asked_for.answer.pure["hash"] == asked_for.hash(ATTENTION)
    )
    assert asked_for.answer.pure["difference"] == 0
    assert asked_for.answer.reasons == {}
    assert Answered(foresight, [HYBRID]).answer.pure == {}


def test_a_network_below_the_floor_is_named_and_not_recommended(foresight):
    large = "2304: 15x(m2 f)"
    asked_for = Answered(foresight, [HYBRID, large], [STATES])
    answer = asked_for.answer
    assert (
        asked_for.trials[large].expected_recall < FLOOR <= asked_for.trials[HYBRID].expected_recall
    )
    assert asked_for.value(large) < asked_for.value(HYBRID)
    assert answer.recommended == answer.cheapest == asked_for.hash(HYBRID)
    assert answer.kept
    assert answer.without_floor["hash"] == asked_for.hash(large)
    assert answer.without_floor["difference"] < 0 < answer.without_floor["sd"]
    assert answer.without_floor["expected_recall"] == asked_for.trials[large].expected_recall
    assert [
        standing.tied for standing in answer.standings if standing.hash == asked_for.hash(large)
    ] == [answer.without_floor["difference"] > -0.8416 * answer.without_floor["sd"]]
    freed = Answered(foresight, [HYBRID, large], [STATES], min_recall=-1.0).answer
    assert (freed.recommended, freed.without_floor) == (asked_for.hash(large), {})


def test_a_network_that_is_better_but_below_the_floor_is_not_called_alike(foresight):
    small, large = "512: 2x(m2 f a f)", "2304: 15x(m2 f)"
    asked_for = Answered(foresight, [small, large])
    assert asked_for.answer.recommended == asked_for.answer.cheapest == asked_for.hash(small)
    assert [standing.tied for standing in asked_for.answer.standings] == [True, False]


def test_where_nothing_keeps_the_floor_the_answer_says_so(foresight):
    answer = Answered(foresight, ["1024: 8x(m2 f)", STATES]).answer
    assert not answer.kept
    assert answer.recommended
    assert answer.without_floor == {}


def test_bounds_above_the_budget_are_marked(foresight):
    asked_for = Answered(
        foresight, [FAST, HYBRID, LARGE], budget_ms=110.0, upper_ms={FAST: 109.0, HYBRID: 110.5}
    )
    assert asked_for.answer.above_budget == (asked_for.hash(HYBRID),)
    assert Answered(foresight, [FAST], upper_ms={FAST: 1e9}).answer.above_budget == ()


def test_what_a_training_would_have_to_show(reading, foresight):
    losses = {FAST: 4.6, HYBRID: 4.3}
    asked_for = Answered(
        reading, [FAST, HYBRID], [], losses=losses, untrained=[HYBRID, LARGE, "512: 2x(m2 f)"]
    )
    change = asked_for.answer.to_change
    assert change["hash"] == Architecture.parse(LARGE).hash
    assert change["nats"] >= 0
    assert 0 < change["probability"] <= 0.5
    slim = Answered(
        reading, [FAST, HYBRID], [], losses=losses, untrained=["512: 2x(m2 f)"]
    ).answer.to_change
    assert slim["nats"] > change["nats"]
    assert slim["probability"] < change["probability"]
    assert Answered(reading, [HYBRID], untrained=[HYBRID]).answer.to_change == {}
    assert Answered(foresight, [FAST], untrained=[LARGE]).answer.to_change == {}, (
        "no short loss counts"
    )


def test_what_trainings_changed_is_said(foresight):
    notation = Architecture.parse(HYBRID).notation
    assert Answered(foresight, [HYBRID], before=notation).answer.same
    changed = Answered(foresight, [HYBRID], before=Architecture.parse(FAST).notation).answer
    assert (changed.same, changed.before) == (False, Architecture.parse(FAST).notation)
    assert Answered(foresight, [HYBRID]).answer.same
