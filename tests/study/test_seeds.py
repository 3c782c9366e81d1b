"""Several seeds for the front: the front is that of the means, and nothing is trained twice."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import flashnas as fn
from flashnas.cli.main import main
from flashnas.runs.run import RecordedRun
from flashnas.runs.trial import Outcome, Trial, outcome_key
from flashnas.search.pareto import non_dominated
from flashnas.study.finish import train_under_seeds

# network -> latency, and the loss under seeds 0, 1 and 2; None: it fails
INVENTED = {"lucky": (1.0, (1.0, 3.0, 3.2)), "steady": (1.0, (1.5, 1.6, 1.4)), "third": (1.0, (1.8, 1.8, 1.8)),
            "slow": (9.0, (0.5, None, 0.7)), "last": (9.5, (4.0, 0.0, 0.0))}


class Invented:
    """What `train_under_seeds` uses of a record, with losses from the table above."""

    def __init__(self, known=(), bench=None):
        self.networks, self.notes, self.trained = {name: name for name in INVENTED}, [], []
        self.outcomes = {name: self.outcome(name, None) for name in INVENTED}
        self.outcomes.update({outcome_key(name, seed=seed): self.outcome(name, seed) for name, seed in known})
        self.trials = [Trial(number=number, cycle=1, origin="search", state="complete", genotype={}, hash=name,
                             notation=name, latency_ms=latency, loss=losses[0])
                       for number, (name, (latency, losses)) in enumerate(INVENTED.items())]
        self.trials.append(Trial(number=9, cycle=2, origin="search", state="reused", genotype={}, hash="steady",
                                 loss=1.5))
        self.progress = SimpleNamespace(note=self.notes.append)
        self.question = SimpleNamespace(job=lambda network, seed: (network, seed), foresee=lambda network, loss: {},
                                        scores=SimpleNamespace(score=lambda network, seed: bench))

    @staticmethod
    def outcome(name, seed):
        loss = INVENTED[name][1][seed or 0]
        return Outcome(hash=name, notation=name, seed=seed, reason="" if loss else "diverged",
                       score={"loss": loss, "bits_per_byte": loss / 2, "seconds": 1.0} if loss is not None else None)

    def run(self, jobs, on_wait=None):
        for key, (name, seed) in reversed(jobs.items()):  # in any order
            self.trained.append(key)
            found = self.outcome(name, seed)
            yield key, SimpleNamespace(result=found.score, reason=found.reason)

    def remember(self, network, score, reason="", *, seed):
        outcome = Outcome(hash=network, notation=network, score=score, reason=reason, seed=seed)
        self.outcomes[outcome.key] = outcome

    def write(self):
        self.final = list(self.trials)

    def report(self, *, now=False):
        """Nobody reads it."""

    def front(self):
        complete = [trial for trial in self.trials if trial.state == "complete"]
        mask = non_dominated([[trial.loss, trial.latency_ms] for trial in complete])
        return [trial for trial, keep in zip(complete, mask, strict=True) if keep]


def confirmed(**more):
    found = Invented(**more)
    train_under_seeds(found, found, found.front, (1, 2))
    return found


def test_the_lucky_leave_the_front_and_who_takes_their_place_has_all_seeds_too():
    found = confirmed()
    assert {trial.hash for trial in found.front()} == {"steady", "slow"}
    assert {key.partition("#")[0] for key in found.trained} == {"lucky", "steady", "slow"}
    assert len(found.trained) == len(set(found.trained)) == 6
    trials = {trial.number: trial for trial in found.final}
    assert trials[0].loss == pytest.approx(2.4)
    assert (trials[0].seeds, trials[2].seeds) == (3, None)
    assert trials[0].loss_se == pytest.approx(np.std([1.0, 3.0, 3.2], ddof=1) / math.sqrt(3))
    assert trials[0].bits_per_byte == pytest.approx(1.2)
    assert trials[9].loss == trials[1].loss == pytest.approx(1.5)
    assert (trials[2].loss, trials[4].loss) == (1.8, 4.0)  # never on the front: one seed


def test_a_seed_that_fails_is_left_out_and_named():
    found = confirmed()
    slow = next(trial for trial in found.final if trial.hash == "slow")
    assert (slow.seeds, slow.loss) == (2, pytest.approx(0.6))
    assert found.notes[1:2] == ["trial 3 failed under seed 1, which its mean leaves out: diverged"]


def test_what_is_recorded_is_not_trained_again_and_the_result_is_the_same():
    whole = confirmed()
    again = confirmed(known=[("lucky", 1), ("slow", 2), ("steady", 1)])
    assert again.final == whole.final
    assert set(again.trained) == set(whole.trained) - {"lucky#1", "slow#2", "steady#1"}


def test_a_score_from_a_bench_is_not_trained():
    found = confirmed(bench={"loss": 3.0, "seconds": 1.0, "source": "bench"})
    assert found.trained == []
    assert found.outcomes["lucky#2"].from_bench


@pytest.fixture(scope="module")
def command(small_corpus, quick_recipe):
    def build(out, *more):
        return ["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--recipe", str(quick_recipe),
                "--data", str(small_corpus), "--trials", "4", "--no-baselines", "--workers", "1", "--no-measure",
                "--rank-by", "short",
                "--out", str(out), *more]
    return build


@pytest.fixture(scope="module")
def seeded(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeded") / "run"
    assert main(command(out, "--seeds", "3")) == 0
    return out


def test_a_search_prints_the_front_of_the_means(seeded, capsys):
    run = fn.load_run(seeded)
    lines = [json.loads(line)["user_attrs"]["outcome"] for line in (seeded / "study.journal").read_text().splitlines()
             if '"outcome"' in line]
    losses = {}
    for outcome in lines:
        losses.setdefault(outcome["hash"], {})[outcome.get("seed")] = outcome["score"]["loss"]
    done = run.trials[run.trials["state"] == "complete"]
    for row in done.itertuples():
        assert row.loss == pytest.approx(np.mean(list(losses[row.hash].values())))
        assert set(losses[row.hash]) in ({None}, {None, 1, 2})
        assert len(set(losses[row.hash].values())) == len(losses[row.hash])
        assert json.loads(json.dumps(row.curve))[-1][1] == losses[row.hash][None]
    best = done[non_dominated(done[["loss", "latency_ms"]].to_numpy(float))]
    assert {entry.hash for entry in run.front} == set(best["hash"])
    assert (best["seeds"] == 3).all()
    for entry in run.front:
        error = np.std(list(losses[entry.hash].values()), ddof=1) / math.sqrt(3)
        assert entry.figures["loss_se"] == pytest.approx(error)
        assert f"{entry.loss:.3f} ± {error:.3f}" in run.table()
    totals = yaml.safe_load((seeded / "run.yaml").read_text())["totals"]
    assert totals["tokens"] == 512 * len(lines)
    assert totals["tokens_seeds"] == 512 * (len(lines) - len(done))
    assert f"{totals['tokens_seeds']:,} of them for further seeds" in run.effort()


def test_a_finished_run_may_be_continued_with_other_seeds(command, seeded, tmp_path):
    out = shutil.copytree(seeded, tmp_path / "run")
    before = (out / "study.journal").read_bytes().count(b'"outcome"')
    whole = pd.read_parquet(out / "trials.parquet")
    assert main(command(out, "--seeds", "3", "--resume")) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "trials.parquet"), whole)
    assert main(command(out, "--resume")) == 0
    assert (out / "study.journal").read_bytes().count(b'"outcome"') == before
    single = RecordedRun.load(out)
    assert single.trials["seeds"].isna().all()
    assert all(row.loss == row.curve[-1][1] for row in single.trials.itertuples())


def test_a_mean_that_an_earlier_run_knows_is_trained_under_the_other_seeds_only():
    """`lucky` comes with the mean of seeds 0 and 1, `slow` with that of all, of which seed 1 failed."""
    found = Invented()
    for name, losses, tried in (("lucky", (1.0, 3.0), 2), ("slow", (0.5, 0.7), 3)):
        mean, error = float(np.mean(losses)), float(np.std(losses, ddof=1) / math.sqrt(2))
        score = {**found.outcomes[name].score, "loss": mean, "bits_per_byte": mean / 2, "seeds": 2, "loss_se": error,
                 "seeds_tried": tried}
        found.outcomes[name] = Outcome(hash=name, notation=name, score=score)
    train_under_seeds(found, found, lambda: found.trials[:5], (1, 2))
    assert [key for key in sorted(found.trained) if key.partition("#")[0] in ("lucky", "slow")] == ["lucky#2"]
    alone = confirmed()
    whole = {trial.hash: trial for trial in alone.trials}
    for trial in found.trials:
        if trial.hash in ("lucky", "slow"):
            assert trial.seeds == whole[trial.hash].seeds
            assert trial.loss == pytest.approx(whole[trial.hash].loss)
            assert trial.loss_se == pytest.approx(whole[trial.hash].loss_se)
            assert trial.bits_per_byte == pytest.approx(whole[trial.hash].bits_per_byte)


@pytest.mark.slow  # every network is trained on three tasks under two seeds
def test_tokens_of_tasks_count_under_every_seed(command, quick_recipe, tmp_path, capsys):
    recipe = tmp_path / "tasks.yaml"
    recipe.write_text(quick_recipe.read_text() + "tasks: {steps: 2, batch_tokens: 192, test_sequences: 4}\n")
    each = 2 * 3 * 64  # one sequence of each of the three tasks
    words = command(tmp_path / "run", "--objectives", "loss,latency_ms,recall", "--recipe", str(recipe), "--seeds", "2",
                    "--trials", "2")
    assert main(words) == 0
    first = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["totals"]
    networks = (tmp_path / "run" / "study.journal").read_bytes().count(b'"outcome"')
    assert networks > 2
    assert first["tokens_tasks"] == each * networks
    assert first["tokens"] == (512 + each) * networks
    assert first["tokens_seeds"] == (512 + each) * (networks - 2)
    assert f"; {first['tokens_tasks']:,} of them on synthetic tasks; " in capsys.readouterr().out
    assert main([*words, "--resume"]) == 0
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["totals"] == first
