import errno

import pytest

from flashnas.base.errors import BudgetError, ConfigError
from flashnas.cli import estimate
from flashnas.cli.common import parse_budgets, parse_options
from flashnas.cli.main import main
from flashnas.cli.progress import SearchProgress, duration
from flashnas.study.snapshot import Snapshot


@pytest.mark.parametrize(("words", "expected"), [
    (["serach"], "no command 'serach' (did you mean 'search'?)"),
    (["estimate"], "the following arguments are required: ARCH"),
    (["search", "--buget-ms", "3"], "does not know '--buget-ms' (did you mean '--budget-ms'?)"),
    (["estimate", "2048: d q f"], "operator must be one of a, swa, m"),
    (["estimate", "Nemotron-Flash-1"], "is not a preset (did you mean 'Nemotron-Flash-1B'?)"),
    (["estimate", "nowhere/01.yaml"], "nowhere/01.yaml: no such file"),
    (["estimate", "1024: d", "--table", "h100_sx"], "h100_sxm"),
    (["estimate", "1024: d", "--workload", "decode-9k"], "decode-8k"),
    (["report", "nowhere"], "nowhere"),
    (["search", "--sampler", "nsga3", "--out", "nowhere/run"], "nsga2"),
    (["search", "--budget", "latency=3", "--out", "nowhere/run"], "latency_ms"),
    (["search", "--budget-ms", "-3", "--out", "nowhere/run"], "-3"),
    (["search", "--space", "nemotron", "--out", "nowhere/run"], "nemotron_flash"),
    (["search", "--recipe", "cpuu", "--out", "nowhere/run"], "cpu"),
])
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
    assert err.startswith("flashnas")


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "run/trials.parquet")
    monkeypatch.setattr(estimate, "run", full)
    assert main(["estimate", "1024: d"]) == 2
    assert capsys.readouterr().err == ("flashnas estimate: No space left on device while writing run/trials.parquet\n")


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def bug(_):
        raise ZeroDivisionError
    monkeypatch.setattr(estimate, "run", bug)
    with pytest.raises(ZeroDivisionError):
        main(["estimate", "1024: d"])


def test_budgets_and_options_are_read_from_pairs():
    assert parse_budgets(14.0, ["tpot_ms=2", "memory_gb = 8"]) == {"latency_ms": 14.0, "tpot_ms": 2.0, "memory_gb": 8.0}
    assert parse_options(["population=20", "rate=0.5", "greedy=true", "kind=x"], "--o") == {
        "population": 20, "rate": 0.5, "greedy": True, "kind": "x"}
    for texts in (["tpot_ms"], ["tpot_ms=fast"], ["=2"], ["tpot_ms=1", "tpot_ms=2"]):
        with pytest.raises(BudgetError, match="budget"):
            parse_budgets(None, texts)
    with pytest.raises(ConfigError, match="--o must read KEY=VALUE; got 'population'"):
        parse_options(["population"], "--o")


def test_the_progress_line_says_what_is_known():
    snapshot = Snapshot(done=3, failed=1, reused=2, infeasible=0, total=27, best_loss=5.125, best_latency_ms=12345.6,
                        remaining_s=130)
    assert SearchProgress.line(snapshot, 61) == ("[4/27] best 5.125 nats/token at 12,346 ms | done 3 failed 1 reused 2"
                                                 " | 1 min 01 s gone, 2 min 10 s left")
    assert [duration(s) for s in (5, 65, 3900)] == ["5 s", "1 min 05 s", "1 h 05 min"]
