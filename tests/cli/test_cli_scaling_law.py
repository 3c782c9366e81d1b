"""`flashnas scaling-law`: what it trains, keeps, continues and says; its error lines."""

import json

import pytest

from flashnas.cli.main import main
from flashnas.training.store import read_table
from flashnas.trust.scaling_grid import GridTraining

KEY = ["pattern", "depth", "width", "tokens", "seed", "recipe"]
GRID = ["--depths", "1,2,3", "--widths", "16,32", "--tokens", "128,256", "--workload", "chat", "--workers",
        "1"]


@pytest.fixture(scope="module")
def command(small_corpus, quick_recipe):
    def build(out, *more):
        return ["scaling-law", "d(head_dim=16) f", *GRID, "--recipe", str(quick_recipe), "--data",
                str(small_corpus),
                "--out", str(out), *more]
    return build


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("law") / "grid"
    assert main(command(out)) == 0
    return out


@pytest.mark.slow
def test_a_grid_is_trained_fitted_and_answered(trained, command, capsys):
    capsys.readouterr()
    assert main(command(trained, "--budget-ms", "200", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    table = read_table(trained / "trainings.jsonl", GridTraining)
    assert sorted(set(zip(table["depth"], table["width"], table["tokens"], strict=True))) == [
        (d, w, n) for d in (1, 2, 3) for w in (16, 32) for n in (128, 256)]
    assert table["loss"].notna().all()
    assert table["tokens"].tolist() == [curve[-1][0] for curve in table["curve"]]
    assert found["trainings"] == 12
    assert set(found["law"]) == {"L0", "a", "alpha", "b", "beta", "c", "gamma", "intervals", "noise_nats"}
    assert {(held["depth"], held["width"]) for held in found["held_out"]} == {(3, 32)}
    assert found["extrapolation_error"] == max(abs(held["error"]) for held in found["held_out"])
    assert found["answer"]["latency_ms"] <= 200
    assert json.loads((trained / "scaling_law.json").read_text()) == found
    assert (trained / "scaling_law.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_broken_off_grid_trains_only_what_is_missing(trained, command, tmp_path, capsys):
    before = read_table(trained / "trainings.jsonl", GridTraining).set_index(KEY).sort_index()
    out = tmp_path / "grid"
    out.mkdir()
    lines = (trained / "trainings.jsonl").read_text().splitlines(keepends=True)
    (out / "trainings.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    assert main(command(out)) == 0
    shown, progress = capsys.readouterr()
    assert "12 trainings of blocks `d(head_dim=16) f`" in shown
    assert "(the paper: within 5.3%)" in shown
    assert "[12/12] trainings" in progress
    after = read_table(out / "trainings.jsonl", GridTraining).set_index(KEY).sort_index()
    assert after["loss"].tolist() == before["loss"].tolist()
    assert (out / "trainings.jsonl").read_text().startswith("".join(lines[:9]))
