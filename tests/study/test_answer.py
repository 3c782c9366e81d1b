"""What a search recommends, from trials that are made by hand: the models are the shipped ones."""

import dataclasses

import numpy as np
import pytest
from problems import problem_of

from flashnas.algorithms.trial import Trial
from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.observations.losses import ObservedLoss
from flashnas.space import load_space
from flashnas.study.answer import DISTINCT, PUBLISHED_MODELS, answer_of, value_of
from flashnas.study.explore import Explored
from flashnas.study.purchase import LEAST_GAIN
from flashnas.study.scorer import load_scorer

FAST = "1024: 4x(m2 f a f)"
HYBRID = "1536: 4x(m2 f m2 f a f)"
TWIN = "1536: 2x(m2 f m2 f a f m2 f a f m2 f)"  # the same shares: it cannot be told from the hybrid
LARGE = "2048: 5x(m2 f m2 f a f)"
STATES, ATTENTION = "1536: 12x(m2 f)", "1280: 10x(a f)"


UNKNOWN, MIXED = "1536: 12x(kda f)", "1536: 4x(kda f m2 f a f)"


class Answered:
    """`answer_of` for networks by their notation; latencies rise in the order of the front.

    untrained: what the scorer expects to be good, besides the front; the front where it is empty.
    """

    def __init__(
        self,
        front,
        baselines=(),
        *,
        problem=None,
        scorer=None,
        limit_ms=None,
        upper_ms=None,
        untrained=(),
        purchases=(),
    ):
        problem = problem or problem_of()
        scorer = scorer or problem.scorer
        config = dataclasses.replace(
            problem.config, budgets={} if limit_ms is None else {"latency_ms": limit_ms}
        )
        problem = dataclasses.replace(problem, config=config)
        self.networks = {text: Architecture.parse(text) for text in (*front, *baselines)}
        self.trials = {}
        for number, (text, network) in enumerate(self.networks.items()):
            self.trials[text] = Trial(
                number=number,
                cycle=0,
                origin="baseline" if text in baselines else "search",
                genotype={},
                state="expected",
                label=f"pure {text}" if text in baselines else "",
                notation=network.notation,
                hash=network.hash,
                architecture=network,
                hidden=network.hidden,
                params=network.params,
                latency_ms=100.0 + number,
                upper_ms=(upper_ms or {}).get(text),
                **scorer.figures(network),
            )
        known = [Architecture.parse(text) for text in untrained or front]
        expected = Explored(
            [problem.space.sample(np.random.default_rng(0))] * len(known),
            known,
            np.arange(len(known), dtype=float),
            scorer.values(known),
            len(known),
        )
        self.answer = answer_of(
            problem,
            scorer,
            expected,
            [self.trials[text] for text in front],
            [self.trials[text] for text in baselines],
            purchases,
        )

    def hash(self, text):
        return self.networks[text].hash

    def value(self, text):
        return value_of(self.trials[text])


def test_the_lowest_charged_loss_is_recommended():
    asked_for = Answered([FAST, HYBRID, LARGE], [STATES, ATTENTION])
    answer = asked_for.answer
    assert answer.recommended == asked_for.hash(min((FAST, HYBRID, LARGE), key=asked_for.value))
    assert [standing.hash for standing in answer.standings] == [
        asked_for.hash(text) for text in (FAST, HYBRID, LARGE)
    ]
    (own,) = [standing for standing in answer.standings if standing.hash == answer.recommended]
    assert (own.difference, own.sd, own.tied) == (0.0, pytest.approx(0.0, abs=1e-6), True)
    assert all(0 <= standing.best <= 1 for standing in answer.standings)
    assert sum(standing.best for standing in answer.standings) <= 1 + 1e-9
    assert (answer.train_tokens, answer.min_recall, answer.looked_at) == (1e11, -0.05, 3)
    assert (answer.ranked_by, answer.bought, answer.claims) == ("published trainings", (), {})
    assert not answer.extrapolated


def test_networks_of_the_same_shares_are_tied_and_the_fastest_of_them_is_named():
    asked_for = Answered([FAST, HYBRID, TWIN], [STATES])
    answer = asked_for.answer
    tied = {standing.hash for standing in answer.standings if standing.tied}
    assert {asked_for.hash(HYBRID), asked_for.hash(TWIN)} <= tied
    assert answer.cheapest == asked_for.hash(HYBRID if asked_for.hash(FAST) not in tied else FAST)
    small = Answered(["512: 2x(m2 f a f)", LARGE])
    assert [standing.tied for standing in small.answer.standings] == [False, True]
    assert small.answer.standings[0].difference > 1.3 * small.answer.standings[0].sd
    assert small.answer.cheapest == small.answer.recommended == small.hash(LARGE)


def test_a_difference_is_clear_by_its_probability():
    asked_for = Answered([FAST, HYBRID, LARGE])
    for standing in asked_for.answer.standings:
        ratio = standing.difference / standing.sd if standing.sd > 1e-9 else 0.0
        assert standing.tied == (ratio < 0.8416), "the normal quantile of DISTINCT"
    assert DISTINCT == 0.8


def test_the_best_pure_stack_is_named_and_the_reasons_add_up():
    rows = [
        ObservedLoss.of(Architecture.parse(text), nats=nats, tokens=1e10, group="mine")
        for text, nats in ((STATES, 2.5), (ATTENTION, 2.5), (MIXED, 2.3))
    ]
    scorer = problem_of().scorer.informed_by(rows)
    asked_for = Answered([FAST, MIXED], [STATES, ATTENTION], scorer=scorer)
    answer, pure = asked_for.answer, asked_for.answer.pure
    assert (pure["hash"], pure["label"], pure["latency_ms"]) == (
        asked_for.hash(STATES),
        f"pure {STATES}",
        asked_for.trials[STATES].latency_ms,
    )
    assert answer.recommended == asked_for.hash(MIXED)
    expected = asked_for.trials[MIXED].full_loss - asked_for.trials[STATES].full_loss
    assert pure["difference"] == pytest.approx(expected, abs=1e-9)
    assert set(answer.reasons) == {"size", "shape", "mix"}
    assert sum(answer.reasons.values()) == pytest.approx(pure["difference"], abs=1e-9)
    assert answer.ranked_by == "published and own trainings"
    assert (pure["probability"] > 0.5) == (pure["difference"] < 0)


def test_what_a_transformer_gives_up_and_what_buys_it_back():
    problem = problem_of()
    asked_for = Answered([HYBRID], [STATES, ATTENTION])
    transformer = asked_for.answer.transformer
    assert transformer["hash"] == asked_for.hash(ATTENTION)
    assert transformer["difference"] < 0
    wider = [
        dataclasses.replace(asked_for.networks[ATTENTION], hidden=hidden)
        for hidden in range(1280, 2561, 128)
    ]
    means = problem.scorer.posterior(wider).mean
    first = int(np.argmax(means <= asked_for.trials[HYBRID].full_loss))
    assert first > 0
    assert transformer["params"] == wider[first].params
    assert transformer["ms"] == problem.costs.latencies([wider[first]])[0]
    far = Answered(["2560: 30x(m2 f)"], [ATTENTION]).answer.transformer
    assert (far["ms"], far["params"]) == (None, None)
    assert Answered([HYBRID], [STATES]).answer.transformer == {}


def test_published_models_are_compared_at_the_vocabulary_of_the_space():
    problem, answer = problem_of(), Answered([HYBRID], [STATES]).answer
    assert [model["name"] for model in answer.published] == list(PUBLISHED_MODELS)
    qwen = answer.published[3]
    network = dataclasses.replace(presets()["Qwen3-0.6B"], vocab=problem.space.model.vocab)
    assert qwen["params"] == network.params
    assert qwen["latency_ms"] == problem.costs.latencies([network])[0]
    chosen = problem.scorer.posterior([network, Architecture.parse(HYBRID)])
    assert (qwen["difference"], qwen["sd"]) == pytest.approx(chosen.difference(0, 1))
    lfm = answer.published[2]
    assert lfm["silence"] > 0, "no publication has trained its convolutions"


def test_what_the_full_training_and_a_pilot_cost():
    rivals = ["1536: 4x(gd f gd f a f)", "1536: 4x(d f d f a f)", "1536: 6x(gd f m2 f)"]
    asked_for = Answered([HYBRID, *rivals, MIXED])
    training, pilot = asked_for.answer.training, asked_for.answer.pilot
    flops = 6 * asked_for.networks[HYBRID].params * 1e11
    recommended = next(
        network
        for network in asked_for.networks.values()
        if network.hash == asked_for.answer.recommended
    )
    assert training["flops"] == pytest.approx(6 * recommended.params * 1e11, rel=0.25)
    assert training["h100_hours"] == pytest.approx(training["flops"] / 0.4 / 989e12 / 3600)
    assert len(pilot["networks"]) == len(pilot["params"]) == 2
    assert pilot["gain"] >= LEAST_GAIN
    assert pilot["flops"] < flops
    assert pilot["h100_hours"] == pytest.approx(pilot["flops"] / 0.4 / 989e12 / 3600)
    assert Answered([HYBRID]).answer.pilot == {}, "nothing could take its place"


def test_own_trainings_alone_have_the_claims_of_publications_beside_them():
    front = [STATES, HYBRID, ATTENTION]
    networks = [Architecture.parse(text) for text in front]
    publications = problem_of().scorer
    order = np.argsort(publications.values(networks))
    rows = [  # the reverse of what publications let expect
        ObservedLoss.of(networks[index], nats=2.7 - 0.3 * place, tokens=1e10, group="mine")
        for place, index in enumerate(order)
    ]
    scorer = load_scorer(None, 1e11, print, published=False).informed_by(rows)
    answer = Answered(front, scorer=scorer).answer
    best, chosen = order[0], order[-1]
    assert answer.recommended == networks[chosen].hash
    assert answer.claims["hash"] == networks[best].hash
    assert (answer.claims["pairs"], answer.claims["alike"]) == (3, 0)
    difference = publications.posterior(networks).difference(best, chosen)
    assert (answer.claims["difference"], answer.claims["sd"]) == pytest.approx(difference)
    assert (answer.ranked_by, answer.pilot) == ("own trainings", {})


def test_what_was_bought_is_part_of_the_answer():
    bought = {"networks": [FAST], "flops": 1.0, "gain": 1.0, "before": FAST, "after": HYBRID}
    assert Answered([HYBRID], purchases=[bought]).answer.bought == (bought,)


def test_what_limits_the_answer():
    assert Answered([HYBRID], limit_ms=100.0).answer.limit == "budget"
    assert Answered([HYBRID], limit_ms=200.0).answer.limit == "space"
    deep = "1536: 15x(m2 f f f)"  # better by its mean, and charged
    assert Answered([LARGE], untrained=[LARGE, deep], limit_ms=200.0).answer.limit == "support"


def test_an_end_of_the_space_or_of_the_parameters_limits_the_answer(tmp_path):
    space, network = tmp_path / "space.yaml", Architecture.parse(HYBRID)
    kinds = "[m2 f, a f]"
    for widths, depth, limit in (
        ([512, network.hidden], 99, "width"),
        ([network.hidden, 4096], len(network.operators) // 2, "depth"),
        ([512, network.hidden], len(network.operators) // 2, "width and depth"),
        ([network.hidden, 4096], 99, "space"),
    ):
        layers = f"{{depth: [2, {depth}], choices: {kinds}}}"
        space.write_text(f"template: layerwise\nwidths: {widths}\nlayers: {layers}\n")
        problem = dataclasses.replace(problem_of(), space=load_space(space))
        assert Answered([HYBRID], problem=problem, limit_ms=200.0).answer.limit == limit
    config = dataclasses.replace(problem_of().config, params=f"..{1.01 * network.params:.0f}")
    problem = dataclasses.replace(problem_of(), config=config)
    assert Answered([HYBRID], problem=problem, limit_ms=200.0).answer.limit == "params"


def test_a_pure_stack_may_be_the_recommended_one():
    asked_for = Answered([ATTENTION], [ATTENTION])
    assert (
        asked_for.answer.recommended == asked_for.answer.pure["hash"] == asked_for.hash(ATTENTION)
    )
    assert asked_for.answer.pure["difference"] == 0
    assert asked_for.answer.reasons == {}
    assert Answered([HYBRID]).answer.pure == {}


def test_bounds_above_the_budget_are_marked():
    asked_for = Answered(
        [FAST, HYBRID, LARGE], limit_ms=110.0, upper_ms={FAST: 109.0, HYBRID: 110.5}
    )
    assert asked_for.answer.above_budget == (asked_for.hash(HYBRID),)
    assert Answered([FAST], upper_ms={FAST: 1e9}).answer.above_budget == ()
