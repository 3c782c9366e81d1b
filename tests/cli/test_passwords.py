"""A password in the URL of --storage: nothing that is printed or recorded has it."""

import sys

import pytest
import yaml

from flashnas.cli.main import main
from flashnas.runs import database

URL, SHOWN = "postgresql://me:secret@db.invalid/name", "postgresql://me@db.invalid/name"


@pytest.fixture
def words(small_corpus, quick_recipe, tmp_path):
    return ["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--budget-ms", "14000",
            "--recipe", str(quick_recipe), "--data", str(small_corpus), "--trials", "2", "--sampler",
            "random", "--no-baselines", "--no-measure", "--rank-by", "short", "--no-bench", "--workers", "1", "--out",
            str(tmp_path / "run")]


def test_a_run_does_not_record_the_password(pages, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(database, "engine_url", lambda url: f"sqlite:///{tmp_path}/a.db")
    monkeypatch.setattr(sys, "argv", ["flashnas", *words, f"--storage={URL}"])
    assert main() == 0
    said = "".join(capsys.readouterr())
    command = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["command"]
    assert command.endswith(SHOWN)
    assert SHOWN in (tmp_path / "run" / "report.html").read_text()
    assert "secret" not in said
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path


def test_the_command_that_continues_works_with_a_password_file(words, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("flashnas.cli.run.search", interrupted)
    assert main([*words, "--storage", URL]) == 130
    said = capsys.readouterr().err
    assert said.endswith(f" --storage {SHOWN} --resume\n")
    assert "give the password, which is left out here, by PGPASSWORD or ~/.pgpass; continue with: flashnas" in said
    assert main(words) == 130
    assert "PGPASSWORD" not in capsys.readouterr().err


@pytest.mark.parametrize("asked", [
    ["search", "--storage", "postgresql://me:secret@127.0.0.1:port/x"],
    ["search", "--storage", "postgresql://me:my@secret@127.0.0.1:1/x"],
    ["search", "--storage", "mongo://me:secret@127.0.0.1:1/x"],
    ["search", "--storage", "postgresql://127.0.0.1:1/x?user=me&password=secret"],
    ["worker", "--storage", "postgresql://me:secret@127.0.0.1:1/x"],
    ["search", "--storge=postgresql://me:secret@127.0.0.1/x"],
    ["--storage", "postgresql://me:secret@127.0.0.1/x", "search"]], ids=lambda asked: " ".join(asked)[:60])
def test_an_error_does_not_show_the_password(words, asked, capsys):
    assert main([*asked, *words[1:]] if asked[0] == "search" else asked) == 2
    said = capsys.readouterr().err
    assert "127.0.0.1" in said
    assert "secret" not in said
    assert said.count("\n") == 1
