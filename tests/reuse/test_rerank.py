"""Runs for another question: their front from what was trained; and a search that starts from
them.
"""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path

import foreign_space
import moocore
import numpy as np
import pandas as pd
import pytest
import yaml
from config_keys import with_keys
from foreign_space import Gpt2, Gpt2Space, WidthFittedGpt2Space
from one_line import one_line
from run_builder import write_answered_run
from tiny_tables import tiny_kinds, write_table

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError, TableError
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel
from flashnas.reuse.earlier_runs import difference, earlier_runs, training
from flashnas.search.algorithm import Random
from flashnas.search.objectives import non_dominated
from flashnas.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("importable_helpers")
ASKED = dict(
    space="nemotron_flash",
    table="h100_sxm",
    workload="decode-8k",
    calibration="paper",
    measure=False,
    workers=1,
    cycle_size=10,
)


TINY = "search --space tiny --table h100_sxm --workload chat --calibration=paper"


def loss(architecture):
    """Falls with width and depth; it runs in this process."""
    return (
        3
        + 6 / len(architecture.operators)
        + 400 / architecture.hidden
        - 0.05 * len({spec.kind for spec in architecture.operators})
        + int(architecture.hash[:4], 16) % 100 / 5000
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fn.search(
        **ASKED,
        budgets={"latency_ms": 14_000},
        trials=24,
        evaluator=loss,
        seed=1,
        sampler="aging-evolution",
        out=tmp_path_factory.mktemp("runs") / "first",
    )


@pytest.fixture(scope="module")
def second(run):
    return fn.search(
        **ASKED,
        budgets={"latency_ms": 11_000},
        trials=10,
        evaluator=loss,
        seed=1,
        sampler="random",
        baselines=False,
        out=run.path.parent / "second",
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"table": "a100_sxm", "workload": "decode-1k"},
        {"budgets": {"latency_ms": 12_000, "memory_gb": 1.5}},
        {"objectives": ["loss", "memory_gb"]},
    ],
)
def test_the_front_is_that_of_the_trained_networks_as_the_table_estimates_them(run, asked):
    found = fn.pareto(run, **asked)
    model = LatencyModel(
        asked.get("table", "h100_sxm"), asked.get("workload", "decode-8k"), calibration="paper"
    )
    limits = asked.get(
        "budgets", {"latency_ms": 14_000} if not {"table", "workload"} & set(asked) else {}
    )
    names = asked.get("objectives", ["loss", "latency_ms"])
    expected = []
    for row in run.trained.itertuples():
        estimate = model.estimate(Architecture.parse(row.notation))
        if all(getattr(estimate, name) <= limit for name, limit in limits.items()):
            expected.append(
                (
                    row.hash,
                    [row.loss if name == "loss" else getattr(estimate, name) for name in names],
                )
            )
    mask = non_dominated([values for _, values in expected])
    assert {entry.hash for entry in found.front} == {
        key for (key, _), keep in zip(expected, mask, strict=True) if keep
    }
    for entry in found.front:
        assert entry.latency_ms == pytest.approx(model.estimate(entry.architecture).latency_ms)
        assert entry.operators_ms
    assert found.answer.outside == len(run.trained) - len(expected)
    assert len(found.run.trained) == len(expected)
    assert json.loads(json.dumps(found.to_dict()))["networks"]["trained"] == len(run.trained)


def test_the_same_question_has_the_front_of_the_run(run):
    found = fn.pareto(run)
    assert [entry.hash for entry in found.front] == [entry.hash for entry in run.front]


def test_runs_are_merged_and_their_networks_keep_the_name_of_their_run(run, second, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = fn.pareto([run.path, second.path], budgets={"latency_ms": 11_000})
    trained = pd.concat([run.trained, second.trained]).drop_duplicates("hash")
    assert found.answer.trained == len(trained)
    assert {entry.run for entry in found.front} <= {"first", "second"}
    assert " of second" in str(found)
    model = LatencyModel("h100_sxm", "decode-8k", calibration="paper")
    latencies = [
        model.estimate(Architecture.parse(notation)).latency_ms for notation in trained["notation"]
    ]
    points = np.column_stack([trained["loss"], latencies])
    inside = points[np.array(latencies) <= 11_000]
    corner = [10.0, 11_001.0]
    front = np.array([[entry.loss, entry.latency_ms] for entry in found.front])
    assert moocore.hypervolume(front, ref=corner) == pytest.approx(
        moocore.hypervolume(inside, ref=corner)
    )
    alone = fn.pareto(run, budgets={"latency_ms": 11_000})
    assert moocore.hypervolume(front, ref=corner) >= moocore.hypervolume(
        np.array([[entry.loss, entry.latency_ms] for entry in alone.front]), ref=corner
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 5, "seed is 1 in {first} and 5 in {other}"),
        ("evaluator", "other:f", "and 'other:f' in {other}"),
        (
            "corpus",
            "0123",
            "the digest of text and vocabulary is None in {first} and '0123' in {other}",
        ),
    ],
)
def test_losses_that_do_not_compare_are_one_line(run, second, tmp_path, key, value, words):
    other = changed(second, tmp_path / "other", key, value)
    message = one_line(RunError, fn.pareto, [run.path, other])
    assert message.startswith(f"{other}: its losses do not compare with those of {run.path}: ")
    assert words.format(first=run.path, other=other) in message


@pytest.mark.parametrize(
    "change", [{"width_factor": 2}, {"depth_factor": 2}, {"least_head_dim": 32}, {"clip": 2.0}]
)
def test_losses_of_other_proxies_do_not_compare(change):
    one, other = (
        training(recipe, "0123", 0, None)
        for recipe in (Recipe(), dataclasses.replace(Recipe(), **change))
    )
    (name,) = change
    assert str(difference(one, other, "here", "there")).startswith(f"recipe.{name} is ")


def changed(run, out, key, value):
    """A copy of a run with another entry in its question."""
    shutil.copytree(run.path, out)
    config = yaml.safe_load((out / "run.yaml").read_text())
    config["question"][key] = value
    (out / "run.yaml").write_text(yaml.safe_dump(config))
    return out


def test_the_digest_of_runs_changes_with_networks_and_scores(run):
    known = earlier_runs([run.path])
    less = earlier_runs([dataclasses.replace(known.runs[0], trials=run.trials.iloc[:-5])])
    other = run.trials.copy()
    other.loc[0, "loss"] += 0.01
    digests = {
        known.digest,
        less.digest,
        earlier_runs([dataclasses.replace(known.runs[0], trials=other)]).digest,
    }
    assert len(digests) == 3
    assert earlier_runs([run]).digest == known.digest


def test_a_budget_that_no_network_meets_names_the_nearest(run, refused):
    nearest = run.trained.loc[run.trained["latency_ms"].idxmin()]
    assert (
        "no network of the runs meets the budget; the nearest has latency_ms"
        f" {nearest['latency_ms']:,.4g} (budget 5,000): {nearest['notation']}"
    ) in refused(f"pareto {run.path} --budget-ms 5000")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"objectives": ["loss"]},
            "pareto.objectives must be 2 to 4 names, such as loss,latency_ms; got loss",
        ),
        ({"space": 3}, "pareto.space must be a SearchSpace; got 3"),
        ({"space": Gpt2Space()}, "pareto.space: 'gpt2' is not the space of "),
    ],
)
def test_a_wrong_argument_is_one_line(run, asked, words):
    assert one_line(ConfigError, fn.pareto, run, **asked).startswith(words)


@pytest.mark.slow
def test_the_answer_is_written_as_a_run(pages, run, tmp_path, capsys):
    assert main(shlex.split(f"pareto {run.path} --table a100_sxm --out {tmp_path}/out")) == 0
    assert "a100_sxm" in capsys.readouterr().out
    written = fn.load_run(tmp_path / "out")
    found = fn.pareto(run, table="a100_sxm")
    assert [entry.hash for entry in written.front] == [entry.hash for entry in found.front]
    pd.testing.assert_frame_equal(
        written.trained[["hash", "loss", "latency_ms"]],
        found.run.trained[["hash", "loss", "latency_ms"]],
    )
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 1000
    assert "report.html" in os.listdir(tmp_path / "out")
    with pytest.raises(RunError, match="question must be a mapping"):
        fn.search(
            **ASKED,
            budgets={"latency_ms": 14_000},
            evaluator=loss,
            out=tmp_path / "out",
            resume=True,
        )


def test_a_search_without_trainings_is_to_be_asked_anew(tmp_path):
    run = write_answered_run(tmp_path / "run", trained=False)
    with pytest.raises(RunError, match=r"run: nothing was trained in it, so that it has nothing"):
        earlier_runs([run])


# -- a foreign space -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(foreign_space.__file__).parent))
        return fn.search(
            space=WidthFittedGpt2Space(),
            table=foreign_space.latency_ms,
            evaluator=foreign_space.loss,
            budgets={"latency_ms": 8.0},
            trials=8,
            workers=1,
            cycle_size=4,
            out=tmp_path_factory.mktemp("foreign") / "run",
        )


def test_a_foreign_run_answers_from_its_record_and_with_its_space(foreign):
    recorded = fn.pareto(foreign, budgets={"latency_ms": 4.0})
    assert recorded.front
    assert all(entry.latency_ms <= 4.0 for entry in recorded.front)
    whole = fn.pareto(
        foreign,
        budgets={"latency_ms": 4.0},
        space=WidthFittedGpt2Space(),
        table=foreign_space.latency_ms,
    )
    assert [entry.hash for entry in whole.front] == [entry.hash for entry in recorded.front]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (
            {"table": "h100_sxm", "workload": "chat"},
            RunError,
            "needs it; fn.pareto takes the space",
        ),
        ({"workload": "chat"}, ConfigError, "pareto.workload needs a latency table"),
        (
            {"objectives": ["full_loss", "latency_ms"]},
            ConfigError,
            "pareto.objectives names 'full_loss', which",
        ),
        ({"confidence": 0.9}, ConfigError, "pareto.confidence needs a latency table"),
    ],
)
def test_what_a_foreign_run_cannot_answer_is_one_line(foreign, asked, error, words):
    assert words in one_line(error, fn.pareto, foreign, **asked)


def test_a_table_cannot_time_foreign_networks(foreign):
    with pytest.raises(ConfigError, match="are not of flashnas"):
        fn.pareto(foreign, space=WidthFittedGpt2Space(), table="h100_sxm", workload="chat")
    assert isinstance(
        earlier_runs([foreign.path], WidthFittedGpt2Space()).networks[0].network, Gpt2
    )
    assert (
        earlier_runs([foreign.path], Gpt2Space()).networks[0].genotype is None
    )  # not the space as it was


def test_a_table_without_rows_for_all_networks_is_one_line(run, tmp_path):
    with pytest.raises(TableError, match="and so for all"):
        fn.pareto(run, table=write_table(tmp_path / "table", tiny_kinds()), workload="chat")


# -- a search that starts from runs ----------------------------------------------------------------


@pytest.mark.slow
def test_a_search_from_a_run_takes_its_recipe_and_losses(
    small_corpus, quick_recipe, tmp_path, capsys
):
    keys = with_keys(tmp_path, baselines=False, measure=False, train_anyway=True)
    first = (
        f"{TINY} --budget-ms 85 --recipe {quick_recipe} --data {small_corpus} --trials 5"
        f" --workers 1 --out {tmp_path}/first"
    )
    assert main([*first.split(), *keys]) == 0
    trained = fn.load_run(tmp_path / "first")
    widest = trained.trained[trained.trained["hidden"] == 128]
    budget = round(widest["latency_ms"].max() * 0.997, 4)
    asked = (
        f"{TINY} --budget-ms {budget} --data {small_corpus} --start-from {trained.path}"
        f" --trials 3 --workers 1 --out {tmp_path}/next"
    )
    words = [*asked.split(), *keys]
    assert main(words) == 0
    after = fn.load_run(tmp_path / "next")
    new = after.trials[after.trials["source"] == "training"]
    assert len(new) == 3
    assert not set(new["hash"]) & set(trained.trained["hash"])
    assert (after.trials["latency_ms"].dropna() <= budget).all()
    start = after.trials[after.trials["source"] == "run"]
    assert len(start)
    assert set(start["hash"]) <= set(trained.trained["hash"])
    assert start["loss"].tolist() == [
        float(trained.trained.set_index("hash")["loss"][key]) for key in start["hash"]
    ]
    assert after.entry("start_from", "runs") == [str(trained.path)]
    assert after.entry("question", "recipe") == trained.entry("question", "recipe")
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    pd.testing.assert_frame_equal(fn.load_run(tmp_path / "next").trials, after.trials)


def test_a_search_from_a_run_trains_what_is_new(run, tmp_path):
    found = fn.search(
        **ASKED,
        budgets={"latency_ms": 12_000},
        trials=5,
        evaluator=loss,
        seed=1,
        sampler="tpe",
        start_from=[str(run.path)],
        baselines=False,
        out=tmp_path / "next",
    )
    new = found.trials[found.trials["source"] == "evaluator"]
    assert len(new) == 5
    assert not set(new["hash"]) & set(run.trained["hash"])


class Repeats(Random):
    """Proposes a network of the earlier run again, once."""

    repeated = False

    def _propose(self, count):
        for genotype in super()._propose(count):
            again, self.repeated = not self.repeated, True
            yield self.history[0].genotype if again else genotype


def test_a_proposal_that_an_earlier_run_knows_does_not_change_how_many_networks_are_trained(
    run, tmp_path
):
    found = fn.search(
        **ASKED,
        budgets={"latency_ms": 14_000},
        trials=4,
        evaluator=loss,
        seed=1,
        sampler=Repeats,
        start_from=[str(run.path)],
        baselines=False,
        out=tmp_path / "next",
    )
    assert (found.trials["state"] == "reused").sum() == 1
    assert found.trials.loc[found.trials["source"] == "evaluator", "hash"].nunique() == 4
