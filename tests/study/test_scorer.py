"""The models of one search: what is expected of a network before and after its short training."""

import dataclasses
import functools

import numpy as np
import pytest
from offenders import every
from one_line import one_line
from problems import problem_of, reading_problem

import flashnas as fn
from flashnas.algorithms.trial import EXPECTED_FIGURES
from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError, RunError
from flashnas.loss.model import CHARGE, SHORT_WEIGHT, Prediction
from flashnas.study import scorer as room
from flashnas.study.scorer import recipe_read
from flashnas.training.recipe import Recipe

HYBRID = Architecture.parse("1536: 4x(m2 f m2 f a f)")
STATES = Architecture.parse("1536: 12x(m2 f)")
BARE = Architecture.parse("1536: 12x(d)")


UNKNOWN = Architecture.parse("1536: 12x(kda f)")


@pytest.fixture(scope="module")
def unread():
    return problem_of().scorer


@pytest.fixture(scope="module")
def read():
    return reading_problem().scorer


def test_the_recipe_that_was_held_against_publications_is_read_under_any_name():
    cpu = Recipe.load("cpu")
    assert recipe_read(cpu) is cpu
    assert recipe_read(dataclasses.replace(cpu, name="mine")).name == "mine"
    assert recipe_read(None) is None
    smaller = dataclasses.replace(cpu, width_factor=8)
    assert recipe_read(smaller) is smaller
    assert recipe_read(dataclasses.replace(cpu, tokens=2 * cpu.tokens)) is None


def test_figures_are_computed_once(read, monkeypatch):
    counted = []
    expected_of = room.expected_of

    def counting(*arguments):
        counted.append(arguments)
        return expected_of(*arguments)

    monkeypatch.setattr(room, "expected_of", counting)
    first = read.figures(Architecture.parse("1280: 7x(m2 f a f)"), 4.0)
    assert first == read.figures(Architecture.parse("1280: 7x(m2 f a f)"), 4.0)
    assert len(counted) == 1
    read.figures(Architecture.parse("1280: 7x(m2 f a f)"), 4.1)
    assert len(counted) == 2
    assert set(first) == {*EXPECTED_FIGURES, "outside"}
    assert read.figures("a network of another package") == {}


def test_a_network_is_ranked_by_its_mean_and_what_nobody_vouches_for(read):
    networks = [HYBRID, STATES, BARE]
    silence = read.model.silence(networks, 1e11)
    assert silence[0] == silence[1] == 0 < silence[2]
    mean = read.posterior(networks).mean
    assert read.values(networks) == pytest.approx(mean + CHARGE * silence)
    alone = [read.values([network])[0] for network in networks]
    assert alone == pytest.approx(read.values(networks)), "a property of each network"
    assert read.values([]).tolist() == []
    figures = read.figures(BARE)
    assert (figures["full_loss"], figures["silence"]) == pytest.approx((mean[2], silence[2]))
    assert figures["outside"]
    assert read.figures(HYBRID)["outside"] == ""


def test_a_short_loss_counts_where_it_is_read_and_no_publication_has_the_operator(read, unread):
    losses = [4.0, 4.2]
    for scorer, network in ((read, HYBRID), (unread, UNKNOWN)):
        assert scorer.step_sds([network]).tolist() == [0.0]
        assert len({scorer.figures(network, loss)["full_loss"] for loss in (None, *losses)}) == 1
    assert (read.step_sds([UNKNOWN]) > 0).all()
    full = [read.figures(UNKNOWN, loss)["full_loss"] for loss in losses]
    assert full[1] - full[0] == pytest.approx(SHORT_WEIGHT * 0.2)
    assert read.values([UNKNOWN, UNKNOWN], losses) == pytest.approx(
        np.array(full) + read.model.silence([UNKNOWN], 1e11)
    )
    recalls = {read.figures(UNKNOWN, loss)["expected_recall"] for loss in (None, *losses)}
    assert len(recalls) == 1


def test_recall_does_not_depend_on_what_is_asked_together(read, monkeypatch):
    networks = [HYBRID, STATES, BARE, HYBRID, Architecture.parse("1024: 6x(a f)")]
    together = read.recalls(networks)
    monkeypatch.setattr(room, "TOGETHER", 2)
    np.testing.assert_allclose(read.recalls(networks), together, atol=1e-12)
    np.testing.assert_allclose(
        together, [read.figures(network)["expected_recall"] for network in networks], atol=1e-9
    )


def test_the_digest_changes_with_all_that_changes_the_figures(read, unread, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(
        "group,source,operators,params,hidden,tokens,metric,value\n"
        "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
        "mine,me,4x(m2 f m2 f a f),300M,1024,10B,val_loss,2.8\n"
    )
    long, mine = (
        problem_of(**more).scorer for more in ({"train_tokens": "200B"}, {"evidence": str(own)})
    )
    digests = [read.digest, unread.digest, long.digest, mine.digest]
    assert len(set(digests)) == 4
    assert unread.digest == problem_of(budget_ms=1400.0).scorer.digest
    assert mine.to_dict()["source"]["own"]["path"] == str(own)


def test_trainings_longer_than_those_of_publications_are_extrapolated():
    assert not problem_of().scorer.extrapolated
    long = problem_of(train_tokens="500T").scorer
    assert long.extrapolated
    assert "training tokens" in long.figures(HYBRID)["outside"]


def test_the_shape_of_equal_networks_makes_no_difference(read):
    def shape(networks):
        return read.reasons(networks, [None, None])["shape"]

    assert shape([HYBRID, HYBRID]) == 0.0
    wide, deep = Architecture.parse("2560: 3x(a f)"), Architecture.parse("1024: 19x(a f)")
    assert shape([wide, deep]) == -shape([deep, wide]) != 0


class Smallest:
    """Ranks by the number of parameters alone."""

    tokens, extrapolated, digest = 1e9, False, "smallest"

    def posterior(self, networks, losses=None):
        return Prediction.of(self.values(networks), 1e-4 * np.eye(len(networks)))

    def values(self, networks, losses=None):
        return np.array([network.params / 1e9 for network in networks])

    def recalls(self, networks):
        return np.zeros(len(networks))

    step_sds = recalls

    def figures(self, network, loss=None):
        return {**dict.fromkeys(EXPECTED_FIGURES, 0.0), "full_loss": network.params / 1e9}

    def reasons(self, networks, losses):
        return {"size": 1.0, "shape": 0.0, "mix": 0.0, "training": 0.0}

    def support(self, network, other):
        return None

    def to_dict(self):
        return {"name": "smallest"}


def test_a_scorer_of_ones_own_ranks_in_place_of_publications(tmp_path):
    asked = {
        "workload": "chat",
        "calibration": "paper",
        "budgets": {"latency_ms": 60},
        "trials": 0,
        "out": tmp_path / "run",
    }
    run = fn.search(space="tiny", scorer=Smallest(), **asked)
    assert run.recommended.params == run.trials["params"].min()
    assert run.entry("scorer") == {"name": "smallest"}
    with pytest.raises(RunError, match=r"question\.scorer is 'smallest'"):
        fn.search(space="tiny", resume=run.path, **asked)


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
            " tokens, extrapolated, digest, recalls, step_sds, figures, reasons, support, to_dict",
        ),
        (
            broken(values=lambda self, networks, losses=None: 1 / 0),
            "scorer test_scorer:Smallest.posterior raised ZeroDivisionError: division by zero",
        ),
        (
            broken(posterior=lambda self, networks, losses=None: np.zeros(len(networks))),
            "scorer Broken: posterior must return a Prediction; got array([0., 0., 0.])",
        ),
        (
            broken(step_sds=lambda self, networks: [1.0] * len(networks)),
            "scorer Broken: step_sds of 3 networks must be an array [3] of finite numbers; got"
            " [1.0, 1.0, 1.0]",
        ),
        (
            broken(recalls=lambda self, networks: np.full(len(networks), np.nan)),
            "scorer Broken: recalls of 3 networks must be an array [3] of finite numbers; got"
            " array([nan, nan, nan])",
        ),
        (
            predicting(np.full((1, 1), np.nan)),
            "Prediction: covariance must be an array [3, 3] of finite numbers; got array([[nan]])",
        ),
        (
            broken(posterior=lambda self, *_: Prediction(ONES, None, None, 0.0, 0.0)),
            "scorer test_scorer:<lambda> raised AttributeError: 'NoneType' object has no attribute"
            " 'variance'",
        ),
        (
            broken(figures=lambda self, network, loss=None: {"full_loss": 1.0}),
            "scorer Broken: figures must have the numbers full_loss, full_loss_sd, silence,"
            " expected_recall, expected_recall_sd; got {'full_loss': 1.0}",
        ),
        (
            broken(reasons=lambda self, networks, losses: {"energy": 1.0}),
            "scorer Broken: reasons must have the numbers size, shape, mix, training; got {'energy':"
            " 1.0}",
        ),
        (
            broken(tokens="1B"),
            "scorer Broken: its attributes must have the numbers tokens; got {'tokens': '1B'}",
        ),
    ]
)
def test_a_scorer_that_breaks_its_protocol_is_one_line_before_the_search(case, tmp_path):
    scorer, message = case
    asked = {"workload": "chat", "calibration": "paper", "budgets": {"latency_ms": 60}}
    search = functools.partial(fn.search, space="tiny", trials=0, out=tmp_path / "run", **asked)
    assert one_line(FlashnasError, search, scorer=scorer) == message
    assert not (tmp_path / "run").exists()


def test_a_scorer_that_could_not_rank_is_refused(tmp_path):
    search = functools.partial(fn.search, space="tiny", scorer=Smallest(), out=tmp_path / "run")
    for other in ({"rank_by": "short"}, {"evaluator": lambda network: 1.0}):
        message = one_line(FlashnasError, search, workload="chat", trials=2, **other)
        assert message.startswith("search.scorer ranks networks of flashnas' operators in a search")


def test_what_a_scorer_raises_during_a_search_names_its_method(tmp_path):
    def values(self, networks, losses=None):
        if len(networks) > 1:
            raise LookupError("no such row")
        return Smallest.values(self, networks)

    message = one_line(
        FlashnasError,
        functools.partial(fn.search, space="tiny", workload="chat", trials=0),
        scorer=broken(values=values),
        budgets={"latency_ms": 14_000},
        out=tmp_path / "run",
    )
    assert message.startswith("scorer test_scorer:")
    assert message.endswith("raised LookupError: no such row")
