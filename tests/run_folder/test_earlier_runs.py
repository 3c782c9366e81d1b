"""What runs trained, read back; and a search that starts from them."""

import dataclasses
import shutil
from pathlib import Path

import foreign_space
import pandas as pd
import pytest
import yaml
from config_keys import with_keys
from foreign_space import Gpt2, Gpt2Space, WidthFittedGpt2Space
from one_line import one_line
from run_builder import write_answered_run

import flashnas as fn
from flashnas.algorithms.algorithm import Random
from flashnas.base.errors import RunError
from flashnas.cli.main import main
from flashnas.run_folder.earlier_runs import difference, earlier_runs, training
from flashnas.space import load_space
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
SPACE = load_space(ASKED["space"])
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
def test_losses_that_do_not_compare_are_one_line(run, tmp_path, key, value, words):
    other = changed(run, tmp_path / "other", key, value)
    message = one_line(RunError, earlier_runs, [run.path, other], SPACE)
    assert message.startswith(f"{other}: its losses do not compare with those of {run.path}: ")
    assert words.format(first=run.path, other=other) in message


@pytest.mark.parametrize("change", [{"width_factor": 2}, {"least_head_dim": 32}, {"clip": 2.0}])
def test_losses_of_other_proxies_do_not_compare(change):
    one, other = (
        training(recipe, "0123", 0, None)
        for recipe in (Recipe(), dataclasses.replace(Recipe(), **change))
    )
    (name,) = change
    assert str(difference(one, other, "here", "there")).startswith(f"recipe.{name} is ")


def test_what_is_no_run_to_start_from_is_one_line(run, tmp_path):
    damaged = changed(run, tmp_path / "damaged", "recipe", {"mine": 1})
    unasked = changed(run, tmp_path / "unasked")
    for folders, words in (
        ([run.path, run.path], f"{run.path}: a run is named twice"),
        ([damaged], f"{damaged}: run.yaml: question.recipe: "),
        ([unasked], f"{unasked}: run.yaml has no question"),
    ):
        assert one_line(RunError, earlier_runs, folders, SPACE).startswith(words)


def changed(run, out, key=None, value=None):
    """A copy of a run with another entry in its question, or without one."""
    shutil.copytree(run.path, out)
    config = yaml.safe_load((out / "run.yaml").read_text())
    question = config.pop("question")
    if key is not None:
        config["question"] = {**question, key: value}
    (out / "run.yaml").write_text(yaml.safe_dump(config))
    return out


def test_the_digest_of_runs_changes_with_networks_and_scores(run):
    known = earlier_runs([run.path], SPACE)
    first, *rest = known.networks
    other = dataclasses.replace(first, row=first.row._replace(loss=first.row.loss + 0.01))
    less, changed = (
        dataclasses.replace(known, by_hash={found.row.hash: found for found in networks})
        for networks in (rest, [other, *rest])
    )
    assert len({known.digest, less.digest, changed.digest}) == 3
    assert earlier_runs([run.path], SPACE).digest == known.digest


def test_a_search_without_trainings_is_to_be_asked_anew(tmp_path):
    run = write_answered_run(tmp_path / "run", trained=False)
    with pytest.raises(RunError, match=r"run: nothing was trained in it, so that it has nothing"):
        earlier_runs([run], SPACE)


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


def test_a_foreign_network_is_built_again_by_its_space_as_it_was(foreign):
    assert isinstance(
        earlier_runs([foreign.path], WidthFittedGpt2Space()).networks[0].network, Gpt2
    )
    assert (
        earlier_runs([foreign.path], Gpt2Space()).networks[0].genotype is None
    )  # not the space as it was


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
