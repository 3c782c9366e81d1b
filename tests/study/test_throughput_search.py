"""Searches for the largest batch that fits: every network has a batch of its own."""

import pandas as pd
import pytest
import yaml

import flashnas as fn
from flashnas.base.errors import MissingRowsError
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel

WORKLOAD = "throughput-32k"


def loss(architecture):
    return 3 + 6 / len(architecture.operators) + 400 / architecture.hidden


@pytest.mark.slow
def test_a_search_at_the_largest_batch_trains_and_keeps_its_budget(tmp_path, small_corpus, quick_recipe, capsys):
    out = tmp_path / "run"
    assert main(["search", "--space", "tiny", "--table", "h100_sxm", "--workload", WORKLOAD, "--budget",
                 "throughput_tok_s=40000", "--objectives", "loss,throughput_tok_s", "--recipe", str(quick_recipe),
                 "--data", str(small_corpus), "--trials", "3", "--no-baselines", "--no-measure", "--workers", "1",
                 "--out", str(out)]) == 0
    capsys.readouterr()
    trials = pd.read_parquet(out / "trials.parquet")
    assert len(trials) == 3
    assert (trials["throughput_tok_s"] >= 40_000).all()
    model, entry = LatencyModel("h100_sxm", WORKLOAD), yaml.safe_load((out / "pareto/01.yaml").read_text())
    estimate = model.estimate(fn.Architecture.from_dict(entry["architecture"]))
    assert estimate.batch > 1
    assert entry["figures"]["throughput_tok_s"] == pytest.approx(estimate.throughput_tok_s)


@pytest.mark.parametrize(("sampler", "space"), [("aging-evolution", "nemotron_flash"),
                                                pytest.param("bayes", "tiny", marks=pytest.mark.slow)])
def test_every_sampler_finds_networks_at_the_largest_batch(tmp_path, sampler, space):
    run = fn.search(space=space, table="h100_sxm", workload=WORKLOAD, budgets={"throughput_tok_s": 20_000},
                    trials=4, cycle_size=2, evaluator=loss, sampler=sampler, baselines=False, measure=False, workers=1,
                    out=tmp_path / "run")
    assert len(run.trials) == 4
    assert run.trials["throughput_tok_s"].min() >= 20_000


def test_a_kernel_that_was_not_measured_is_still_found_before_the_search(tmp_path):
    with pytest.raises(MissingRowsError, match=r"does not cover space 'layerwise': .* no selective_scan_prefill"):
        fn.search(space="layerwise", table="h100_sxm", workload=WORKLOAD, budgets={"throughput_tok_s": 1.0}, trials=2,
                  evaluator=loss, measure=False, workers=1, out=tmp_path / "run")
