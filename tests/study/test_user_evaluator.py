"""A function of the user's in place of training, and spaces whose networks flashnas does not
know.
"""

import json
import os
import warnings

import foreign_space
import pandas as pd
import pytest
from cases import cases
from foreign_space import Counting, Gpt2, Gpt2Space, WidthFittedGpt2Space
from notes import Notes, trajectory
from one_line import one_line

from flashnas.base.errors import ConfigError, RunError
from flashnas.latency.table import LatencyTable
from flashnas.reporting.page import write_report
from flashnas.reporting.table import front_table
from flashnas.run_folder.layout import ForeignNetwork
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.samplers import SAMPLERS
from flashnas.study.config import SearchConfig
from flashnas.study.run_search import run_search
from flashnas.trials.pareto import non_dominated

pytestmark = pytest.mark.usefixtures("importable_helpers")


def search(
    out,
    *,
    resume=False,
    notes=None,
    evaluator=foreign_space.loss_and_latency,
    space=None,
    table=None,
    sampler=None,
    **config,
):
    asked = {
        "table": None,
        "trials": 8,
        "cycle_size": 4,
        "workers": 1,
        "sampler": "random",
        **config,
    }
    return run_search(
        SearchConfig(**asked),
        out,
        resume=resume,
        progress=notes or Notes(),
        evaluator=evaluator,
        space=space or Gpt2Space(),
        table=table,
        sampler=sampler,
    ).summary


def test_a_foreign_space_is_searched_with_figures_of_the_evaluator(tmp_path):
    summary = search(tmp_path / "run")
    run = RecordedRun.load(tmp_path / "run")
    assert sum(run.trials["state"] == "complete") == 8
    for row in run.trials.itertuples():
        network = Gpt2(**row.genotype)
        assert row.notation == network.notation
        assert row.hash == network.hash
        assert row.loss == pytest.approx(foreign_space.loss(network))
        assert row.latency_ms == pytest.approx(foreign_space.latency_ms(network))
        assert row.params == network.params
        assert row.scores == {"accuracy": network.layers / 10}
    best = non_dominated(run.trials[["loss", "latency_ms"]].to_numpy())
    assert {entry["hash"] for entry in summary["front"]} == set(run.trials["hash"][best])
    assert [entry.architecture for entry in run.front] == [
        ForeignNetwork(
            "foreign_space:Gpt2", e["notation"], e["hash"], run.front[i].architecture.to_dict()
        )
        for i, e in enumerate(summary["front"])
    ]
    assert all(
        Gpt2(**entry.architecture.to_dict()).notation == entry.notation for entry in run.front
    )
    page, _ = write_report(run)
    assert "width=" in page.read_text()
    assert "width=" in front_table(run)


def test_a_budget_on_own_latency_is_kept_before_anything_is_evaluated(tmp_path):
    calls = tmp_path / "calls"
    calls.touch()
    evaluator = Counting(calls)
    with pytest.raises(
        ConfigError, match="the evaluator returned 'latency_ms', which the latency table or cost"
    ):
        search(
            tmp_path / "twice",
            evaluator=evaluator,
            table=foreign_space.latency_ms,
            budgets={"latency_ms": 5.0},
        )
    search(
        tmp_path / "run",
        evaluator=foreign_space.loss,
        table=foreign_space.latency_ms,
        budgets={"latency_ms": 5.0},
    )
    trials = RecordedRun.load(tmp_path / "run").trials
    assert (trials["latency_ms"].dropna() <= 5.0).all()
    assert (trials["state"] == "complete").sum() == 8
    run = RecordedRun.load(tmp_path / "run")
    assert run.entry("table", "name") == "foreign_space:latency_ms"
    assert run.entry("evaluator") == "foreign_space:loss"
    assert run.entry("recipe") is None


def test_width_and_baselines_of_a_foreign_space_are_fitted_to_the_budget(tmp_path):
    search(
        tmp_path / "run",
        space=WidthFittedGpt2Space(),
        evaluator=foreign_space.loss,
        table=foreign_space.latency_ms,
        budgets={"latency_ms": 12.0},
        trials=5,
        baselines=True,
    )
    run = RecordedRun.load(tmp_path / "run")
    baselines = {
        "shallow": "width=192 layers=2 heads=2 ratio=2",  # which the search may propose, too
        "deep": "width=64 layers=8 heads=8 ratio=4",
    }
    named = dict(zip(run.baselines["label"], run.baselines["notation"], strict=True))
    assert named.items() <= baselines.items()
    assert set(baselines.values()) <= set(run.trained["notation"])
    for row in run.trained.itertuples():
        wider = [
            Gpt2(width, *map(int, row.hash.split("-")[1:]))
            for width in foreign_space.WIDTHS
            if width > int(row.hash.split("-")[0])
        ]
        assert row.latency_ms <= 12.0
        assert all(foreign_space.latency_ms(network) > 12.0 for network in wider)


def test_worker_processes_run_an_importable_evaluator_and_this_process_another(tmp_path):
    search(tmp_path / "pool", evaluator=Counting(tmp_path / "calls"), workers=2)
    pids = {json.loads(line)[1] for line in (tmp_path / "calls").read_text().splitlines()}
    assert os.getpid() not in pids
    here = []

    def local(network):
        here.append(os.getpid())
        return foreign_space.loss_and_latency(network)

    search(tmp_path / "local", evaluator=local)
    assert set(here) == {os.getpid()}
    assert len(here) == 8
    columns = ["genotype", "hash", "loss", "state"]
    pd.testing.assert_frame_equal(
        trajectory(tmp_path / "pool")[columns], trajectory(tmp_path / "local")[columns]
    )


def test_a_search_without_worker_processes_warns_of_that(tmp_path):
    class Local(Gpt2):
        """A network that a fresh process cannot import."""

    class LocalSpace(Gpt2Space):
        def architectures(self, genotype):
            return [Local(**genotype.to_dict())]

    def local(network):
        return foreign_space.loss_and_latency(network)

    for number, (evaluator, space, what) in enumerate(
        (
            (local, Gpt2Space(), f"the evaluator {__name__}:{local.__qualname__}"),
            (
                foreign_space.loss_and_latency,
                LocalSpace(),
                f"the networks {__name__}:{Local.__qualname__}",
            ),
        )
    ):
        with pytest.warns(UserWarning, match="cannot load") as caught:
            search(tmp_path / str(number), evaluator=evaluator, space=space, trials=2)
        assert [str(one.message) for one in caught] == [
            f"worker processes cannot load {what}: the evaluator scores one network after"
            " another in this process,"
            " without limits of time and memory; put it into a module of its own"
        ]
    with warnings.catch_warnings(record=True) as none:
        search(tmp_path / "pool", trials=2, workers=2, candidate_timeout_s=60)
    assert not none


def test_failures_are_recorded_trials_and_are_printed(tmp_path):
    notes = Notes()
    summary = search(
        tmp_path / "run",
        notes=notes,
        table=foreign_space.latency_ms,
        trials=12,
        evaluator=lambda network: foreign_space.sometimes_fails(network),
    )
    run = RecordedRun.load(tmp_path / "run")
    failed = run.failed
    assert len(failed) == sum(summary["failures"].values()) > 0
    assert set(failed["reason"]) <= {"RuntimeError: no memory for 4 layers", "loss became nan"}
    for reason, count in summary["failures"].items():
        assert f"{count} candidate{'s' if count > 1 else ''} failed: {reason}" in notes.lines
    assert sum(run.trials["state"].isin(["failed", "complete"])) == 12


def test_a_wrong_answer_is_the_reason_of_a_failure(tmp_path):
    for number, (found, words) in enumerate(cases("study", "wrong_answers")):
        assert words in one_line(
            RunError,
            search,
            tmp_path / str(number),
            evaluator=lambda _, found=found: found,
            trials=1,
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"evaluator": None}, "must name a latency table"),
        (
            {"evaluator": None, "table": foreign_space.latency_ms},
            "builds Gpt2 objects, which flashnas cannot train",
        ),
        (
            {"budgets": {"latency_ms": 1.0}},
            "a budget on latency_ms needs metrics before the evaluation",
        ),
        (
            {"table": LatencyTable.load("h100_sxm"), "workload": "chat"},
            "builds Gpt2 objects, which a latency table cannot answer",
        ),
        (
            {"table": lambda _: {"speed": 1.0}, "budgets": {"latency_ms": 1.0}},
            "metric of the cost function must be one",
        ),
        (
            {"table": lambda _: float("nan"), "budgets": {"latency_ms": 1.0}},
            "must return finite numbers; got latency_ms",
        ),
        (
            {"table": lambda _: 1.0, "budgets": {"memory_gb": 1.0}},
            "the cost function must return 'memory_gb'",
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_evaluated(tmp_path, more, words):
    assert words in one_line(ConfigError, search, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_another_sampler_of_ones_own_does_not_continue_a_run(tmp_path):
    search(tmp_path / "run", sampler=SAMPLERS["random"])
    message = one_line(RunError, search, tmp_path / "run", resume=True, sampler=SAMPLERS["nsga2"])
    assert "run.yaml: sampler is " in message
