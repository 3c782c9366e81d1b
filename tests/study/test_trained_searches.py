"""The trainings of a search: which are chosen, what they change, the same trajectory however they are
run, and none where none is asked for."""

import dataclasses
import json
import time

import foreign_space
import forks
import pandas as pd
import pytest
import yaml
from fresh import printed
from made_up_trainings import make_up
from notes import Notes, trajectory
from one_line import one_line
from problems import with_few_candidates

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError, ConfigError, RunError
from flashnas.cli.main import main
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.run_search import run_search
from flashnas.study.trials import ALIKE_NATS
from flashnas.training.cost import training_flops
from flashnas.trials.pareto import pareto

pytestmark = pytest.mark.usefixtures("importable_helpers")


@pytest.fixture(scope="module")
def config(small_corpus, quick_recipe):
    """A full training as long as the recipe's, so that trainings tell much."""
    return SearchConfig(
        space="tiny",
        workload="chat",
        calibration="paper",
        budgets={"latency_ms": 104.0},
        train_tokens="512",
        trials=6,
        recipe=str(quick_recipe),
        data=str(small_corpus),
        measure=False,
        workers=1,
    )


def search(config, out, *, resume=False, **changes):
    progress = Notes()
    config = dataclasses.replace(config, **changes)
    found = run_search(config, out, resume=resume, progress=progress)
    return found, progress.lines


def against_mixtures(network):
    """The reverse of what publications say."""
    return 5.0 + 0.2 * len({spec.kind for spec in network.operators if spec.mixes_tokens})


@pytest.fixture(scope="module")
def acquired(config, tmp_path_factory):
    """A search whose trainings contradict what was expected: what it found, its notes, and what it
    trained."""
    out = tmp_path_factory.mktemp("bought") / "run"
    with pytest.MonkeyPatch.context() as patch:
        calls = make_up(patch, against_mixtures)
        return *search(config, out), calls


OF_A_RUN = ("run", "seconds", "front", "recommended")  # places and times


def without_times(summary):
    return {name: summary[name] for name in summary if name not in OF_A_RUN}


def outcomes(out):
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b'"ended"') if journal.exists() else 0


def test_as_many_networks_are_trained_as_were_asked_for_and_a_line_says_what_for(acquired):
    found, notes, calls = acquired
    (each,) = found.answer.trained
    assert len(calls) == len(set(calls)) == len(each["networks"]) == 6
    assert each["gain"] > 0
    assert each["flops"] > 0
    price, change = (line for line in notes if line.startswith(("training ", "it ")))
    assert price.startswith(f"training 6 networks on 512 tokens each, {each['flops']:.1e} FLOPs in")
    same = each["before"] == each["after"]
    assert change.startswith("it leaves" if same else "it changes the recommendation to ")
    assert found.answer.ranked_by == "published and own trainings"


def test_cycles_of_trainings_learn_from_those_before(config, tmp_path, monkeypatch):
    calls = make_up(monkeypatch, against_mixtures)
    found, notes = search(config, tmp_path / "run", trials=5, cycle_size=2)
    first, second, third = found.answer.trained
    assert [len(each["networks"]) for each in found.answer.trained] == [2, 2, 1]
    assert len(set(calls)) == len(calls) == 5
    assert (first["after"], second["after"]) == (second["before"], third["before"])
    lines = [line.partition(" on ")[0] for line in notes if line.startswith("training ")]
    assert lines == ["training 2 networks", "training 2 networks", "training 1 network"]


def test_what_a_search_with_trainings_leaves(acquired):
    found, _, calls = acquired
    run = RecordedRun.load(found.path)
    frame = run.scored
    assert found.summary["answer"] == run.entry("answer")
    assert run.entry("objectives") == ["full_loss", "latency_ms"]
    assert run.entry("recipe", "name") == "quick"
    assert set(frame.loc[frame["state"] == "complete", "hash"]) == set(calls)
    assert set(frame["origin"]) == {"search"}, "all networks of families are larger"
    figures = ["value", "full_loss", "full_loss_sd", "silence", "expected_recall"]
    assert frame[figures].notna().all(axis=None)
    front = [entry["hash"] for entry in found.summary["front"]]
    values = frame.set_index("hash")["value"]
    assert values[found.answer.recommended] <= values.min() + ALIKE_NATS
    alike = frame.round({"value": 9, "latency_ms": 9})  # as trials compare
    assert set(front) <= set(frame["hash"][pareto(alike, ("full_loss", "latency_ms"))])


def test_a_finished_run_goes_on_and_another_question_does_not(acquired, config, monkeypatch):
    found, _, _ = acquired
    again = make_up(monkeypatch, against_mixtures)
    continued, notes = search(config, found.path, resume=True)
    assert (without_times(continued.summary), again) == (without_times(found.summary), [])
    assert [line for line in notes if line.startswith("training ")]
    for changes in ({"train_tokens": "10B"}, {"min_recall": -0.9}, {"seed": 1}):
        message = one_line(RunError, search, config, found.path, resume=True, **changes)
        assert message.startswith(f"{found.path}/run.yaml: ")
        assert message.endswith("; choose another --out or the same question")


def test_what_failed_is_not_proposed_again(config, tmp_path, monkeypatch):
    def fail(network):
        raise CandidateError("loss became nan")

    calls = make_up(monkeypatch, fail)
    found, notes = search(config, tmp_path / "run", trials=4)
    assert len(calls) == len(set(calls)) == found.summary["trials"]["failed"] == 4
    assert len([line for line in notes if line.startswith("it ")]) == 1
    assert found.answer.recommended not in calls
    assert found.answer.ranked_by == "published trainings"


def killed_search(config, out):
    """In a process of its own, which is killed."""
    with pytest.MonkeyPatch.context() as patch:
        with_few_candidates(patch)
        forks.fork_workers(patch)
        search(config, out)


@pytest.mark.slow
def test_killed_while_it_trains_and_continued_with_more_workers_it_is_the_same(config, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    found, _ = search(config, whole)
    process = forks.start(killed_search, config, cut)
    deadline = time.monotonic() + 300
    while not outcomes(cut) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert 0 < outcomes(cut) < len(found.answer.trained[0]["networks"])
    again, _ = search(config, cut, resume=True, workers=2)
    pd.testing.assert_frame_equal(trajectory(cut), trajectory(whole))
    assert outcomes(cut) == outcomes(whole)
    assert without_times(again.summary) == without_times(found.summary)


# -- nothing but trainings ranks -------------------------------------------------------------------


def test_without_publications_each_proposal_is_trained(config, tmp_path, monkeypatch):
    calls = make_up(monkeypatch, against_mixtures)
    found, _ = search(
        config,
        tmp_path / "run",
        evidence="none",
        sampler="aging-evolution",
        sampler_options={"population": 4, "tournament": 2},
        cycle_size=4,
        trials=12,
        baselines=True,
    )
    frame = RecordedRun.load(found.path).trials
    trained = frame[frame["state"] == "complete"]
    assert list(trained["hash"]) == calls
    assert sum(trained["origin"] == "search") == 12
    assert set(frame["state"]) == {"complete"}, "nothing is only expected"
    assert sum(trained["origin"] == "baseline") == len(load_space("tiny").baselines())
    answer = found.answer
    losses = trained[trained["origin"] == "search"].set_index("hash")["loss"]
    assert losses[answer.recommended] == losses.min(), "a baseline is no trial"
    assert answer.ranked_by == "own trainings"
    assert answer.trained == ()
    assert trained["expected_recall"].isna().all()


def test_evidence_none_trains_24_networks_unless_asked_otherwise(config, tmp_path, monkeypatch):
    calls = make_up(monkeypatch, against_mixtures)
    found, notes = search(config, tmp_path / "run", evidence="none", trials=None)
    assert len(calls) == found.summary["trials"]["complete"] == 24
    assert found.config["objectives"] == ["loss", "latency_ms"]
    losses = RecordedRun.load(found.path).trained.set_index("hash")["loss"]
    assert losses[found.answer.recommended] == losses.min()
    assert any("lowest trained loss is expected to fall" in line for line in notes)


SIXTEEN = """
template: layerwise
widths: [1024, 1536]
layers: {depth: [3, 3], choices: [m2 f, a f]}
"""


@pytest.fixture
def sixteen(config, tmp_path):
    """The options of a search of 16 networks by their trained losses."""
    (tmp_path / "space.yaml").write_text(SIXTEEN)
    return dataclasses.replace(
        config, space=str(tmp_path / "space.yaml"), evidence="none", budgets={}, workload="chat"
    )


def by_order(network):
    """The first operators count most."""
    return 5.0 + sum(
        2.0**-place for place, spec in enumerate(network.operators) if spec.kind == "a"
    )


def test_all_of_a_space_are_trained_other_orders_too_and_then_a_line_says_so(
    sixteen, tmp_path, monkeypatch
):
    calls = make_up(monkeypatch, by_order)
    for trials in (16, 40):
        found, notes = search(sixteen, tmp_path / "run", trials=trials, resume=trials > 16)
        assert len(calls) == len(set(calls)) == found.summary["trials"]["complete"] == 16
        assert ("the space has no more candidates within the budget" in notes) is (trials > 16)
    losses = RecordedRun.load(found.path).trained.set_index("hash")["loss"]
    assert losses[found.answer.recommended] == losses.min()


def test_acquisitions_go_on_as_if_all_trials_had_been_asked_for_at_once(
    sixteen, tmp_path, monkeypatch
):
    whole, more = make_up(monkeypatch, by_order), []
    found, _ = search(sixteen, tmp_path / "whole", trials=12, cycle_size=5)
    for trials in (3, 7, 12):
        calls = make_up(monkeypatch, by_order)
        again, _ = search(
            sixteen, tmp_path / "more", trials=trials, cycle_size=5, resume=trials > 3
        )
        more += calls
        assert len(more) == trials
    assert more == whole
    pd.testing.assert_frame_equal(trajectory(tmp_path / "more"), trajectory(tmp_path / "whole"))
    assert without_times(again.summary) == without_times(found.summary)


def test_what_was_trained_costs_its_flops_once(sixteen, tmp_path, monkeypatch):
    make_up(monkeypatch, by_order)
    asked = dataclasses.replace(sixteen, trials=12, cycle_size=12)
    found, _ = search(asked, tmp_path / "run", cycle_size=5)
    recipe = load_problem(asked).trainings.recipe
    trained = [Architecture.parse(row) for row in RecordedRun.load(found.path).trained["notation"]]
    flops = sum(training_flops(recipe.proxy_of(network), recipe) for network in trained)
    assert sum(each["flops"] for each in found.answer.trained) == pytest.approx(flops)
    assert [each["networks"] for each in found.answer.trained] == [
        [network.notation for network in trained[start : start + 5]] for start in (0, 5, 10)
    ]


def test_what_another_seed_trained_can_be_trained_again(sixteen, tmp_path, monkeypatch):
    make_up(monkeypatch, by_order)
    earlier, _ = search(sixteen, tmp_path / "earlier", trials=16)
    start = (str(earlier.path),)
    calls = make_up(monkeypatch, by_order)
    for seed, trained in ((sixteen.seed, 0), (7, 16)):
        found, _ = search(sixteen, tmp_path / str(seed), seed=seed, start_from=start, trials=16)
        assert len(calls) == trained
        assert found.summary["trials"]["complete"] == 16
        best = RecordedRun.load(found.path).trained["loss"].min()
        assert found.summary["recommended"]["loss"] == best


def test_a_trained_baseline_of_the_space_is_on_the_front_that_it_dominates(
    config, tmp_path, monkeypatch
):
    def loss(network):
        kinds = {spec.kind for spec in network.operators if spec.mixes_tokens}
        return (4.0 if kinds == {"a"} else 5.0) - network.hidden / 1e5

    make_up(monkeypatch, loss)
    (tmp_path / "space.yaml").write_text(SIXTEEN)
    space = str(tmp_path / "space.yaml")
    found, _ = search(
        config,
        tmp_path / "run",
        space=space,
        evidence="none",
        trials=1,
        cycle_size=1,
        budgets={},
        baselines=True,
    )
    run = RecordedRun.load(found.path)
    assert sum(run.trained["origin"] == "search") == 1
    inside = run.trained[
        [load_space(space).contains(Architecture.parse(row)) for row in run.trained["notation"]]
    ]
    assert len(inside) > 1, "baselines, too"
    front = {entry["hash"] for entry in found.summary["front"]}
    assert front == set(inside["hash"][pareto(inside, ("loss", "latency_ms"))])
    assert front & set(run.baselines["hash"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evidence": "none", "trials": 0}, "search.trials must be at least 1 where nothing but"),
        ({"trials": 301}, "search.trials must be at most 300, because the model takes 300"),
        ({"evidence": "none", "min_recall": 0.0}, "search.min_recall needs publications; here"),
        (
            {"evidence": "none", "objectives": ("loss", "latency_ms", "expected_recall")},
            "search.objectives has expected_recall, which needs publications; here evidence none",
        ),
        (
            {"evidence": "none", "objectives": ("full_loss", "latency_ms")},
            "search.objectives has full_loss, which needs publications; here evidence none",
        ),
    ],
)
def test_what_needs_publications_is_refused_without_them(config, changes, words, tmp_path):
    assert one_line(ConfigError, search, config, tmp_path / "run", **changes).startswith(words)
    assert not (tmp_path / "run").exists()


# -- nothing is trained ----------------------------------------------------------------------------


def test_nothing_is_trained_and_the_answer_says_so(tmp_path, capsys):
    words = (
        "search --space nemotron_flash --workload decode-1k --calibration=paper --budget-ms 1500"
        f" --min-recall -0.02 --json --out {tmp_path / 'run'}"
    )
    assert main(words.split()) == 0
    summary = json.loads(capsys.readouterr().out)
    states = summary["trials"]
    assert states == {**dict.fromkeys(states, 0), "expected": states["expected"]}
    answer, front = summary["answer"], summary["front"]
    assert len(front) <= states["expected"] <= len(front) + 1 + len(answer["families"])
    assert summary["tokens"] == summary["known"] == 0
    assert answer["trained"] == []
    assert answer["ranked_by"] == "published trainings"
    assert answer["recommended"] == summary["recommended"]["hash"]
    assert all(entry["loss"] is None and entry["latency_ms"] <= 1500 for entry in front)
    assert all(entry["expected_recall"] >= -0.02 for entry in front)
    run = RecordedRun.load(tmp_path / "run")
    titles = [family["family"] for family in answer["families"]]
    assert titles == list(run.baselines["label"])
    assert {"Granite hybrid", "NemotronH", "Qwen3.5"} <= set(titles)
    assert answer["free_mix"] is None, "the space is one of free mixes"
    assert (run.entry("recipe"), run.entry("corpus")) == (None, None)
    files = sorted((tmp_path / "run" / "pareto").glob("*.yaml"))
    assert [path.name for path in files[len(front) :]] == ["recommended.yaml"]
    assert {
        "full_loss_difference",
        "full_loss_difference_sd",
        "expected_recall",
    } <= set(yaml.safe_load(files[0].read_text()))


@pytest.mark.slow  # a new interpreter
def test_a_search_without_trainings_loads_neither_workers_nor_the_trainer(tmp_path):
    script = (
        "from pathlib import Path; from flashnas.study import load; load.PROPOSALS = 50;"
        " from flashnas.api.calling import Quiet; from flashnas.study.config import SearchConfig;"
        " from flashnas.study.run_search import run_search;"
        " config = SearchConfig(space='tiny', workload='chat', calibration='paper', budget_ms=100);"
        f" run_search(config, Path({str(tmp_path / 'run')!r}), resume=False, progress=Quiet());"
        " print([name for name in ('flashnas.executors.local', 'flashnas.training.trainer')"
        " if name in sys.modules])"
    )
    assert printed(script) == ["[]"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("recipe", "cpu"), ("data", "stdlib"), ("tokens", 9), ("candidate_timeout_s", 60)],
)
def test_an_option_of_trainings_says_that_it_changes_nothing(name, value):
    config = SearchConfig(space="tiny", workload="chat", **{name: value})
    problem = load_problem(config)
    assert problem.trainings is None
    assert problem.notes == [
        f"nothing is trained without --trials N: {name} changes nothing",
    ]


def test_an_evaluator_ranks_by_its_losses_alone(tmp_path):
    def search(**more):
        config = SearchConfig(
            space="lfm2",
            workload="decode-1k",
            budgets={"latency_ms": 9000},
            trials=2,
            **more,
        )
        return run_search(
            config,
            tmp_path / "run",
            resume=False,
            progress=Notes(),
            evaluator=foreign_space.of_architecture,
        )

    message = one_line(ConfigError, search, min_recall=0.0)
    assert message == "search.min_recall needs publications; here an evaluator scores the networks"
    found = search()
    assert found.answer is None
    assert "answer" not in found.summary
    run = RecordedRun.load(tmp_path / "run")
    assert (run.entry("scorer"), run.entry("objectives")) == (None, ["loss", "latency_ms"])
