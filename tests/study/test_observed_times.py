"""A search whose milliseconds are corrected by observed ones."""

import json
import math
import re

import pytest
import yaml
from notes import Notes
from one_line import one_line

import flashnas as fn
from flashnas.base.errors import ConfigError, RunError
from flashnas.exporting.configuration import export_configuration
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.workload import WORKLOADS
from flashnas.observations.correction import corrected
from flashnas.reporting.statements import statements
from flashnas.study.config import SearchConfig
from flashnas.study.head import options_given
from flashnas.study.load import load_costs

QUESTION = {
    "space": "granite",
    "params": "20M..120M",
    "vocab": 16_000,
    "workload": "decode-1k",
    "budgets": {"latency_ms": 1_500.0},
}
NETWORK = fn.load_architecture("Nemotron-Flash-1B")


@pytest.fixture
def file(tmp_path):
    def write(factor=1.2):
        ms = factor * LatencyModel("h100_sxm", "chat").estimate(NETWORK).latency_ms
        path = tmp_path / "times.csv"
        path.write_text(
            f"network,workload,program,device,latency_ms\n{NETWORK.notation},chat,vllm 0.11,,{ms}\n"
        )
        return str(path)

    return write


def score(architecture):
    return 1 / architecture.params


def search(out, times, **more):
    return fn.search(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        evaluator=score,
        measure=False,
        trials=2,
        baselines=False,
        workers=1,
        out=out,
        times=times,
        **more,
    )


def test_a_search_takes_the_corrected_milliseconds_and_says_so(file, tmp_path):
    notes = Notes()
    run = search(tmp_path / "run", file(), progress=notes)
    model = corrected(model_of("h100_sxm", WORKLOADS["chat"]), file())
    for entry in run.front:
        assert entry.figures["latency_ms"] == model.estimate(entry.architecture).latency_ms
    recorded = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    assert recorded["table"]["observed"] == dict(model.observed)
    (line,) = [line for line in notes.lines if "observed time" in line]
    assert line.startswith("1 observed time of vllm 0.11 on h100_sxm: factor 1.")


def test_other_times_are_another_question(file, tmp_path):
    search(tmp_path / "run", file())
    search(tmp_path / "run", file(), resume=True)
    message = one_line(RunError, search, tmp_path / "run", file(1.3), resume=True)
    assert "run.yaml: times is" in message


def test_a_path_of_times_is_recorded_from_anywhere(file, tmp_path, monkeypatch):
    file()
    monkeypatch.chdir(tmp_path)
    given = options_given(SearchConfig(times="times.csv"))
    assert given["times"] == (str(tmp_path / "times.csv"),)


def test_times_need_a_table(file):
    config = SearchConfig(times=file())
    message = one_line(ConfigError, load_costs, config, len, None, evaluated=True)
    assert "search.times needs a latency table" in message


def as_vllm(seconds):
    return {"avg_latency": seconds, "latencies": [seconds] * 3}


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A search of granite, and times of networks of its front in their folders: mixed ones take
    longer than the table says."""
    folder = tmp_path_factory.mktemp("timed")
    run = fn.search(**QUESTION, out=folder / "a")
    for number, entry in enumerate((run.front[0], run.front[-1])):
        out = folder / "times" / str(number)
        export_configuration(entry.notation, out, dtype="bfloat16", tokenizer=None)
        seconds = entry.figures["latency_ms"] * (1.5, 1.3)[number] / 1000
        (out / "decode-1k.json").write_text(json.dumps(as_vllm(seconds)))
    return run, folder / "times"


def test_the_answer_says_what_times_changed(timed, tmp_path):
    before, times = timed
    run = fn.search(again=before.path, times=times, out=tmp_path / "b")
    assert {**run.config["options"], "times": 0, "again": 0} == {
        **before.config["options"],
        "times": 0,
        "again": 0,
    }, "the question is that of the run"
    found = run.answer.times
    assert found["networks"] == sorted(e.hash for e in (before.front[0], before.front[-1]))
    assert found["ratio"] == pytest.approx([math.sqrt(1.5 * 1.3), 1.3, 1.5])
    assert run.answer.recommended != before.answer.recommended, "it was too slow"
    said = dict(statements(run))["times"]
    assert said == "2 networks in vllm: 1.40 x the table (1.30 to 1.50)"
    was = before.recommended
    assert run.answer.before["now"] > 1_500 > was.latency_ms == run.answer.before["latency_ms"]
    assert re.fullmatch(
        r"Granite hybrid, .*, at 1,299 ms, now 1,\d+ ms, over the budget: [-+]0\.\d+ ± 0\.\d+ nats",
        dict(statements(run))["before"],
    )
    same = fn.search(again=run.path, out=tmp_path / "c")
    assert dict(statements(same))["before"].startswith("the same network, at ")
    assert not before.answer.times
    assert not {"times", "families"} & {*dict(statements(before))}, "there is one family"
