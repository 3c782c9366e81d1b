"""What ranks the networks of a search: observed losses, or an object of the user's."""

import dataclasses
import functools
import sys

import numpy as np
import pytest
from offenders import every
from one_line import one_line
from problems import problem_of

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.architecture import networks as networks_room
from flashnas.architecture.networks import Networks
from flashnas.base.errors import FlashnasError, RunError
from flashnas.loss.model import CHARGE, Prediction
from flashnas.observations.losses import ObservedLoss
from flashnas.reporting.statements import statements
from flashnas.study import scorer as room
from flashnas.study.scorer import complexities, load_scorer
from flashnas.trials.trial import EXPECTED_FIGURES

HYBRID = Architecture.parse("1536: 4x(m2 f m2 f a f)")
STATES = Architecture.parse("1536: 12x(m2 f)")
BARE = Architecture.parse("1536: 12x(d)")


UNKNOWN = Architecture.parse("1536: 12x(kda f)")


@pytest.fixture(scope="module")
def scorer():
    return problem_of().scorer


def test_a_network_is_ranked_by_its_mean_and_what_nobody_vouches_for(scorer):
    networks = [HYBRID, STATES, BARE]
    silence = scorer.model.silence(scorer.table(networks))
    assert silence[0] == silence[1] == 0 < silence[2]
    mean = scorer.posterior(networks).mean
    assert scorer.values(networks) == pytest.approx(mean + CHARGE * silence)
    alone = [scorer.values([network])[0] for network in networks]
    assert alone == scorer.values(networks).tolist(), "bits do not depend on what is asked together"
    assert scorer.values([]).tolist() == []
    figures = scorer.figures(BARE)
    assert (figures["full_loss"], figures["silence"]) == pytest.approx((mean[2], silence[2]))
    assert figures["outside"]
    assert scorer.figures(HYBRID)["outside"] == ""


@pytest.mark.parametrize(
    ("notation", "expected"),
    [
        ("2048: 12x(a f)", 0),
        ("2048: 4x(m2 f m2 f a f)", 0),
        ("2048: 3x(m2 f m2 f a f m2 f)", 0),  # the middle one of each four
        ("2048: 12x(m2 f)", 0),
        ("2048: 4x(m2 f gd f a f)", 1),  # two recurrences
        ("2048: 4x(m2 f gd f d f a f)", 2),
        ("2048: 2x(m2 f m2 f a f) m2 f 2x(m2 f m2 f a f)", 1),  # attention at no one distance
        ("2048: 2x(m2 f m2 f a f) 2x(m2 f)", 0),
        ("2048: 2x(m2 f m2 f a f) 3x(m2 f)", 1),  # the last one would attend
        ("2048: 3x(swa f a f)", 0),  # a window attends to no distance
        ("2048(meta=128): 12x(a f)", 1),
        ("2000: 12x(a(head_dim=100) f)", 1),
        (
            "2000(meta=1): 2x(m2(head_dim=50) f gd(head_dim=100) f a(head_dim=100) f a(head_dim=100) f)",
            4,
        ),
    ],
)
def test_complexity_has_a_price(scorer, notation, expected):
    network = Architecture.parse(notation)
    assert complexities([network])[0] == expected
    silence = scorer.model.silence(scorer.table([network]))
    model = scorer.posterior([network]).mean[0] + CHARGE * silence[0]
    value = scorer.values([network])[0]
    assert value == pytest.approx(model + 0.002 * expected, abs=1e-9)
    assert scorer.figures(network)["value"] == pytest.approx(value, abs=1e-9)


def observed(nats, group="mine", tokens=1e10):
    """Trainings of networks that publications have, and of one that they have not."""
    networks = (HYBRID, STATES, UNKNOWN)
    return [
        ObservedLoss.of(network, nats=loss, tokens=tokens, group=group)
        for network, loss in zip(networks, nats, strict=True)
    ]


def test_what_was_trained_moves_what_is_expected(scorer):
    before = scorer.posterior([HYBRID, UNKNOWN]).difference(1, 0)
    good, bad = (scorer.informed_by(observed([2.5, 2.52, nats])) for nats in (2.4, 2.6))
    for other, sign in ((good, -1), (bad, 1)):
        mean, sd = other.posterior([HYBRID, UNKNOWN]).difference(1, 0)
        assert sign * (mean - before[0]) > 0
        assert sd < before[1]
        assert other.ranked_by == "published and own trainings"
        assert other.digest == scorer.digest, "what a run trains does not make it another one"
    assert scorer.ranked_by == "published trainings"
    again = bad.informed_by(observed([2.5, 2.52, 2.4]))
    assert again.values([UNKNOWN]) == pytest.approx(good.values([UNKNOWN]), abs=1e-9)
    figures = [each.figures(UNKNOWN) for each in (good, bad)]
    assert figures[0]["full_loss"] < figures[1]["full_loss"]
    assert figures[0]["expected_recall"] == figures[1]["expected_recall"]


def test_own_losses_stay_beside_those_that_are_bought(scorer):
    own, bought = observed([2.5, 2.52, 2.4], "before"), observed([3.5, 3.52, 3.4])
    both = load_scorer(None, scorer.tokens, known=own).informed_by(bought)
    assert (both.own, both.trained) == (tuple(own), tuple(bought))
    together = scorer.informed_by([*own, *bought])
    networks = [HYBRID, UNKNOWN]
    assert both.values(networks) == pytest.approx(together.values(networks), abs=1e-9)


def test_without_publications_own_trainings_alone_rank():
    scorer = load_scorer(None, 1e10, published=False)
    assert not scorer.published
    assert scorer.recalls([HYBRID, BARE]).tolist() == [0, 0]
    informed = scorer.informed_by(observed([2.5, 2.4, 2.6]))
    assert informed.ranked_by == "own trainings"
    assert np.argsort(informed.posterior([HYBRID, STATES, UNKNOWN]).mean).tolist() == [1, 0, 2]
    assert informed.figures(HYBRID)["expected_recall"] is None


def test_many_networks_are_scored_as_arrays_like_each_of_them(scorer, monkeypatch):
    stacks = [network.operators for network in (HYBRID, STATES, BARE, UNKNOWN)]
    composition, hidden = np.arange(12) % 4, np.repeat([1536, 2048, 2560], 4)
    networks = Networks(stacks, composition, hidden, tied=False, meta_tokens=256)
    informed = scorer.informed_by(observed([2.5, 2.52, 2.6]))
    ways = [way for each in (scorer, informed) for way in (each.values, each.recalls)]
    ways.append(complexities)
    architectures = list(networks)
    alone = [[way([network])[0] for network in architectures] for way in ways]
    assert [way(architectures).tolist() for way in ways] == alone
    assert alone[-1][0] == 1
    monkeypatch.setattr(networks_room, "Architecture", None)  # none is built
    monkeypatch.setattr(room, "TOGETHER", 5)
    assert [way(networks).tolist() for way in ways] == alone


def test_networks_of_several_vocabularies_are_scored_together(scorer):
    networks = [HYBRID, dataclasses.replace(HYBRID, vocab=1000, meta_tokens=16)]
    assert np.ptp(scorer.recalls(networks)) == np.ptp(scorer.posterior(networks).mean) == 0
    assert np.diff(scorer.values(networks)) == pytest.approx(0.002)


def test_the_digest_changes_with_all_that_changes_the_figures(scorer, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(
        "group,source,operators,params,hidden,tokens,metric,value\n"
        "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
        "mine,me,4x(m2 f m2 f a f),300M,1024,10B,val_loss,2.8\n"
    )
    long, mine = (
        problem_of(**more).scorer for more in ({"train_tokens": "200B"}, {"evidence": str(own)})
    )
    assert len({scorer.digest, long.digest, mine.digest}) == 3
    before = scorer.digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "COMPLEXITY_NATS", 0.0)
        assert scorer.digest != before
    assert scorer.digest == problem_of(budget_ms=1400.0).scorer.digest
    assert mine.to_dict()["source"]["own"]["path"] == str(own)


def test_trainings_longer_than_those_of_publications_lie_outside():
    long = problem_of(train_tokens="500T").scorer
    assert "training tokens" in long.figures(HYBRID)["outside"]


def test_the_shape_of_equal_networks_makes_no_difference(scorer):
    def shape(networks):
        return scorer.reasons(networks)["shape"]

    assert shape([HYBRID, HYBRID]) == 0.0
    wide, deep = Architecture.parse("2560: 3x(a f)"), Architecture.parse("1024: 19x(a f)")
    assert shape([wide, deep]) == -shape([deep, wide]) != 0


class Smallest:
    """Ranks by the number of parameters alone."""

    tokens, digest = 1e9, "smallest"

    def posterior(self, networks):
        return Prediction.of(self.values(networks), 1e-4 * np.eye(len(networks)))

    def values(self, networks):
        return np.array([network.params / 1e6 for network in networks])

    def recalls(self, networks):
        return np.zeros(len(networks))

    def figures(self, network):
        return dict.fromkeys(EXPECTED_FIGURES, 0.0) | dict.fromkeys(
            ("full_loss", "value"), network.params / 1e6
        )

    def reasons(self, networks):
        return {"size": 1.0, "shape": 0.0, "mix": 0.0}

    def to_dict(self):
        return {"name": "smallest"}


ASKED = {"space": "tiny", "workload": "chat", "calibration": "paper", "budgets": {"latency_ms": 60}}


def test_a_scorer_of_ones_own_ranks_in_place_of_publications(tmp_path):
    run = fn.search(scorer=Smallest(), out=tmp_path / "run", **ASKED)
    assert run.recommended.params == run.trials["params"].min()
    assert run.entry("scorer") == {"name": "smallest", "digest": "smallest"}
    assert run.entry("answer", "ranked_by") == "scorer Smallest"
    said = "\n".join(" ".join(line) for line in statements(run))
    assert "scorer Smallest" in said
    assert not [line for line in said.splitlines() if "publication" in line or "evidence" in line]
    with pytest.raises(RunError, match=r"scorer\.digest is 'smallest'"):
        fn.search(resume=run.path, **ASKED)


ONES = np.ones(3)


class Lacking:
    posterior, values = Smallest.posterior, Smallest.values


def broken(**methods):
    return type("Broken", (Smallest,), methods)()


def predicting(covariance):
    return broken(posterior=lambda self, *_: Prediction.of(ONES, covariance))


@every(
    case=[
        (
            Lacking(),
            "search.scorer must have all of flashnas.study.scorer.Scorer; scorer Lacking has no"
            " tokens, digest, recalls, figures, reasons, to_dict",
        ),
        (
            broken(values=lambda self, networks: 1 / 0),
            "scorer test_scorer:Smallest.posterior raised ZeroDivisionError: division by zero",
        ),
        (
            broken(posterior=lambda self, networks: np.zeros(len(networks))),
            "scorer Broken: posterior must return a Prediction; got array([0., 0., 0.])",
        ),
        (
            broken(recalls=lambda self, networks: np.full(len(networks), np.nan)),
            "scorer Broken: recalls of 3 networks must be an array [3] of finite numbers; got"
            " array([nan, nan, nan])",
        ),
        (
            predicting(np.full((1, 1), np.nan)),
            "Prediction.shared must be an array [3, 3] of finite numbers; got array([[nan]])",
        ),
        (
            broken(posterior=lambda self, *_: Prediction(ONES, None, None, 0.0, 0.0)),
            "Prediction.shared must be an array [3, 3] of finite numbers; got None",
        ),
        (
            broken(values=lambda self, networks: sys.exit(0)),
            "scorer test_scorer:Smallest.posterior raised SystemExit: 0",
        ),
        (
            broken(figures=lambda self, network: {"full_loss": 1.0}),
            "scorer Broken: figures must have the numbers value, full_loss, full_loss_sd,"
            " silence, expected_recall, expected_recall_sd; got {'full_loss': 1.0}",
        ),
        (
            broken(reasons=lambda self, networks: {"energy": 1.0}),
            "scorer Broken: reasons must have the numbers size, shape, mix; got {'energy': 1.0}",
        ),
        (
            broken(tokens="1B"),
            "scorer Broken: its attributes must have the numbers tokens; got {'tokens': '1B'}",
        ),
    ]
)
def test_a_scorer_that_breaks_its_protocol_is_one_line_before_the_search(case, tmp_path):
    scorer, message = case
    search = functools.partial(fn.search, out=tmp_path / "run", **ASKED)
    assert one_line(FlashnasError, search, scorer=scorer) == message
    assert not (tmp_path / "run").exists()


def test_a_scorer_that_could_not_rank_or_learn_is_refused(tmp_path):
    search = functools.partial(fn.search, scorer=Smallest(), out=tmp_path / "run", **ASKED)
    message = one_line(FlashnasError, search, evaluator=lambda network: 1.0)
    assert message.startswith("search.scorer and search.evaluator both rank networks")
    for asked, words in (
        ({"trials": 2}, "trials must be 0, because scorer Smallest reads none; got 2"),
        ({"evidence": "none"}, "evidence must be left out, because scorer Smallest reads none;"),
    ):
        assert one_line(FlashnasError, search, **asked).startswith(f"search.{words}")
    assert not (tmp_path / "run").exists()


def test_what_a_scorer_raises_during_a_search_names_its_method(tmp_path):
    def values(self, networks):
        if len(networks) > 3:
            raise LookupError("no such row")
        return Smallest.values(self, networks)

    search = functools.partial(fn.search, out=tmp_path / "run", **ASKED)
    message = one_line(FlashnasError, search, scorer=broken(values=values))
    assert message.startswith("scorer test_scorer:")
    assert message.endswith("raised LookupError: no such row")
