"""What a search recommends, from trials that are made by hand: the models are the shipped ones."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from problems import problem_of, trials_of

from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.latency.fitting import Fitter
from flashnas.observations.losses import ObservedLoss
from flashnas.space import load_space
from flashnas.study.answer import DISTINCT, PUBLISHED_MODELS, answer_of
from flashnas.study.comparison import differences_to
from flashnas.study.second_searches import FREE_MIX
from flashnas.trials.trial import Trial

FAST = "1024: 4x(m2 f a f)"
HYBRID = "1536: 4x(m2 f m2 f a f)"
TWIN = "1536: 2x(m2 f m2 f a f m2 f a f m2 f)"  # the same shares: it cannot be told from the hybrid
LARGE = "2048: 5x(m2 f m2 f a f)"
SPARSE = "1536: 8x(a moe(experts=32,active=4,intermediate=1024))"
STATES, ATTENTION = "1536: 12x(m2 f)", "1280: 10x(a f)"


UNKNOWN, MIXED = "1536: 12x(kda f)", "1536: 4x(kda f m2 f a f)"


class Answered:
    """`answer_of` for networks by their notation; latencies rise in the order of the front.

    families: the best network of each, whose title is its notation. mixed: the best free mix.
    untrained: what the scorer expects to be good, besides the front; the front where it is empty.
    """

    def __init__(
        self,
        front,
        families=(),
        *,
        mixed=None,
        problem=None,
        scorer=None,
        limit_ms=None,
        upper_ms=None,
        untrained=(),
        trained=(),
    ):
        problem = problem or problem_of()
        scorer = scorer or problem.scorer
        config = dataclasses.replace(
            problem.config, budgets={} if limit_ms is None else {"latency_ms": limit_ms}
        )
        fitter = Fitter(problem.space, problem.costs, config.bounds)
        problem = dataclasses.replace(problem, config=config, fitter=fitter)
        beside = [*families, *([mixed] if mixed else [])]
        self.networks = {text: Architecture.parse(text) for text in (*front, *beside)}
        self.trials = {}
        for number, (text, network) in enumerate(self.networks.items()):
            self.trials[text] = Trial(
                number=number,
                cycle=0,
                origin="search" if text in front else "baseline",
                genotype={},
                state="expected",
                label="" if text in front else text,
                notation=network.notation,
                hash=network.hash,
                architecture=network,
                hidden=network.hidden,
                params=network.params,
                latency_ms=100.0 + number,
                upper_ms=(upper_ms or {}).get(text),
                values=(scorer.figures(network)["value"], 100.0 + number),
                **scorer.figures(network),
            )
        known = [Architecture.parse(text) for text in untrained or front]
        expected = trials_of(
            problem, known, value=scorer.values(known), latency_ms=100.0 + np.arange(len(known))
        )
        expected.scorer = scorer
        chosen = expected.networks[expected.best]
        compared = differences_to(scorer, chosen, list(self.networks.values()))
        for text, trial in self.trials.items():
            difference, sd = compared[trial.hash]
            self.trials[text] = dataclasses.replace(
                trial, full_loss_difference=difference, full_loss_difference_sd=sd
            )
        self.front = [self.trials[text] for text in front]
        self.answer = answer_of(
            problem,
            expected,
            self.front,
            next(trial for trial in self.trials.values() if trial.hash == chosen.hash),
            {FREE_MIX if text == mixed else text: self.trials[text] for text in beside},
            trained,
        )

    def hash(self, text):
        return self.networks[text].hash

    def value(self, text):
        return self.trials[text].value


def test_the_lowest_charged_loss_is_recommended():
    asked_for = Answered([FAST, HYBRID, LARGE], [STATES, ATTENTION])
    answer = asked_for.answer
    assert answer.recommended == asked_for.hash(min((FAST, HYBRID, LARGE), key=asked_for.value))
    assert answer.train_tokens == 1e11
    assert (answer.ranked_by, answer.trained) == ("published trainings", ())


def test_networks_of_the_same_shares_are_tied():
    asked_for = Answered([FAST, HYBRID, TWIN], [STATES])
    answer = asked_for.answer
    assert answer.recommended == asked_for.hash(HYBRID), "its attention stands at one distance"
    assert asked_for.hash(TWIN) in answer.tied
    small = Answered(["512: 2x(m2 f a f)", LARGE])
    assert small.answer.tied == ()
    assert small.front[0].full_loss_difference > 1.3 * small.front[0].full_loss_difference_sd
    assert small.answer.recommended == small.hash(LARGE)


def test_a_difference_is_clear_by_its_probability():
    asked_for = Answered([FAST, HYBRID, LARGE])
    for trial in asked_for.front:
        if trial.hash != asked_for.answer.recommended:
            ratio = trial.full_loss_difference / trial.full_loss_difference_sd
            tied = trial.hash in asked_for.answer.tied
            assert tied == (ratio < 0.8416), "the normal quantile of DISTINCT"
    assert DISTINCT == 0.8


def test_the_best_of_each_family_is_compared():
    rows = [
        ObservedLoss.of(Architecture.parse(text), nats=nats, tokens=1e10, group="mine")
        for text, nats in ((STATES, 2.5), (ATTENTION, 2.5), (MIXED, 2.3))
    ]
    scorer = problem_of().scorer.informed_by(rows)
    asked_for = Answered([FAST, MIXED], [STATES, ATTENTION], mixed=LARGE, scorer=scorer)
    answer = asked_for.answer
    assert answer.recommended == asked_for.hash(MIXED)
    assert [family["family"] for family in answer.families] == [STATES, ATTENTION]
    assert sum(family["best"] for family in answer.families) == pytest.approx(1)
    for family in (*answer.families, answer.free_mix):
        text = LARGE if family["family"] == FREE_MIX else family["family"]
        trial = asked_for.trials[text]
        told = (family["hash"], family["notation"], family["silence"])
        assert told == (trial.hash, trial.notation, trial.silence)
        expected = trial.full_loss - asked_for.trials[MIXED].full_loss
        assert family["difference"] == pytest.approx(expected, abs=1e-9)
        assert family["sd"] > 0
    assert answer.ranked_by == "published and own trainings"


def test_how_wide_a_transformer_has_to_be():
    problem = problem_of()
    asked_for = Answered([HYBRID], [STATES, ATTENTION])
    wider = [
        dataclasses.replace(asked_for.networks[ATTENTION], hidden=hidden)
        for hidden in range(1280, 2561, 128)
    ]
    means = problem.scorer.posterior(wider).mean
    first = int(np.argmax(means <= asked_for.trials[HYBRID].full_loss))
    assert first > 0
    assert asked_for.answer.wider == {
        "params": wider[first].params,
        "latency_ms": problem.model.latencies([wider[first]])[0],
    }
    assert Answered(["2560: 30x(m2 f)"], [ATTENTION]).answer.wider is None, "not even twice as wide"
    for alone in (Answered([HYBRID], [STATES]), Answered([ATTENTION], [ATTENTION])):
        assert alone.answer.wider is None


# -- what else is said -----------------------------------------------------------------------------


def test_published_models_are_compared_at_the_vocabulary_of_the_space():
    problem, answer = problem_of(), Answered([HYBRID], [STATES]).answer
    assert [model["name"] for model in answer.published] == list(PUBLISHED_MODELS)
    qwen = answer.published[3]
    network = dataclasses.replace(presets()["Qwen3-0.6B"], vocab=problem.space.model.vocab)
    assert qwen["params"] == network.params
    assert qwen["latency_ms"] == problem.model.latencies([network])[0]
    chosen = problem.scorer.posterior([network, Architecture.parse(HYBRID)])
    assert (qwen["difference"], qwen["sd"]) == pytest.approx(chosen.difference(0, 1))
    lfm = answer.published[2]
    assert lfm["silence"] > 0, "no publication has trained its convolutions"


@pytest.mark.parametrize(("notation", "rate"), [(HYBRID, 1.0), (SPARSE, 0.63)])
def test_what_the_full_training_costs(notation, rate):
    network = Architecture.parse(notation)
    flops = 3 * network.flops_per_token(4096) * 1e11
    assert flops == pytest.approx(6 * network.active_params * 1e11, rel=0.25)
    answer = Answered([notation]).answer
    asked = answer.train_device, answer.train_utilisation, answer.train_context
    assert asked == ("h100_sxm", 0.4, 4096)
    assert answer.train_hours == pytest.approx(flops / 0.4 / 989e12 / 3600 / rate)


def test_what_limits_the_answer():
    assert Answered([HYBRID], limit_ms=100.0).answer.limit == "latency_ms"
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


@pytest.mark.parametrize("notation", [HYBRID, SPARSE])
def test_all_parameters_limit_the_answer(notation):
    """As they are bounded, by the user or by the space."""
    network = Architecture.parse(notation)

    def limit(most, own=math.inf):
        problem = problem_of()
        space = copy.copy(problem.space)
        space.params = (0, own)
        config = dataclasses.replace(problem.config, params=most and f"..{most:.0f}")
        problem = dataclasses.replace(problem, config=config, space=space)
        return Answered([notation], problem=problem, limit_ms=1e6).answer.limit

    assert limit(1.01 * network.params) == "params"
    assert limit(1.1 * network.params) == "space"
    assert limit(None, 1.01 * network.params) == "space params"
    assert limit(None, 1.1 * network.params) == "space"
