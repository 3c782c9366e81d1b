"""experiments/full_training: a killed training continues; nobody compares before all networks have
predictions.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashnas.architecture import Architecture
from flashnas.evidence.trainings import read_published

FOLDER = Path(__file__).parents[1] / "experiments" / "full_training"
NETWORKS = (
    "32(vocab=300): m2(head_dim=16,state=16) f(intermediate=32) a(head_dim=16) f(intermediate=32)",
    "32(vocab=300): a(head_dim=16) f(intermediate=32)",
    "32(vocab=300): 2x(a(head_dim=16) f(intermediate=32))",
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, header, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def command(script, *options):
    return [sys.executable, str(FOLDER / script), *map(str, options)]


def test_every_network_has_the_parameters_the_blocks_and_the_short_loss_that_the_files_state():
    networks = rows(FOLDER / "networks.csv")
    assert len(networks) >= 12
    for row in networks:
        network = Architecture.parse(row["notation"])
        assert network.params - network.vocab * network.hidden == int(row["params"])
        assert len(network.operators) == 2 * int(row["depth"])
    times = [float(row["predicted_ms"]) for row in networks]
    assert max(times) <= 1.1 * min(times)
    assert {row["notation"] for row in rows(FOLDER / "short.csv")} == {
        row["notation"] for row in networks
    }


@pytest.mark.slow
def test_a_killed_training_continues_and_all_rows_are_written_once_without_a_printed_loss(
    tmp_path, quick_recipe
):
    text, out, runs = tmp_path / "text.jsonl", tmp_path / "trainings.csv", tmp_path / "runs"
    documents = (
        f"document {n}: " + " ".join(str(n * k % 97) for k in range(400)) for n in range(40)
    )
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    write(
        tmp_path / "networks.csv",
        ("notation", "params"),
        [(NETWORKS[0], 3000), (NETWORKS[1], 2000)],
    )
    options = (
        "--networks",
        tmp_path / "networks.csv",
        "--out",
        out,
        "--runs",
        runs,
        "--data",
        text,
        "--recipe",
        quick_recipe,
        "--tokens-per-parameter",
        0.5,
        "--checkpoint-every-s",
        0,
        "--short-text",
    )
    process = subprocess.Popen(command("train.py", *options))
    deadline = time.monotonic() + 120
    while (
        not list(runs.glob("*/checkpoints/step-*"))
        and not out.exists()
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(2):  # the second time there is nothing left
        printed = subprocess.run(
            command("train.py", *options), check=True, capture_output=True
        ).stdout
    assert printed == b""
    found = rows(out)
    assert sorted((row["notation"], row["rate_factor"]) for row in found) == sorted(
        (notation, factor) for notation in NETWORKS[:2] for factor in ("1", "2")
    )
    assert [row["rate_factor"] for row in found] == ["1", "1", "2", "2"]
    assert all(0 < float(row["loss"]) < 7 and json.loads(row["curve"]) for row in found)


def compared(*options):
    return subprocess.run(
        command("compare.py", *options), capture_output=True, text=True, check=False
    )


@pytest.fixture
def made_up(tmp_path):
    write(tmp_path / "networks.csv", ("notation",), [(notation,) for notation in NETWORKS])
    trained = [
        (NETWORKS[0], 1, 3.0),
        (NETWORKS[1], 1, 3.3),
        (NETWORKS[2], 1, 3.1),
        (NETWORKS[1], 2, 3.2),
    ]
    write(
        tmp_path / "trainings.csv",
        ("notation", "rate_factor", "loss", "params", "tokens"),
        [(*row, 200_000, 4_000_000) for row in trained],
    )
    names = ("notation", "short_loss", "law", "evidence", "evidence_sds", "full", "full_sds")
    lines = [
        (notation, 4 + gap, -gap, gap, "[0.05, 0.05, 0.05]", 0.5 * gap, "[0.01, 0.01, 0.01]")
        for notation, gap in zip(NETWORKS, (0.0, 0.2, 0.1), strict=True)
    ]
    return tmp_path, names, lines


def test_compare_refuses_while_a_prediction_lacks_or_is_not_committed(made_up):
    folder, names, lines = made_up
    write(folder / "predictions.csv", names, lines[:-1])
    refused = compared("--folder", folder, "--uncommitted")
    assert refused.returncode
    assert "every network needs a prediction" in refused.stderr
    assert NETWORKS[2] in refused.stderr
    write(folder / "predictions.csv", names, lines)
    refused = compared("--folder", folder)
    assert refused.returncode
    assert "commit the predictions" in refused.stderr
    assert not refused.stdout


def test_compare_counts_pairs_errors_and_intervals_of_the_better_rate(made_up):
    folder, names, lines = made_up
    write(folder / "predictions.csv", names, lines)
    printed = compared("--folder", folder, "--uncommitted").stdout
    best = printed.split("The better rate")[1].partition("Rate factor 1 alone")[0]
    found = {line[:12].strip(): line.split() for line in best.splitlines()}
    assert "3 networks, 3 pairs, 3 of them" in printed
    assert found["short loss"][2:] == ["3.0", "of", "3", "(100%)", "1.000", "0.0000"]
    assert found["law"][1:] == ["0.0", "of", "3", "(0%)", "-1.000", "0.2828"]
    assert found["evidence"][1:] == [
        "3.0",
        "of",
        "3",
        "(100%)",
        "1.000",
        "0.0000",
        "100%",
        "of",
        "3",
    ]
    assert found["full"][-3:] == ["0%", "of", "3"]
    assert (folder / "full_training.png").stat().st_size > 10_000
    assert [row.nats for row in read_published(folder / "own.csv")] == [3.0, 3.2, 3.1]
