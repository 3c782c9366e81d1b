"""The cheapest network whose loss is expected to be no higher than that of a model."""

import numpy as np
import pytest
from problems import problem_of

from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError
from flashnas.study.comparison import against, without_experts
from flashnas.study.scorer import load_scorer
from flashnas.study.second_searches import LIKELY, aimed
from flashnas.trials.trial import EXPECTED_FIGURES

DENSE, SPARSE = "1024: 12x(a f)", "1024: 12x(a moe(experts=64,active=8,shared=1024))"


def problem(model, space="granite", **more):
    asked = {"workload": "decode-8k", "calibration": "engine", **more}
    return problem_of(space, 60_000.0, as_good_as=model, **asked)


def networks_of(problem):
    genotypes = problem.space.enumerate()
    return [network for each in genotypes for network in problem.space.architectures(each)]


def by_hand(problem, model):
    """The lowest cost of the networks of a space that are as good, one pair at a time: with a mean
    that is no higher, and with probability LIKELY."""
    scorer, metric = problem.scorer, problem.objectives[1]
    networks = [model, *networks_of(problem)]
    values = scorer.values(networks)
    joint = scorer.posterior(networks)
    as_good, likely = [], []
    for index, network in enumerate(networks[1:], 1):
        if values[index] <= values[0] and problem.fitter.within([network])[0]:
            mean, sd = joint.difference(index, 0)
            cost = problem.costs.metrics(network)[metric]
            as_good += [cost] * (mean <= 1e-9)
            likely += [cost] * (-mean >= 1.2816 * sd)
    return min(as_good), min(likely)


@pytest.mark.parametrize("metric", ["latency_ms", "memory_gb"])
def test_no_network_that_is_as_good_costs_less(metric):
    before = problem("Llama-3.2-1B", objectives=("loss", metric), params="1B..1.5B")
    found = aimed(before)
    model = found.aim
    assert model.vocab == found.space.model.vocab == 128256
    cheapest, cheapest_likely = by_hand(before, model)
    (limit,) = (b.limit for b in found.fitter.budgets if b.metric == metric)
    assert limit == pytest.approx(cheapest)
    (likely,) = found.likely
    cost = found.costs.metrics(likely)[metric]
    assert cost == pytest.approx(cheapest_likely, rel=1e-6)
    entry = against(found.costs, found.scorer, found.training, [model, likely])[1]
    assert LIKELY <= entry["probability"] <= 1


def test_of_each_genotype_the_smallest_width_is_taken():
    """In a space whose widths are not part of the genotype."""
    space = problem_of("tiny", workload="chat").space
    _, middle, *_ = space.architectures(space.sample(np.random.default_rng(0)))
    found = aimed(problem(middle.notation, "tiny", workload="chat"))
    genotype, chosen = found.target
    latency_ms = found.costs.metrics(chosen)["latency_ms"]
    assert latency_ms <= found.costs.metrics(middle)["latency_ms"] * (1 + 1e-6)
    smaller = [  # but for those that the host hides as well
        each
        for each in space.architectures(genotype)
        if found.costs.metrics(each)["latency_ms"] < latency_ms
    ]
    values = found.scorer.values([found.aim, chosen, *smaller])
    assert values[1] <= values[0] < min([*values[2:], np.inf])


@pytest.mark.parametrize(
    ("model", "more", "says"),
    [
        ("Llama-3.2-3B", {"params": "0.1B..0.3B"}, "the nearest one ranks 0"),
        ("Llama-3.2-1B", {"workload": "throughput-32k"}, "a number of sequences"),
        ("Llama-3.2-1B", {"objectives": ("loss", "tpot_ms")}, "one of latency_ms, .*; got tpot_ms"),
        ("Llama-3.2-1B", {"trials": 2}, "search.trials must be 0 with --as-good-as; got 2"),
        ("Llama-3.2-1B", {"evidence": "none"}, "search.as_good_as needs publications"),
        ("Llama-9", {}, "'Llama-9' is not a preset"),
    ],
)
def test_what_cannot_be_answered_is_one_line(model, more, says):
    with pytest.raises(FlashnasError, match=says) as error:
        aimed(problem(model, **more))
    assert len(str(error.value).splitlines()) == 1


def test_experts_are_a_reason_of_their_own():
    scorer, costs = load_scorer(None, 1e11), problem("Llama-3.2-1B").costs
    dense, sparse = map(Architecture.parse, (DENSE, SPARSE))
    first, entry = against(costs, scorer, scorer.training, [dense, sparse])
    assert first["reasons"] == pytest.approx(dict.fromkeys(("size", "shape", "mix", "experts"), 0))
    assert sum(entry["reasons"].values()) == pytest.approx(entry["difference"])
    assert without_experts(dense) == dense
    gain = scorer.posterior([sparse, without_experts(sparse)]).difference(0, 1)[0]
    assert entry["reasons"]["experts"] == pytest.approx(gain, abs=1e-6)
    assert gain < -0.05
    routers = sparse.active_params - without_experts(sparse).active_params
    assert routers == 12 * 64 * 1024


def test_own_trainings_are_held_against_what_is_as_good_without_them(tmp_path):
    rows = (
        "mine,my runs,12x(a f),400M,50B,val_loss,2.5",
        "mine,my runs,12x(m2 f),400M,50B,val_loss,2.7",
    )
    own = tmp_path / "own.csv"
    own.write_text("\n".join(["group,source,operators,params,tokens,metric,value", *rows]))
    found = aimed(problem("Llama-3.2-1B", params="1B..1.5B", evidence=str(own)))
    _, alone = aimed(problem("Llama-3.2-1B", params="1B..1.5B")).target
    assert found.without_own.hash == alone.hash != found.target[1].hash


def test_a_scorer_need_not_say_what_is_outside():
    found = problem("Llama-3.2-1B")

    class Own:
        """A scorer that has what `fn.search` asks of one of the user's, and no more."""

        def __getattr__(self, name):
            return getattr(found.scorer, name)

        def figures(self, network):
            return {name: found.scorer.figures(network)[name] for name in EXPECTED_FIGURES}

    networks = [Architecture.parse("1024: 12x(m2 f)"), Architecture.parse("1024: 12x(a f)")]
    assert [side["outside"] for side in against(found.costs, Own(), found.training, networks)] == [
        "",
        "",
    ]
