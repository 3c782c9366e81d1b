"""A budget that is kept: the certified bound in the search, finalists as measured, and `strict`."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from config_keys import with_keys

import flashnas as fn
from flashnas.cli.main import main
from flashnas.latency import validation
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import store, validate
from flashnas.latency.workload import load_workload
from flashnas.profiling import finalists, platforms, timing
from flashnas.runs.run import RecordedRun
from flashnas.space import load_space

CHAT, TINY = load_workload("chat"), load_space("tiny")
EXCEEDED = 1.10  # every model takes so much longer than predicted in the validation


def as_measured(model, architecture, factor):
    estimate = model.estimate(architecture)
    return {name: factor * estimate.metric(name) for name in ("ttft_ms", "tpot_ms", "latency_ms")}


@pytest.fixture(scope="module")
def validated(profiled_tiny_table, tmp_path_factory):
    folder = shutil.copytree(
        profiled_tiny_table, tmp_path_factory.mktemp("validated") / profiled_tiny_table.name
    )
    model = LatencyModel(LatencyTable.load(folder), CHAT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "POOL", 4)
        result = validate(model, TINY, lambda a: as_measured(model, a, EXCEEDED), count=19)
    store(result, TINY, CHAT, seed=0)
    return folder


@pytest.fixture(scope="module")
def budget_ms(validated):
    model = LatencyModel(LatencyTable.load(validated), CHAT)
    return model.estimate(TINY.build(TINY.pure_models()[0][1][:6], 96)).latency_ms


@pytest.fixture
def timed(monkeypatch):
    """Finalists take 1.05 times the prediction, or what the test sets; counts what was timed."""
    state = {"factor": 1.05, "timed": []}

    def measure(architectures, model, job, note):
        state["timed"] += [a.hash for a in architectures]
        return {
            a.hash: {**as_measured(model, a, state["factor"]), "throughput_tok_s": 1.0}
            for a in architectures
        }

    monkeypatch.setattr(finalists, "measure_finalists", measure)
    return state


@pytest.fixture
def command(validated, small_corpus, quick_recipe, budget_ms, tmp_path):
    def build(*more, **keys):
        asked = (
            f"search --space tiny --table {validated} --workload chat --budget-ms {budget_ms}"
            f" --recipe {quick_recipe} --data {small_corpus} --trials 3 --workers 1"
            f" --out {tmp_path / 'run'}"
        )
        keys = with_keys(tmp_path, baselines=False, rank_by="short", **keys)
        return [*asked.split(), *keys, *more]

    return build


@pytest.mark.slow
def test_the_bound_is_searched_and_the_report_shows_predicted_bound_and_measured(
    pages, command, timed, tmp_path, capsys, budget_ms
):
    assert main(command("--json", confidence=0.95, strict=True)) == 0
    summary = json.loads(capsys.readouterr().out)
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert (trials["latency_ms"].dropna() * EXCEEDED <= budget_ms * (1 + 1e-4)).all()
    for entry in summary["front"]:
        assert entry["bound_ms"] == pytest.approx(EXCEEDED * entry["latency_ms"], rel=1e-4)
        assert entry["measured_ms"] == pytest.approx(1.05 * entry["latency_ms"])
        assert entry["missed"] == []
    run = RecordedRun.load(tmp_path / "run")
    assert run.confidence == 0.95
    assert run.config["question"]["margins"]["latency_ms"] == pytest.approx(0.0953, abs=1e-3)
    html = (tmp_path / "run" / "report.html").read_text()
    assert "with 95% confidence" in html
    assert "Every one keeps its budgets" in html
    assert main(["report", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    assert "bound (95%)" in table.splitlines()[0]
    assert "measured" in table.splitlines()[0]


def test_a_miss_is_shown_as_one_and_strict_exits_3(command, timed, tmp_path, capsys):
    timed["factor"] = 2.0
    assert main(command()) == 0
    assert "over the budget as measured: P1 (latency_ms)" in capsys.readouterr().out
    assert main(command("--resume", strict=True)) == 3
    assert "over a budget as measured: 01.yaml" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run" / "pareto" / "01.yaml").read_text())["missed"] == [
        "latency_ms"
    ]
    page = fn.load_run(tmp_path / "run").report(tmp_path / "page.html")
    assert "Over the budget as measured: P1 (latency_ms)" in page.read_text()


def test_finalists_are_whole_models_timed_on_this_machine(command, capsys, monkeypatch):
    monkeypatch.setattr(timing, "MOST", timing.LEAST)
    assert main(command("--json")) == 0
    for entry in json.loads(capsys.readouterr().out)["front"]:
        assert entry["measured_ms"] == pytest.approx(
            entry["measured_ttft_ms"] + 256 * entry["measured_tpot_ms"]
        )
        assert entry["measured_tpot_ms"] > 0


def test_nothing_is_timed_where_the_device_is_not_at_hand(
    command, timed, tmp_path, capsys, refused, monkeypatch
):
    monkeypatch.setattr(platforms.Cpu, "label", lambda self: "Other CPU")
    error = refused(command(strict=True))
    assert "search.strict measures the finalists:" in error
    assert "but this is Other CPU" in error
    assert not (tmp_path / "run").exists()
    assert main(command("--json")) == 0
    assert not timed["timed"]
    assert "measured_ms" not in json.loads(capsys.readouterr().out)["front"][0]


@pytest.mark.parametrize(
    ("more", "keys", "words"),
    [
        (
            ("--budget-ms", "0.001"),
            {"confidence": 0.95},
            "confidence 0.95 divides the budgets",
        ),
        ((), {"confidence": 1.5}, "search.confidence must be below 1; got 1.5"),
        ((), {"confidence": 0.99}, "a confidence of 0.99 needs 99 architectures"),
        (
            ("--workload", "batch=1,prompt=512,generated=100"),
            {"confidence": 0.95},
            "has no validation of space 'tiny'",
        ),
        ((), {"strict": True, "measure": False}, "search.strict needs measured finalists"),
        ((), {"mode": "compiled"}, "mode must be one of eager; got 'compiled'"),
    ],
)
def test_what_cannot_be_certified_is_one_line(command, refused, more, keys, words):
    assert words in refused(command(*more, **keys))


def test_a_confidence_needs_a_budget_on_a_time(command, refused):
    words = command("--budget", "memory_gb=8", confidence=0.95)
    place = words.index("--budget-ms")
    error = refused([*words[:place], *words[place + 2 :]])
    assert "search.confidence needs a budget on a time, such as --budget-ms" in error
