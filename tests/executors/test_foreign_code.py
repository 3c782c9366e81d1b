"""Code of other packages that raises: one line with place, method and error, and what is finished
is kept.
"""

import dataclasses
from types import SimpleNamespace

import foreign_space
import numpy as np
import pytest
from foreign_space import WidthFittedGpt2Space
from one_line import one_line

import flashnas as fn
from flashnas.base.errors import ConfigError, PluginError
from flashnas.cli.main import one_line as as_printed
from flashnas.executors.job import Job
from flashnas.run_folder.earlier_runs import earlier_runs
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.samplers.aging_evolution import AgingEvolution

CALLS = {"left": 0}
SAME = WidthFittedGpt2Space().to_dict()  # that a broken space is, too


def counted(*_):
    """Raises from a set number of calls on."""
    CALLS["left"] -= 1
    if CALLS["left"] < 0:
        raise KeyError("mine\nsecond line")


def breaking(cls, method):
    """A class of this module with a method that calls `counted` first."""
    really = getattr(cls, method)

    def replaced(self, *words, **more):
        counted()
        return really(self, *words, **more)

    replaced.__code__ = replaced.__code__.replace(
        co_name=method, co_qualname=f"Broken{cls.__name__}.{method}"
    )
    return type(
        f"Broken{cls.__name__}",
        (cls,),
        {"to_dict": lambda self: SAME, method: replaced, "__module__": __name__},
    )


def cost(network):
    counted()
    return foreign_space.latency_ms(network)


def asked(out, **more):
    return {
        **dict(
            space=WidthFittedGpt2Space(),
            table=foreign_space.latency_ms,
            evaluator=foreign_space.loss,
            budgets={"latency_ms": 8.0},
            trials=12,
            workers=1,
            cycle_size=4,
            seed=1,
            sampler="aging-evolution",
            out=out,
        ),
        **more,
    }


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Fast: no worker is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "portable", lambda job: False)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    CALLS["left"] = 10**9
    return fn.search(**asked(tmp_path_factory.mktemp("finished") / "run"))


def failure(call, after):
    CALLS["left"] = after
    message = one_line(PluginError, call)
    assert as_printed(message) == message
    assert message.endswith(" raised KeyError: 'mine\\nsecond line'")
    return message


SPACE = "space test_foreign_code:BrokenWidthFittedGpt2Space"


def test_a_space_that_raises_is_named_with_its_method(tmp_path):
    """At its first call, before the search, and later."""
    later = {"sample": 3, "mutate": 3, "encode": 3, "architectures": 20}
    for method, after in (
        *dict.fromkeys([*later, "decode", "baselines", "distributions"], 0).items(),
        *later.items(),
    ):
        space = breaking(WidthFittedGpt2Space, method)()
        asks = asked(tmp_path / f"{method}{after}", space=space, baselines=True)
        assert f"{SPACE}.{method} raised" in failure(lambda asks=asks: fn.search(**asks), after)


def test_a_sampler_that_raises_is_named_with_its_method(tmp_path, finished):
    for method in ("__init__", "ask", "tell", "_propose", "_learn", "start_from"):
        sampler = breaking(AgingEvolution, method)
        more = {"start_from": [str(finished.path)]} if method == "start_from" else {}
        asks = asked(tmp_path / method, sampler=sampler, **more)
        line = failure(
            lambda asks=asks: fn.search(**asks), method not in ("__init__", "start_from")
        )
        assert f"sampler test_foreign_code:BrokenAgingEvolution.{method} raised" in line


def test_what_is_finished_is_kept_and_the_search_goes_on_when_the_space_is_repaired(
    tmp_path, finished
):
    class Broken(WidthFittedGpt2Space):
        def to_dict(self):
            return SAME

        def mutate(self, genotype, rng):
            counted()
            return super().mutate(genotype, rng)

    assert ".mutate raised" in failure(
        lambda: fn.search(**asked(tmp_path / "run", space=Broken())), 4
    )
    assert 0 < len(RecordedRun.load(tmp_path / "run").trained) < len(finished.trained)
    whole = fn.search(**asked(tmp_path / "run"), resume=True)
    assert whole.trials["hash"].tolist() == finished.trials["hash"].tolist()


def test_a_cost_function_that_raises_is_named(tmp_path):
    words = "cost function test_foreign_code:cost raised "
    for after in (0, 20):
        assert failure(
            lambda out=str(after): fn.search(**asked(tmp_path / out, table=cost)), after
        ).startswith(words)


def test_the_space_of_an_earlier_run_that_raises_is_named(finished):
    broken = breaking(WidthFittedGpt2Space, "decode")
    line = failure(lambda: earlier_runs([finished.path], broken()), 0)
    assert f"{SPACE}.decode raised" in line


def test_a_progress_object_that_raises_is_named(tmp_path):
    class Lines:
        def note(self, text):
            pass

        def update(self, snapshot):
            counted()

    assert "progress object test_foreign_code:" in failure(
        lambda: fn.search(**asked(tmp_path / "run"), progress=Lines()), 1
    )


def test_a_network_that_raises_is_named(tmp_path):
    class Net(foreign_space.Gpt2):
        def to_dict(self):
            counted()
            return super().to_dict()

    class Nets(foreign_space.Gpt2Space):
        def architectures(self, genotype):
            return [Net(**dataclasses.asdict(genotype))]

    assert "Net.to_dict raised" in failure(
        lambda: fn.search(**asked(tmp_path / "run", space=Nets())), 0
    )


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        (
            {"evaluator": 3},
            ConfigError,
            "search.evaluator must be a function network -> loss, or a mapping with it; got 3",
        ),
        (
            {"sampler": SimpleNamespace()},
            ConfigError,
            "search.sampler must be text or type[Sampler]; got",
        ),
        (
            {"table": SimpleNamespace()},
            ConfigError,
            "search.table must be text or LatencyTable | Callable; got",
        ),
        ({"table": len}, PluginError, "cost function builtins:len raised TypeError: "),
    ],
)
def test_what_cannot_be_called_is_refused_before_the_search(tmp_path, more, error, words):
    assert one_line(error, fn.search, **asked(tmp_path / "run", **more)).startswith(words)
    assert not (tmp_path / "run").exists()


class WithoutGoals(AgingEvolution):
    def __init__(self, *, space, seed):
        raise AssertionError("not reached")


class OneWord(WidthFittedGpt2Space):
    def mutate(self, genotype):
        return genotype


class Lists(WidthFittedGpt2Space):
    def sample(self, rng):
        return [super().sample(rng)]

    def mutate(self, genotype, rng):
        return genotype

    def encode(self, genotype):
        return super().encode(genotype[0])

    def architectures(self, genotype):
        return super().architectures(genotype[0])


class Empty(WidthFittedGpt2Space):
    def architectures(self, genotype):
        return []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampler": WithoutGoals}, "sampler test_foreign_code:WithoutGoals raised TypeError: "),
        ({"space": OneWord()}, "space test_foreign_code:OneWord raised TypeError: "),
        ({"space": Lists()}, "space 'gpt2': its genotypes must be hashable; got list"),
        (
            {"space": Empty()},
            "space 'gpt2': architectures must return at least one network; got none",
        ),
    ],
)
def test_methods_of_another_form_are_refused_before_the_search(tmp_path, more, words):
    assert one_line(
        (PluginError, ConfigError), fn.search, **asked(tmp_path / "run", **more)
    ).startswith(words)
    assert not (tmp_path / "run").exists()


def test_a_bug_of_flashnas_stays_a_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        return np.zeros(3)[5]

    monkeypatch.setattr("flashnas.study.trials.Trials.add", broken)
    with pytest.raises(IndexError):
        fn.search(**asked(tmp_path / "run"))
