"""Two processes on gloo, started by torchrun, against one."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.training.checkpoint import checkpoints
from flashnas.training.distributed import Ranks, accumulating
from flashnas.training.recipe import Recipe

NETWORK = "512(meta=8): d f a m2 moe"
SIX_STEPS = 6 * 128


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def torchrun(*arguments, processes=2, script=("-m", "flashnas")):
    """Run on several processes of one thread each, on a free port."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *script,
         *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"})


def losses(out):
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [[float(row[name]) for row in rows if row[name]] for name in ("loss", "validation_loss", "gradient_norm")]


@pytest.fixture(scope="module")
def asked(small_corpus, tmp_path_factory, quick_recipe):
    """Some kinds of operators, AdamW (Muon's iterations in bfloat16 turn rounding into noise), two parts in the batch
    of each process."""
    recipe = tmp_path_factory.mktemp("recipe") / "two.yaml"
    recipe.write_text(quick_recipe.read_text() + "optimizer: adamw\nmicro_batch_sequences: 1\nclip: 0.5\n")
    return ["train", NETWORK, "--data", small_corpus, "--recipe", recipe, "--tokens", SIX_STEPS, "--threads", 1,
            "--width-factor", 8, "--checkpoint-every-tokens", 256, "--keep", 9]


@pytest.fixture(scope="module")
def by_two(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "two"
    return torchrun(*asked, "--out", out, "--json"), out


@pytest.fixture(scope="module")
def by_one(asked, tmp_path_factory):
    threads, out = torch.get_num_threads(), tmp_path_factory.mktemp("train") / "one"
    assert main([*map(str, asked), "--micro-batch-sequences", "0", "--out", str(out)]) == 0
    torch.set_num_threads(threads)
    return out


@pytest.mark.slow  # with those below, which use the same two trainings
def test_two_processes_give_the_losses_of_one(by_two, by_one):
    child, out = by_two
    assert child.returncode == 0, child.stderr
    for ours, theirs in zip(losses(out), losses(by_one), strict=True):
        assert len(ours) in (2, 6)
        assert ours == pytest.approx(theirs, rel=2e-5)


@pytest.mark.slow  # with those below, which use the same two trainings
def test_only_the_first_process_speaks(by_two):
    child, _ = by_two
    assert json.loads(child.stdout)["processes"] == 2
    assert child.stderr.count("vocabulary 300") == 1
    assert child.stderr.count("[6/6]") == 1
    assert "Traceback" not in child.stderr
    assert "FutureWarning" not in child.stderr  # torch itself says when no expert was idle


@pytest.mark.slow  # with those below, which use the same two trainings
def test_one_process_continues_what_two_began_with_other_parts_of_a_batch(by_two, by_one, asked, tmp_path):
    out = shutil.copytree(by_two[1], tmp_path / "run")
    for folder in checkpoints(out / "checkpoints")[:-1]:
        shutil.rmtree(folder)
    assert [folder.name for folder in checkpoints(out / "checkpoints")] == ["step-00000002"]
    assert main([*map(str, asked), "--micro-batch-sequences", "2", "--out", str(out), "--resume"]) == 0
    assert losses(out)[0] == pytest.approx(losses(by_one)[0], rel=2e-5)


@pytest.mark.slow  # starts two processes twice
def test_sharded_processes_give_the_same_and_any_form_goes_on(by_two, by_one, asked, tmp_path):
    """From a checkpoint of each form to the other: one process from shards, and shards from whole weights."""
    shards, again = tmp_path / "shards", shutil.copytree(by_two[1], tmp_path / "again")
    child = torchrun(*asked, "--shard", "--out", shards)
    assert child.returncode == 0, child.stderr
    weights = [load_file(out / "final/model.safetensors") for out in (shards, by_one)]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4
    for ours, theirs in zip(losses(shards), losses(by_one), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for out in (shards, again):
        for folder in checkpoints(out / "checkpoints")[:-1]:
            shutil.rmtree(folder)
    assert main([*map(str, asked), "--out", str(shards), "--resume"]) == 0
    child = torchrun(*asked, "--shard", "--out", again, "--resume")
    assert child.returncode == 0, child.stderr
    for out in (shards, again):
        assert losses(out)[0] == pytest.approx(losses(by_one)[0], rel=2e-5)


SHARDED = """
import dataclasses, sys
import numpy as np
from flashnas.architecture import Architecture
from flashnas.data.dataset import Dataset
from flashnas.operators.parts import projection
from flashnas.training.distributed import processes
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer
projection._pads = lambda x: True  # as on a GPU
tokens = np.random.default_rng(0).integers(64, size=20000).astype(np.uint16)
data = Dataset(folder=None, source="x", vocab=300, train=tokens[:18000], validation=tokens[18000:],
               validation_bytes=4000, notes=())
recipe = Recipe(vocab=300, width_factor=1, sequence_tokens=32, batch_sequences=4, tokens=4*128, micro_batch_sequences=1,
                muon_lr=.005, adamw_lr=.02, dtype="float32", validation_tokens=32*17, curve_tokens=512, curve_points=2,
                clip=.5, weight_norm=True)
network = Architecture.parse("52(vocab=300,meta=4): d(head_dim=13) f m2(head_dim=13,state=7) moe(experts=3,active=2)")
with processes(1) as ranks:
    whole, sharded = ([(step.loss, step.gradient_norm, step.validation or 1) for step in Trainer(
        network, data, recipe, 0, dataclasses.replace(ranks, sharded=sharded)).steps()] for sharded in (False, True))
    if ranks.first:
        print(np.abs(np.array(whole) / np.array(sharded) - 1).max())
"""


@pytest.mark.slow  # starts two processes
def test_muon_and_weight_normalization_take_whole_matrices_of_shards(tmp_path):
    """With sizes that two processes cannot share evenly, and a last part of the validation for one of them alone."""
    (script := tmp_path / "sharded.py").write_text(SHARDED)
    child = torchrun(script=[str(script)])
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 2e-3


def test_one_process_has_nothing_to_shard(capsys):
    assert main(["train", "64: f", "--shard"]) == 2
    assert capsys.readouterr().err == ("flashnas train: --shard needs several processes, as torchrun"
                                       " --nproc-per-node=N starts them; got 1\n")


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


@pytest.mark.slow
def test_what_a_user_got_wrong_is_said_once(asked, tmp_path):
    recipe = tmp_path / "three.yaml"
    recipe.write_text("batch_sequences: 3\nsequence_tokens: 32\nvocab: 300\nwidth_factor: 1\n")
    child = torchrun(*asked, "--recipe", recipe, "--out", tmp_path / "run")
    said = [line for line in child.stderr.splitlines() if line.startswith("flashnas train:")]
    assert said == ["flashnas train: recipe.batch_sequences must be a multiple of the 2 processes; got 3"]
    assert child.returncode != 0
    assert not (tmp_path / "run").exists()


DYING = """
import os, signal, sys
from flashnas.cli.main import main
from flashnas.training import optimizer
step_of = optimizer.Optimizers.step
def step(self, number):
    if number == 4 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    step_of(self, number)
optimizer.Optimizers.step = step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_the_last_checkpoint_serves(asked, by_one, tmp_path):
    script, out = tmp_path / "dying.py", tmp_path / "run"
    script.write_text(DYING)
    child = torchrun(*asked, "--out", out, script=[str(script)])
    assert child.returncode != 0
    said = [line for line in child.stderr.splitlines() if line.startswith("flashnas train:")]
    assert said in ([], ["flashnas train: another process of this training has ended; continue from the last"
                         " checkpoint with --resume"])  # none where torchrun was quicker
    assert checkpoints(out / "checkpoints")[0].name == "step-00000004"
    assert main([*map(str, asked), "--out", str(out), "--resume"]) == 0
    assert losses(out)[0] == pytest.approx(losses(by_one)[0], rel=2e-5)


def test_an_option_that_does_not_exist_is_said_by_the_first_process_alone(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "64: f", "--tokns", "5"]) == 2
        assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize(("size", "changes", "message"), [
    (3, {}, "batch_sequences must be a multiple of the 3 processes; got 8"),
    (2, {"batch_sequences": 12, "micro_batch_sequences": 4}, "must divide the 6 sequences of each of the 2 processes;"
                                                             " got 4")])
def test_batches_that_cannot_be_shared_evenly_are_named(size, changes, message):
    recipe = dataclasses.replace(Recipe(batch_sequences=8), **changes)
    with pytest.raises(ConfigError, match=message):
        Ranks(size=size).check(recipe)
    Ranks(size=2).check(Recipe(batch_sequences=8, micro_batch_sequences=8))  # one part for each


def test_shares_are_consecutive_rows_that_make_up_the_batch():
    rows = torch.arange(10).view(5, 2)
    assert torch.equal(torch.cat([Ranks(rank=rank, size=3).share(rows) for rank in range(3)]), rows)
    assert Ranks().share(rows) is rows
