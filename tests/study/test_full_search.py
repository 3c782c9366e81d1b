"""Searches that rank by the loss to expect of a full training, end to end: one trajectory however
they are run, an answer, and none of it trained where nothing is asked to be trained."""

import itertools
import json
import time

import foreign_space
import forks
import pandas as pd
import pytest
import yaml
from flashnas.study.loop import run_search
from notes import Notes
from one_line import one_line
from problems import with_few_candidates

from flashnas.algorithms.trial import non_dominated
from flashnas.base.registry import shipped_names
from flashnas.cli.main import main
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.study import scorer, trainings
from flashnas.study.config import SearchConfig

TIMES = ["tokens_per_s", "train_seconds"]
FINISHED_BEFORE_THE_KILL = 3


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The tiny space with an operator that no publication has in place of DeltaNet."""
    text = shipped_names("search_spaces", ".yaml")["tiny"].read_text()
    path = tmp_path_factory.mktemp("space") / "unknown.yaml"
    path.write_text(text.replace("d(head_dim=16)", "kda(head_dim=16)"))
    return path


def config_of(space, corpus, recipe, **more):
    asked = {
        "space": str(space),
        "table": "h100_sxm",
        "workload": "chat",
        "calibration": "paper",
        "budgets": {"latency_ms": 100.0},
        "trials": 4,
        "cycle_size": 2,
        "recipe": str(recipe),
        "data": str(corpus),
        "measure": False,
        "workers": 1,
        "sampler_options": {"initial": 2, "pool": 16},
        **more,
    }
    return SearchConfig(**asked)


def read_every_recipe(patch):
    """Short losses of any recipe count, as those of the recipe `cpu` do."""
    for module in (trainings, scorer):
        patch.setattr(module, "recipe_read", lambda recipe: recipe)


def killed_search(out, space, corpus, recipe):
    """In a process of its own, which is killed."""
    with pytest.MonkeyPatch.context() as patch:
        with_few_candidates(patch)
        read_every_recipe(patch)
        forks.fork_workers(patch)
        run_search(config_of(space, corpus, recipe), out, resume=False, progress=Notes())


@pytest.fixture(scope="module")
def read():
    with pytest.MonkeyPatch.context() as patch:
        read_every_recipe(patch)
        yield


@pytest.fixture(scope="module")
def whole(read, space, small_corpus, quick_recipe, tmp_path_factory):
    """A search with one worker: its folder, its summary and its notes."""
    out, progress = tmp_path_factory.mktemp("whole") / "run", Notes()
    summary = run_search(
        config_of(space, small_corpus, quick_recipe), out, resume=False, progress=progress
    )
    return out, summary, progress


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=TIMES)


def fronts(out):
    return [yaml.safe_load(path.read_text()) for path in sorted((out / "pareto").glob("*.yaml"))]


def outcomes(out):
    return (out / "study.journal").read_bytes().count(b'"outcome"')


def without_times(summary):
    return {
        name: value for name, value in summary.items() if name not in ("run", "seconds", "front")
    }


def test_what_a_search_by_full_loss_leaves(whole):
    out, summary, progress = whole
    run, notes = RecordedRun.load(out), progress.lines
    frame = run.scored
    assert run.entry("objectives") == ["full_loss", "latency_ms"]
    assert run.entry("scorer", "reads_short_loss") is True
    assert not [line for line in notes if "nothing is trained" in line]
    (line,) = [line for line in notes if line.startswith("may change: ")]
    assert "would take its place with a probability above 1%" in line
    assert sum("published trainings alone recommend" in line for line in notes) == 1
    assert sum("without trainings the answer takes" in line for line in notes) == 1
    assert progress.last.share_done == 1, "networks of the front that are not trained do not count"
    figures = ["full_loss", "full_loss_sd", "silence", "expected_recall"]
    assert frame[figures].notna().all(axis=None)
    unknown = frame["notation"].str.contains("kda")
    assert ((frame["state"] == "complete") == unknown).all(), "what is known is not trained"
    assert sum(frame["origin"] == "baseline") == 3
    trained = frame[unknown]
    assert sum(trained["origin"] == "baseline") == 1
    ended = [line for line in notes if line.startswith("no further training is likely")]
    assert sum(trained["origin"] == "search") == 4 - 2 * len(ended)
    answer = summary["answer"]
    assert answer == run.entry("answer")
    assert answer["trained"]
    assert answer["recommended"] in {entry["hash"] for entry in summary["front"]}
    points = [[row.full_loss + row.silence, row.latency_ms] for row in frame.itertuples()]
    best = {key for key, keep in zip(frame["hash"], non_dominated(points), strict=True) if keep}
    assert best <= {entry["hash"] for entry in summary["front"]}
    for entry in fronts(out):
        assert {
            "full_loss",
            "full_loss_sd",
            "full_loss_difference",
            "full_loss_difference_sd",
            "probability_best",
            "expected_recall",
        } <= set(entry["figures"])


def test_the_short_losses_count(whole):
    out = whole[0]
    frame = RecordedRun.load(out).trained
    before = expected_of_run(frame)
    moved = [abs(row.full_loss - before[row.hash]) for row in frame.itertuples()]
    assert max(moved) > 1e-6


def expected_of_run(frame):
    """The full loss of each network without its training, by the model that ships."""
    from flashnas.architecture import Architecture
    from flashnas.loss.load import loss_model

    networks = [Architecture.parse(text) for text in frame["notation"]]
    return dict(zip(frame["hash"], loss_model().predict_networks(networks, 1e11).mean, strict=True))


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same(whole, space, small_corpus, quick_recipe, tmp_path):
    out, summary, _ = whole
    process = forks.start(killed_search, tmp_path / "cut", space, small_corpus, quick_recipe)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.is_alive():
        if (tmp_path / "cut" / "study.journal").exists() and outcomes(
            tmp_path / "cut"
        ) >= FINISHED_BEFORE_THE_KILL:
            break
        time.sleep(0.02)
    process.kill()
    process.join()
    assert FINISHED_BEFORE_THE_KILL <= outcomes(tmp_path / "cut") < outcomes(out)
    again = run_search(
        config_of(space, small_corpus, quick_recipe, workers=2),
        tmp_path / "cut",
        resume=True,
        progress=Notes(),
    )
    pd.testing.assert_frame_equal(trajectory(tmp_path / "cut"), trajectory(out))
    assert outcomes(tmp_path / "cut") == outcomes(out)
    assert without_times(again) == without_times(summary)


def test_a_finished_run_goes_on_and_another_ranking_does_not(
    whole, space, small_corpus, quick_recipe
):
    from flashnas.base.errors import RunError

    out, summary, _ = whole
    before = outcomes(out)
    again = run_search(
        config_of(space, small_corpus, quick_recipe), out, resume=True, progress=Notes()
    )
    assert (without_times(again), outcomes(out)) == (without_times(summary), before)
    for changes in ({"rank_by": "short"}, {"train_tokens": "10B"}, {"min_recall": -0.9}):
        assert str(out) in one_line(
            RunError,
            run_search,
            config_of(space, small_corpus, quick_recipe, **changes),
            out,
            resume=True,
            progress=Notes(),
        )


# -- nothing is trained ----------------------------------------------------------------------------


def test_nothing_is_trained_and_the_answer_says_so(tmp_path, capsys):
    words = (
        "search --space nemotron_flash --workload decode-1k --calibration=paper --budget-ms 1500"
        f" --trials 0 --min-recall -0.02 --json --out {tmp_path / 'run'}"
    )
    assert main(words.split()) == 0
    out, _ = capsys.readouterr()
    summary = json.loads(out)
    assert summary["trials"] == {
        **dict.fromkeys(summary["trials"], 0),
        "expected": summary["trials"]["expected"],
    }
    assert 4 <= summary["trials"]["expected"] <= 3 + 12 + 1
    assert summary["tokens"] == summary["known"] == 0
    answer = summary["answer"]
    assert answer["trained"] is False
    assert answer["same"]
    assert answer["reasons"]["training"] == pytest.approx(0.0, abs=1e-12)
    front = summary["front"]
    assert answer["recommended"] in {entry["hash"] for entry in front}
    assert all(entry["loss"] is None and entry["latency_ms"] <= 1500 for entry in front)
    for one, other in itertools.pairwise(front):
        assert one["latency_ms"] < other["latency_ms"]
    run = RecordedRun.load(tmp_path / "run")
    assert set(run.trials["state"]) == {"expected"}
    assert (run.trials["expected_recall"] >= -0.02).all(), "of the pure stacks, too"
    assert "pure" in run.trials["label"].iloc[0]
    assert (answer["min_recall"], answer["without_floor"]) == (-0.02, {})
    assert (run.trials["latency_ms"] <= 1500).all()
    assert run.entry("scorer", "reads_short_loss") is False
    assert len(fronts(tmp_path / "run")) == len(front)


def test_an_evaluator_does_not_rank_by_full_trainings(tmp_path):
    from flashnas.base.errors import ConfigError

    def search(trials):
        config = SearchConfig(
            workload="decode-1k",
            calibration="paper",
            budgets={"latency_ms": 1500},
            trials=trials,
            workers=1,
            baselines=False,
        )
        return run_search(
            config,
            tmp_path / "run",
            resume=False,
            progress=progress,
            evaluator=lambda network: foreign_space.of_architecture(network),
        )

    progress = Notes()
    with pytest.raises(
        ConfigError, match=r"search\.trials 0 answers .* here an evaluator scores the networks"
    ):
        search(0)
    summary = search(2)
    assert "answer" not in summary
    assert RecordedRun.load(tmp_path / "run").entry("rank_by") == "short"
    assert not [line for line in progress.lines if "published" in line or "ranked by" in line]
