"""`flashnas search --as-good-as`: printed, recorded, read back and continued."""

import pytest

import flashnas as fn
from flashnas.cli.main import main
from flashnas.reporting.page import render_html
from flashnas.reporting.statements import statements

ASKED = ["search", "--space", "granite", "--as-good-as", "Llama-3.2-1B"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("as_good") / "run"
    assert main([*ASKED, "--params", "..2B", "--out", str(out)]) == 0
    return fn.load_run(out)


def test_the_answer_states_both_networks_and_the_odds(run):
    good = run.answer.as_good
    model, chosen, likely = good["model"], good["chosen"], good["likely"]
    assert good["name"] == "Llama-3.2-1B"
    assert chosen["notation"] == run.recommended.notation
    assert chosen["latency_ms"] < model["latency_ms"]
    assert chosen["difference"] <= 0
    assert 0.5 <= chosen["probability"] < 0.9 <= likely["probability"] <= 1
    assert chosen["latency_ms"] < likely["latency_ms"]
    assert likely["notation"] not in {trial.notation for trial in run.front}, "beyond the limit"
    said = dict(statements(run))
    assert said["as good as"] == "Llama-3.2-1B: 14.77 s, 2.74 GB, 1.236 B"
    saved = (model["latency_ms"] - chosen["latency_ms"]) / 1000
    assert said["beside it"].startswith(f"{saved:.4g} s less, ")
    assert f"no higher with probability {chosen['probability']:.2f}: " in said["beside it"]
    assert f"{likely['probability']:.2f}: Granite hybrid, " in said["more surely"]
    assert said["training"].startswith("100B tokens with 128,256 words, ")
    assert "100B tokens with 128,256 words, " in " ".join(render_html(run).split())
