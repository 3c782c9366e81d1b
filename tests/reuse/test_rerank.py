"""Runs for another question: their front from what was trained, what would have to be trained, and a search from it."""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path

import foreign_space
import numpy as np
import pandas as pd
import pytest
import yaml
from answered_runs import write_answered_run
from foreign_space import Gpt2, Gpt2Space, WidthFittedGpt2Space
from tiny_tables import tiny_kinds, write_table

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError, TableError
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel
from flashnas.reuse.known import known_runs
from flashnas.search.pareto import hypervolume, non_dominated
from flashnas.search.random_search import Random

pytestmark = pytest.mark.usefixtures("importable_helpers")
ASKED = dict(space="nemotron_flash", table="h100_sxm", workload="decode-8k", measure=False, workers=1, cycle_size=10)


def loss(architecture):
    """Falls with width and depth; it runs in this process."""
    return 3 + 6 / len(architecture.operators) + 400 / architecture.hidden - 0.05 * len(
        {spec.kind for spec in architecture.operators}) + int(architecture.hash[:4], 16) % 100 / 5000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fn.search(**ASKED, budgets={"latency_ms": 14_000}, trials=24, evaluator=loss, seed=1,
                     sampler="aging-evolution", out=tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def second(run):
    return fn.search(**ASKED, budgets={"latency_ms": 11_000}, trials=10, evaluator=loss, seed=1, sampler="random",
                     baselines=False, out=run.path.parent / "second")


@pytest.mark.parametrize("asked", [
    {"table": "a100_sxm", "workload": "decode-1k"}, {"budgets": {"latency_ms": 12_000, "memory_gb": 1.5}},
    {"objectives": ["loss", "memory_gb"]}])
def test_the_front_is_that_of_the_trained_networks_as_the_table_estimates_them(run, asked):
    found = fn.pareto(run, **asked)
    model = LatencyModel(asked.get("table", "h100_sxm"), asked.get("workload", "decode-8k"))
    limits = asked.get("budgets", {"latency_ms": 14_000} if not {"table", "workload"} & set(asked) else {})
    names = asked.get("objectives", ["loss", "latency_ms"])
    expected = []
    for row in run.trained.itertuples():
        estimate = model.estimate(Architecture.parse(row.notation))
        if all(getattr(estimate, name) <= limit for name, limit in limits.items()):
            expected.append((row.hash, [row.loss if name == "loss" else getattr(estimate, name) for name in names]))
    mask = non_dominated([values for _, values in expected])
    assert {entry.hash for entry in found.front} == {key for (key, _), keep in zip(expected, mask, strict=True) if keep}
    for entry in found.front:
        assert entry.latency_ms == pytest.approx(model.estimate(entry.architecture).latency_ms)
        assert entry.operators_ms
    assert found.answer.outside == len(run.trained) - len(expected)
    assert len(found.run.trained) == len(expected)
    assert json.loads(json.dumps(found.to_dict()))["networks"]["trained"] == len(run.trained)


def test_the_same_question_has_the_front_of_the_run(run):
    found = fn.pareto(run)
    assert [entry.hash for entry in found.front] == [entry.hash for entry in run.front]
    assert found.to_train == ()
    assert "nothing to train: each genotype that fits the budget was tried at its largest width" in str(found)
    assert "search on from all that the runs know: fn.search(.., start_from=[RUN, ..])" in str(found)


def test_genotypes_that_fit_at_no_width_are_counted(run):
    found = fn.pareto(run, budgets={"latency_ms": min(entry.latency_ms for entry in run.front) * 1.0001})
    space, model = fn.load_space("nemotron_flash"), LatencyModel("h100_sxm", "decode-8k")
    limit = found.answer.run.config["budgets"]["latency_ms"]
    genotypes = {space.decode(row.genotype) for row in run.trials[run.trials["origin"] == "search"].itertuples()}
    fits = [any(model.estimate(network).latency_ms <= limit for network in space.architectures(genotype))
            for genotype in genotypes]
    asked = found.to_dict()["to_train"]
    assert asked["genotypes"] >= len(genotypes)
    assert asked["too_large"] >= fits.count(False) > 0
    assert f"{asked['too_large']} without a width within the budget" in str(found)


def test_what_would_have_to_be_trained_is_every_genotype_at_another_width(run):
    found = fn.pareto(run, budgets={"latency_ms": 10_000})
    space = fn.load_space("nemotron_flash")
    model = LatencyModel("h100_sxm", "decode-8k")
    expected = set()
    for row in run.trials[run.trials["origin"] == "search"].itertuples():
        fits = [network for network in space.architectures(space.decode(row.genotype))
                if model.estimate(network).latency_ms <= 10_000]
        if fits and fits[0].hash not in set(run.trained["hash"]):
            expected.add(fits[0].hash)
    pure = {one.network.hash for one in found.to_train if one.trained.row.origin == "baseline"}
    assert {one.network.hash for one in found.to_train} - pure == expected != set()
    gains = [one.gain for one in found.to_train]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0
    for one in found.to_train:
        assert one.trained.row.hash in set(run.trained["hash"])
        assert one.metrics["latency_ms"] <= 10_000
    errors = [one.expected["loss"][0] - loss(one.network) for one in found.to_train]
    assert np.sqrt(np.mean(np.square(errors))) < 3 * np.mean([one.expected["loss"][1] for one in found.to_train])


def test_a_larger_budget_takes_in_genotypes_that_did_not_fit(run, tmp_path):
    """They are infeasible trials of the run, without a network."""
    tight = fn.search(**ASKED, budgets={"latency_ms": 3_000}, trials=4, evaluator=loss, seed=0, sampler="random",
                      baselines=False, out=tmp_path / "tight")
    assert (tight.trials["state"] == "infeasible").any()
    found = fn.pareto(tight, budgets={"latency_ms": 14_000})
    assert any(one.trained is None for one in found.to_train)
    assert all(one.gain is None for one in found.to_train)  # four networks make no model
    assert "expected" in str(found)


def test_runs_are_merged_and_their_networks_keep_the_name_of_their_run(run, second):
    found = fn.pareto([run.path, second.path], budgets={"latency_ms": 11_000})
    trained = pd.concat([run.trained, second.trained]).drop_duplicates("hash")
    assert found.answer.trained == len(trained)
    assert {entry.origin["run"] for entry in found.front} <= {"first", "second"}
    assert " of second" in str(found)
    model = LatencyModel("h100_sxm", "decode-8k")
    latencies = [model.estimate(Architecture.parse(notation)).latency_ms for notation in trained["notation"]]
    points = np.column_stack([trained["loss"], latencies])
    inside = points[np.array(latencies) <= 11_000]
    corner = [10.0, 11_001.0]
    front = np.array([[entry.loss, entry.latency_ms] for entry in found.front])
    assert hypervolume(front, corner) == pytest.approx(hypervolume(inside, corner))
    alone = fn.pareto(run, budgets={"latency_ms": 11_000})
    assert hypervolume(front, corner) >= hypervolume(
        np.array([[entry.loss, entry.latency_ms] for entry in alone.front]), corner)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("seed", 5, "seed is 1 in {first} and 5 in {other}"),
    ("evaluator", "other:f", "and 'other:f' in {other}"),
    ("corpus", "0123", "the digest of text and vocabulary is None in {first} and '0123' in {other}")])
def test_losses_that_do_not_compare_are_one_line(run, second, tmp_path, key, value, words):
    other = changed(second, tmp_path / "other", key, value)
    with pytest.raises(RunError) as error:
        fn.pareto([run.path, other])
    assert str(error.value).startswith(f"{other}: its losses do not compare with those of {run.path}: ")
    assert words.format(first=run.path, other=other) in str(error.value)


def changed(run, out, key, value):
    """A copy of a run with another entry in its question."""
    shutil.copytree(run.path, out)
    config = yaml.safe_load((out / "run.yaml").read_text())
    config["question"][key] = value
    (out / "run.yaml").write_text(yaml.safe_dump(config))
    return out


def test_the_digest_of_runs_changes_with_all_that_a_search_takes_from_them(run):
    """Also with trainings that stopped or failed, and with what fitted no budget."""
    known = known_runs([run.path])
    digests = {known.digest}
    for state in ("stopped", "failed", "infeasible"):
        trials = run.trials.copy()
        trials.loc[len(trials)] = {**trials.iloc[-1], "state": state, "hash": state}
        digests.add(dataclasses.replace(known, runs=(dataclasses.replace(known.runs[0], trials=trials),)).digest)
    assert len(digests) == 4


def test_no_network_within_the_budget_is_an_answer(run):
    found = fn.pareto(run, budgets={"latency_ms": 5_000})
    assert found.front == ()
    nearest = min(run.trained["latency_ms"])
    assert found.answer.nearest == {"latency_ms": pytest.approx(nearest)}
    assert f"the nearest has latency_ms {nearest:,.6g}" in str(found)


def test_a_budget_that_no_width_meets_names_the_nearest(run, capsys):
    space, model = fn.load_space("nemotron_flash"), LatencyModel("h100_sxm", "decode-8k")
    genotypes = [*(one.genotype for one in known_runs([run]).networks if one.genotype is not None),
                 *(space.decode(row.genotype) for row in run.trials.itertuples() if row.genotype)]
    least = min([*run.trained["latency_ms"], *(model.estimate(space.architectures(genotype)[-1]).latency_ms
                                               for genotype in genotypes)])
    assert main(["pareto", str(run.path), "--budget-ms", "1"]) == 2
    error = capsys.readouterr().err
    assert f"no network of the runs meets the budget; the nearest that is known has latency_ms {least:,.4g}" in error
    assert "(budget 1): " in error
    assert error.count("\n") == 1


# -- trainings that were stopped at a rung -------------------------------------------------------------------


class Pausing:
    """`loss`, further from its end at a lower fidelity."""

    fidelities = (100, 200, 400)

    def __call__(self, architecture, fidelity):
        return loss(architecture) + 40 / fidelity


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    found = fn.search(**{**ASKED, "cycle_size": 6}, budgets={"latency_ms": 14_000}, trials=18, evaluator=Pausing(),
                      seed=1, rungs=[200], rung_chance=0.5, sampler="random", baselines=False,
                      out=tmp_path_factory.mktemp("halted") / "run")
    assert (found.trials["state"] == "stopped").sum() > 2
    return found


def test_a_stopped_training_is_paused_and_has_the_loss_that_was_expected_of_it(halted):
    found = fn.pareto(halted)
    stopped = halted.trials[halted.trials["state"] == "stopped"].drop_duplicates("hash").set_index("hash")
    assert {one.network.hash for one in found.to_train} == set(stopped.index)
    for one in found.to_train:
        row = stopped.loc[one.network.hash]
        assert one.paused_tokens == 200
        assert one.trained is None
        assert one.expected["loss"] == (pytest.approx(row["expected_loss"]), pytest.approx(row["expected_loss_sd"]))
    gains = [one.gain for one in found.to_train]
    assert gains == sorted(gains, reverse=True)
    text = str(found)
    assert f"{len(stopped)} trainings were paused at a rung and not continued" in text
    assert "another width" not in text
    assert text.count(", paused at 200 tokens") == min(10, len(stopped))
    assert "– ->" not in text  # noqa: RUF001
    assert [one["paused_tokens"] for one in found.to_dict()["to_train"]["networks"]] == [200] * len(stopped)


def test_a_stopped_genotype_has_its_width_before_under_another_budget(halted):
    found = fn.pareto(halted, budgets={"latency_ms": 12_500})
    others = [one for one in found.to_train if one.stopped is not None and one.paused_tokens is None]
    assert others
    assert all(one.stopped.row.hidden != one.network.hidden for one in others)
    assert "another width within the budget" in str(found)


def test_a_failed_network_is_not_to_train(run, tmp_path):
    """It has the same width under the same question."""
    from flashnas.runs.layout import trials_frame
    from flashnas.runs.trial import Trial

    part = changed(run, tmp_path / "part", "cycle_size", 10)
    frame = pd.read_parquet(part / "trials.parquet")
    failed = frame.index[(frame["state"] == "complete") & (frame["origin"] == "search")][-1]
    assert set(frame.columns) == set(trials_frame([]).columns) == {field.name for field in dataclasses.fields(Trial)}
    frame.loc[failed, ["state", "reason"]] = ["failed", "loss became nan"]
    frame.loc[failed, ["loss", "bits_per_byte"]] = np.nan
    frame.to_parquet(part / "trials.parquet")
    assert frame.loc[failed, "hash"] not in set(fn.load_run(part).trained["hash"])
    assert fn.pareto(part).to_train == ()


@pytest.mark.parametrize(("asked", "words"), [
    ({"objectives": ["loss"]}, "pareto.objectives must be 2 to 4 names, such as loss,latency_ms; got loss"),
    ({"space": 3}, "pareto.space must be a SearchSpace; got 3"),
    ({"space": Gpt2Space()}, "pareto.space: 'gpt2' is not the space of ")])
def test_a_wrong_argument_is_one_line(run, asked, words):
    with pytest.raises(ConfigError) as error:
        fn.pareto(run, **asked)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_answer_is_written_as_a_run(pages, run, tmp_path, capsys):
    assert main(["pareto", str(run.path), "--table", "a100_sxm", "--out", str(tmp_path / "out")]) == 0
    assert "a100_sxm" in capsys.readouterr().out
    written = fn.load_run(tmp_path / "out")
    found = fn.pareto(run, table="a100_sxm")
    assert [entry.hash for entry in written.front] == [entry.hash for entry in found.front]
    pd.testing.assert_frame_equal(written.trained[["hash", "loss", "latency_ms"]],
                                  found.run.trained[["hash", "loss", "latency_ms"]])
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 1000
    assert "report.html" in os.listdir(tmp_path / "out")
    with pytest.raises(RunError, match="question must be a mapping"):
        fn.search(**ASKED, budgets={"latency_ms": 14_000}, evaluator=loss, out=tmp_path / "out", resume=True)


def test_a_search_without_trainings_is_to_be_asked_anew(tmp_path):
    run = write_answered_run(tmp_path / "run", trained=False)
    with pytest.raises(RunError, match=r"run: nothing was trained in it \(--trials 0\), so that it has nothing"):
        known_runs([run])


# -- a foreign space -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(foreign_space.__file__).parent))
        return fn.search(space=WidthFittedGpt2Space(), table=foreign_space.latency_ms, evaluator=foreign_space.loss,
                         budgets={"latency_ms": 8.0}, trials=8, workers=1, cycle_size=4,
                         out=tmp_path_factory.mktemp("foreign") / "run")


def test_a_foreign_run_answers_from_its_record_and_with_its_space_in_full(foreign):
    recorded = fn.pareto(foreign, budgets={"latency_ms": 4.0})
    assert all(entry.latency_ms <= 4.0 for entry in recorded.front)
    assert recorded.to_train == ()
    assert any("no other width is known" in note for note in recorded.warnings)
    whole = fn.pareto(foreign, budgets={"latency_ms": 4.0}, space=WidthFittedGpt2Space(),
                      table=foreign_space.latency_ms)
    assert [entry.hash for entry in whole.front] == [entry.hash for entry in recorded.front]
    assert whole.to_train
    for one in whole.to_train:
        assert foreign_space.latency_ms(one.network) <= 4.0
        assert one.network.hash not in set(foreign.trained["hash"])
    assert "fn.search(.., start_from=" in str(whole)


@pytest.mark.parametrize(("asked", "error", "words"), [
    ({"table": "h100_sxm", "workload": "chat"}, RunError, "needs it; fn.pareto takes the space"),
    ({"workload": "chat"}, ConfigError, "pareto.workload needs a latency table"),
    ({"objectives": ["recall", "latency_ms"]}, ConfigError, "pareto.objectives names 'recall', which"),
    ({"confidence": 0.9}, ConfigError, "pareto.confidence needs a latency table")])
def test_what_a_foreign_run_cannot_answer_is_one_line(foreign, asked, error, words):
    with pytest.raises(error) as caught:
        fn.pareto(foreign, **asked)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_cannot_time_foreign_networks(foreign):
    with pytest.raises(ConfigError, match="are not of flashnas"):
        fn.pareto(foreign, space=WidthFittedGpt2Space(), table="h100_sxm", workload="chat")
    assert isinstance(known_runs([foreign.path], WidthFittedGpt2Space()).networks[0].network, Gpt2)
    assert known_runs([foreign.path], Gpt2Space()).spaces == (None,)  # not the space as it was


def test_a_table_without_rows_for_all_networks_is_one_line(run, tmp_path):
    with pytest.raises(TableError, match="and so for all"):
        fn.pareto(run, table=write_table(tmp_path / "table", tiny_kinds()), workload="chat")


# -- a search that starts from runs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small_corpus, quick_recipe, tmp_path_factory):
    """A search with real trainings, as the command line makes it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--budget-ms", "85",
                 "--recipe", str(quick_recipe), "--data", str(small_corpus), "--trials", "5", "--workers", "1",
                 "--no-baselines", "--no-measure", "--out", str(out)]) == 0
    return fn.load_run(out)


@pytest.mark.slow
def test_the_next_search_trains_what_it_says_and_nothing_that_is_known(trained, tmp_path, capsys):
    """The budget lies between the two largest widths of the slowest network, which differ by half a percent."""
    widest = trained.trained[trained.trained["hidden"] == 128]
    budget = round(widest["latency_ms"].max() * 0.997, 4)
    assert main(["pareto", str(trained.path)]) == 0  # nothing to train, and yet a way on
    assert "search on from all that the runs know: --out DIR writes the options of that search to " in (
        capsys.readouterr().out)
    out = tmp_path / "again"
    assert main(["pareto", str(trained.path), "--budget-ms", str(budget), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["to_train"]["count"] == len(found["to_train"]["networks"]) > 0
    assert found["to_train"]["tokens_each"] == 512
    assert found["to_train"]["seconds_each"] > 0
    (command,) = found["to_train"]["commands"]
    assert command == f"flashnas search --config {out / 'next_search.yaml'} --out {out / 'next_search'}"
    assert [yaml.safe_load((out / "next_search.yaml").read_text())] == found["to_train"]["searches"]
    words = [*shlex.split(command)[1:-2], "--trials", "3"]
    more = ["--no-measure", "--no-baselines", "--workers", "1"]
    assert main([*words, *more, "--out", str(tmp_path / "next")]) == 0
    after = fn.load_run(tmp_path / "next")
    new = after.trials[after.trials["source"] == "training"]
    listed = [network["hash"] for network in found["to_train"]["networks"]]
    assert new["hash"].tolist()[:min(3, len(listed))] == listed[:3]
    assert not set(new["hash"]) & set(trained.trained["hash"])
    assert (after.trials["latency_ms"].dropna() <= budget).all()
    start = after.trials[after.trials["source"] == "run"]
    assert set(start["hash"]) <= set(trained.trained["hash"])
    assert start["loss"].tolist() == [float(trained.trained.set_index("hash")["loss"][key]) for key in start["hash"]]
    assert after.entry("start_from", "runs") == [str(trained.path)]
    capsys.readouterr()
    assert main([*words, *more, "--out", str(tmp_path / "next"), "--resume"]) == 0
    again = fn.load_run(tmp_path / "next")
    pd.testing.assert_frame_equal(again.trials, after.trials)


@pytest.mark.slow
def test_the_plan_knows_the_networks_of_the_runs(trained, capsys):
    words = ["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--budget-ms", "85", "--data",
             str(trained.entry("question", "data")), "--start-from", str(trained.path), "--dry-run", "--json",
             "--no-baselines"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["known"] == len(trained.trained)
    assert found["start_from"] == f"{trained.path}: {len(trained.trained)} trained networks"


@pytest.mark.parametrize(("more", "words"), [
    (["--tokens", "1024"], "recipe.tokens is 512 in the run and 1024 in this search"),
    (["--seed", "3"], "seed is 0 in the run and 3 in this search")])
def test_a_search_does_not_start_from_other_trainings(trained, tmp_path, capsys, more, words):
    assert main(["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--data",
                 str(trained.entry("question", "data")), "--start-from", str(trained.path), "--out",
                 str(tmp_path / "next"), *more]) == 2
    error = capsys.readouterr().err
    assert f"{trained.path}: a search cannot start from its networks: {words}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "next").exists()


def test_a_search_from_a_run_trains_what_is_new(run, tmp_path):
    found = fn.search(**ASKED, budgets={"latency_ms": 12_000}, trials=5, evaluator=loss, seed=1, sampler="tpe",
                      start_from=[str(run.path)], baselines=False, out=tmp_path / "next")
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


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_proposal_that_an_earlier_run_knows_does_not_change_how_many_networks_are_trained(
        run, tmp_path, asynchronous):
    found = fn.search(**ASKED, budgets={"latency_ms": 14_000}, trials=4, evaluator=loss, seed=1, sampler=Repeats,
                      start_from=[str(run.path)], baselines=False, asynchronous=asynchronous, out=tmp_path / "next")
    assert (found.trials["state"] == "reused").sum() == 1
    assert found.trials.loc[found.trials["source"] == "evaluator", "hash"].nunique() == 4
