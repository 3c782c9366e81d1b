"""What runs trained, read back; and a search that starts from them."""

import dataclasses
import shutil
from pathlib import Path

import foreign_space
import pytest
import yaml
from foreign_space import Gpt2, Gpt2Space, WidthFittedGpt2Space
from one_line import one_line
from run_builder import write_answered_run

import flashnas as fn
from flashnas.base.errors import RunError
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
    ("change", "words"),
    [
        ({"seed": 5}, "seed is 1, but 5 is asked"),
        ({"evaluator": "other:f"}, "but 'other:f' is asked"),
        (
            {"corpus": "0123"},
            "the digest of text and vocabulary is None, but '0123' is asked",
        ),
    ],
)
def test_scores_are_taken_only_of_the_same_evaluation(run, change, words):
    known = earlier_runs([run.path], SPACE)
    network = known.trained[0][0].architecture
    assert known.score(network, metrics=False)["loss"] == loss(network)
    facts = {"recipe": None, "corpus": None, "seed": 1, "evaluator": run.entry("evaluator")}
    other = training(**{**facts, **change})
    assert known.with_facts(other, strict=False).score(network, metrics=False) is None
    message = one_line(RunError, known.with_facts, other, strict=True)
    assert message.startswith(f"{run.path}: a search cannot start from its networks: ")
    assert words in message


@pytest.mark.parametrize("change", [{"width_factor": 2}, {"least_head_dim": 32}, {"clip": 2.0}])
def test_losses_of_other_proxies_do_not_compare(change):
    one, other = (
        training(recipe, "0123", 0, None)
        for recipe in (Recipe(), dataclasses.replace(Recipe(), **change))
    )
    (name,) = change
    assert str(difference(one, other)).startswith(f"recipe.{name} is ")


def test_trainings_are_observed_in_a_group_for_each_recipe_whatever_the_seed(
    run, run_folder, tmp_path
):
    """What an evaluator scored is no observation."""
    options = {"seed": 7, "budgets": {"latency_ms": 14_000.0}}
    same = changed(run_folder, tmp_path / "same", options=options)
    other = changed(run_folder, tmp_path / "other", recipe={"tokens": 65_536})
    known = earlier_runs([run_folder, run.path, same, other], SPACE)
    observed = known.observed()
    assert len(observed) == 2 * 35
    assert len({row.group for row in observed}) == 2
    recipe = Recipe.from_dict({"tokens": 65_536})
    assert observed[-1].tokens == recipe.steps * recipe.batch_tokens
    assert {row.nats for row in observed} == set(fn.load_run(run_folder).trained["loss"])


def test_what_is_no_run_to_start_from_is_one_line(run, tmp_path):
    damaged = changed(run.path, tmp_path / "damaged", recipe={"mine": 1})
    for folders, words in (
        ([run.path, run.path], f"{run.path}: a run is named twice"),
        ([damaged], f"{damaged}: run.yaml: recipe: "),
    ):
        assert one_line(RunError, earlier_runs, folders, SPACE).startswith(words)


def changed(folder, out, **entries):
    """A copy of a run with other entries in its run.yaml."""
    shutil.copytree(folder, out)
    config = yaml.safe_load((out / "run.yaml").read_text())
    (out / "run.yaml").write_text(yaml.safe_dump({**config, **entries}))
    return out


def test_the_digest_of_runs_changes_with_networks_and_scores(run):
    known = earlier_runs([run.path], SPACE)
    (first, *rest) = known.trained[0]
    other = dataclasses.replace(first, loss=first.loss + 0.01)
    digests = {
        dataclasses.replace(known, trained=(tuple(networks),)).to_dict()["digest"]
        for networks in (known.trained[0], rest, [other, *rest])
    }
    assert len(digests) == 3
    assert earlier_runs([run.path], SPACE).to_dict()["digest"] in digests


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
    known, other = (
        earlier_runs([foreign.path], space).trained[0][-1]
        for space in (WidthFittedGpt2Space(), Gpt2Space())
    )
    assert isinstance(known.architecture, Gpt2)
    assert other.genotype is None  # not the space as it was
