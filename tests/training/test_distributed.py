"""Two processes on gloo, started by torchrun, against one; and their rules one by one."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from flashnas.base.errors import ConfigError, RunError
from flashnas.cli.main import main
from flashnas.training.checkpoint import checkpoints
from flashnas.training.distributed import Ranks, accumulating, processes
from flashnas.training.recipe import Recipe

NETWORK = "512(meta=8): d f a m2 moe moe(experts=4,sigmoid=true)"


def losses(out):
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        [float(row[name]) for row in rows if row[name]]
        for name in ("loss", "validation_loss", "gradient_norm")
    ]


@pytest.fixture(scope="module")
def asked(small_corpus, tmp_path_factory, quick_recipe):
    """Some kinds of operators, AdamW (Muon's iterations in bfloat16 turn rounding into noise), two
    parts in the batch of each process."""
    recipe = tmp_path_factory.mktemp("recipe") / "two.yaml"
    recipe.write_text(
        quick_recipe.read_text() + "optimizer: adamw\nmicro_batch_sequences: 1\nclip: 0.5\n"
    )
    options = "--tokens 768 --threads 1 --width-factor 8 --checkpoint-every-tokens 256 --keep 9"
    files = ["--data", str(small_corpus), "--recipe", str(recipe)]
    return ["train", NETWORK, *files, *options.split()]


@pytest.fixture(scope="module")
def by_two(asked, tmp_path_factory):
    """On a free port, one thread each."""
    out = tmp_path_factory.mktemp("train") / "two"
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node=2 -m flashnas"
    return subprocess.run(
        [sys.executable, *torchrun.split(), *asked, "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ), out


@pytest.fixture(scope="module")
def by_one(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "one"
    assert main([*asked, "--micro-batch-sequences", "0", "--out", str(out)]) == 0
    return out


@pytest.mark.slow  # with the one below, which uses the same two trainings
def test_two_processes_give_the_losses_of_one_and_only_the_first_speaks(by_two, by_one):
    child, out = by_two
    assert child.returncode == 0, child.stderr
    for ours, theirs in zip(losses(out), losses(by_one), strict=True):
        assert len(ours) in (2, 6)
        assert ours == pytest.approx(theirs, rel=2e-5)
    assert json.loads(child.stdout)["processes"] == 2
    assert child.stderr.count("vocabulary 300") == child.stderr.count("[6/6]") == 1
    assert "Traceback" not in child.stderr
    assert "FutureWarning" not in child.stderr  # torch itself says when no expert was idle


@pytest.mark.slow
def test_one_process_continues_what_two_began_with_other_parts_of_a_batch(
    by_two, by_one, asked, tmp_path
):
    out = shutil.copytree(by_two[1], tmp_path / "run")
    for folder in checkpoints(out / "checkpoints")[:-1]:
        shutil.rmtree(folder)
    assert [folder.name for folder in checkpoints(out / "checkpoints")] == ["step-00000002"]
    assert main([*asked, "--micro-batch-sequences", "2", "--out", str(out), "--resume"]) == 0
    assert losses(out)[0] == pytest.approx(losses(by_one)[0], rel=2e-5)


def test_gradients_are_averaged_once_a_step(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    averaged = []

    def hook(_, bucket):
        averaged.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    try:
        replica = DistributedDataParallel(torch.nn.Linear(2, 2))
        replica.register_comm_hook(None, hook)
        for last in (False, False, True):
            with accumulating(replica, last):
                replica(torch.ones(1, 2)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert averaged == [0]


def of_two(monkeypatch, rank, lowest):
    """One of two processes, of which `lowest` is the first one that failed; 2: none."""
    monkeypatch.setattr(
        dist, "all_reduce", lambda tensor, operation: tensor.fill_(min(int(tensor), lowest))
    )
    return Ranks(rank=rank, size=2)


@pytest.mark.parametrize(
    "error", [ConfigError("batch_sequences must be .."), PermissionError(13, "Permission denied")]
)
def test_what_a_user_got_wrong_is_said_once(monkeypatch, error):
    """By the lowest of the processes that failed; the others end with it."""

    def fail():
        raise error

    assert of_two(monkeypatch, 0, lowest=2).run_on_all(lambda: "done") == "done"
    for action in (fail, lambda: "done"):
        with pytest.raises(SystemExit) as ended:
            of_two(monkeypatch, 1, lowest=0).run_on_all(action)
        assert ended.value.code == 2
    with pytest.raises(type(error)) as caught:
        of_two(monkeypatch, 1, lowest=2).run_on_all(fail)
    assert caught.value is error


def test_other_processes_start_when_the_first_has_filled_the_cache(monkeypatch):
    calls = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, operation: calls.append("all"))
    for rank, order in ((0, ["action", "all", "all"]), (1, ["all", "action", "all"])):
        calls.clear()
        assert (
            Ranks(rank=rank, size=2).first_then_rest(lambda: calls.append("action") or rank) == rank  # noqa: B023
        )
        assert calls == order


@pytest.mark.parametrize(
    ("rank", "lost", "raised"),
    [
        (0, "[..gloo/transport/tcp/pair.cc] Connection closed by peer", RunError),
        (1, "Connection closed by peer", SystemExit),
        (0, "a shape is wrong", RuntimeError),
        (1, "a shape is wrong", RuntimeError),
    ],
)
def test_the_end_of_another_process_is_said_by_the_first_alone(monkeypatch, rank, lost, raised):
    ended = []
    for name, value in {
        "is_torchelastic_launched": lambda: True,
        "init_process_group": lambda *_, **__: None,
        "get_rank": lambda: rank,
        "get_world_size": lambda: 2,
        "destroy_process_group": lambda: ended.append(rank),
    }.items():
        monkeypatch.setattr(dist, name, value)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(raised) as caught, processes() as ranks:  # noqa: PT012
        assert (ranks.rank, ranks.size) == (rank, 2)
        raise RuntimeError(lost)
    assert ended == [rank]
    if raised is RunError:
        assert str(caught.value) == (
            "another process of this training has ended; continue from the last checkpoint with"
            " --resume"
        )


def test_an_option_that_does_not_exist_is_said_by_the_first_process_alone(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "64: f", "--tokns", "5"]) == 2
        assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize(
    ("size", "sequences", "micro", "message"),
    [
        (3, 8, 0, "batch_sequences must be a multiple of the 3 processes; got 8"),
        (2, 12, 4, "must divide the 6 sequences of each of the 2 processes; got 4"),
    ],
)
def test_batches_that_cannot_be_shared_evenly_are_named(size, sequences, micro, message):
    recipe = Recipe(batch_sequences=sequences, micro_batch_sequences=micro)
    with pytest.raises(ConfigError, match=message):
        Ranks(size=size).check(recipe)
    Ranks(size=2).check(Recipe(batch_sequences=8, micro_batch_sequences=8))  # one part for each


def test_shares_are_consecutive_rows_that_make_up_the_batch():
    rows = torch.arange(10).view(5, 2)
    assert torch.equal(torch.cat([Ranks(rank=rank, size=3).share(rows) for rank in range(3)]), rows)
    assert Ranks().share(rows) is rows
