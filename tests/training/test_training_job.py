"""`flashnas train` from the command line's main(): folders, exact resume, what users get wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from layer_cases import LAYERED

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.cli.main import main
from flashnas.network.model import HybridLM
from flashnas.network.weights import load_model, read_tensors, write_tensors
from flashnas.operators.backends.core import cores_of
from flashnas.training.checkpoint import checkpoints
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Start, Trainer

ARCH = "64: d(head_dim=16) f a(head_dim=16)"


def train(*arguments):
    assert main(["train", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def asked(small_corpus, quick_recipe):
    """What every training here asks: 24 steps of 128 tokens, a checkpoint after every third."""
    files = ["--data", str(small_corpus), "--recipe", str(quick_recipe)]
    return [
        ARCH,
        *files,
        *["--tokens", "3072", "--threads", "1", "--checkpoint-every-tokens", "384"],
    ]


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("train") / "whole"
    train(*asked, "--out", out, "--keep", "3")
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of it that stands after step 21 of 24."""
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(out / "checkpoints" / "step-00000024")
    shutil.rmtree(out / "final")
    return out


def curve(out):
    """Everything in log.csv but the speed."""
    with open(out / "log.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "tokens_per_s"}
            for row in csv.DictReader(file)
        ]


def refused(arguments, capsys, code=2):
    """The one line of a training that ends with this exit code."""
    capsys.readouterr()
    assert main(["train", *map(str, arguments)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("flashnas train:")]) == 1
    return lines[-1]


def test_several_processes_are_refused(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused([*asked, "--out", tmp_path / "run"], capsys)
    assert "must be one process; torchrun started 2. Start it without torchrun" in line
    assert not (tmp_path / "run").exists()


def test_the_folder_holds_what_was_asked_every_step_and_the_weights(whole):
    record = yaml.safe_load((whole / "train.yaml").read_text())
    assert record["question"]["architecture"] == "64(vocab=300): d(head_dim=16) f a(head_dim=16)"
    assert record["question"]["recipe"]["tokens"] == 24 * 128
    assert record["host"]["torch"] == torch.__version__
    rows = curve(whole)
    assert [int(row["tokens"]) for row in rows] == [128 * step for step in range(1, 25)]
    assert [row["step"] for row in rows if row["validation_loss"]] == ["12", "24"]
    assert float(rows[-1]["validation_loss"]) == record["score"]["loss"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    assert [path.name for path in checkpoints(whole / "checkpoints")] == [
        "step-00000024",
        "step-00000021",
        "step-00000018",
    ]
    assert load_model(whole / "final").architecture.hash == record["hash"]
    assert sorted(path.name for path in (whole / "final").iterdir()) == [
        "architecture.yaml",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
    ]


def test_less_memory_than_the_recipe_needs_is_said_recorded_and_kept(
    asked, whole, tmp_path, monkeypatch, capsys
):
    """As on a smaller GPU; the losses are those of the recipe, up to rounding."""
    right, rows = HybridLM.loss, []

    def loss(self, tokens_BT, targets_BT):
        rows.append(len(tokens_BT))
        if self.training and rows[-1] > 2:
            raise RuntimeError("CPUAllocator: can't allocate memory")
        return right(self, tokens_BT, targets_BT)

    monkeypatch.setattr(HybridLM, "loss", loss)
    out = tmp_path / "run"
    train(*asked, "--out", out)
    line = "for lack of memory, 2 sequences per backward pass in place of 4"
    assert capsys.readouterr().err.count(line) == 1
    assert yaml.safe_load((out / "train.yaml").read_text())["micro_batch_sequences"] == 2
    losses = [[float(row["loss"]) for row in curve(folder)] for folder in (out, whole)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    shutil.rmtree(out / "checkpoints" / "step-00000024")
    rows.clear()
    train(*asked, "--out", out, "--resume")
    assert 4 not in rows[:6], "nothing is tried again that did not fit"
    assert capsys.readouterr().err.count(line) == 1


KILLED = """
import os, signal, sys
from flashnas.cli.main import main
from flashnas.training import optimizer
from flashnas.training import checkpoint
step_of, text_of = optimizer.Optimizers.step, checkpoint.write_synced
def step(self, number):
    if number == int(sys.argv[1]):  # between the two optimizers of one step
        self.optimizers = [self.optimizers[0], type("Kill", (), {"param_groups": [], "step": lambda _: kill()})()]
    step_of(self, number)
def write_synced(path, text):
    if path.name == "checkpoint.json" and f"step-{int(sys.argv[2]):08d}" in str(path):
        kill()  # weights and optimizer state are written, the last file is not
    text_of(path, text)
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
optimizer.Optimizers.step, checkpoint.write_synced = step, write_synced
main(sys.argv[3:])
"""


@pytest.mark.slow
def test_a_training_killed_twice_gives_the_same_curve_and_weights_to_the_bit(
    whole, asked, tmp_path, capsys
):
    out = tmp_path / "killed"
    for at_step, at_checkpoint, resume in ((10, 99, []), (99, 15, ["--resume"])):
        killed = [sys.executable, "-c", KILLED, str(at_step), str(at_checkpoint)]
        child = subprocess.run(
            [*killed, "train", *asked, "--out", str(out), *resume],
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert [path.name for path in checkpoints(out / "checkpoints")] == [
        "step-00000012",
        "step-00000009",
    ]
    assert len(curve(out)) == 15
    with open(out / "log.csv", "a") as file:
        file.write("16,2048,3.1")  # a row that the end cut off
    train(*asked, "--out", out, "--resume", "--json")
    printed, notes = capsys.readouterr()
    assert "continuing after step 12 of 24" in notes
    assert json.loads(printed)["resumed_at_step"] == 12
    assert curve(out) == curve(whole)
    ours, theirs = (load_model(folder / "final").state_dict() for folder in (out, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert not list((out / "checkpoints").glob(".*"))


def test_an_interrupted_training_saves_its_step_first(asked, whole, tmp_path, monkeypatch, capsys):
    from flashnas.cli.progress import TrainingProgress

    update, out = TrainingProgress.update, tmp_path / "run"
    monkeypatch.setattr(
        TrainingProgress,
        "update",
        lambda self, step, of: (
            update(self, step, of),
            step.number == 5 and os.kill(os.getpid(), signal.SIGTERM),
        ),
    )
    assert main(["train", *asked, "--out", str(out)]) == 130
    said = capsys.readouterr().err
    assert "interrupted; finished work is kept; continue with: flashnas train " in said
    assert said.rstrip().endswith("--resume")
    assert checkpoints(out / "checkpoints")[0].name == "step-00000005"
    monkeypatch.undo()
    train(*asked, "--out", out, "--resume")
    assert curve(out) == curve(whole)


def test_a_finished_training_is_said_again_and_not_trained(whole, asked, capsys):
    before = (whole / "log.csv").read_bytes()
    train(*asked, "--out", whole, "--resume", "--keep", "3", "--json")
    assert json.loads(capsys.readouterr().out)["resumed_at_step"] == 24
    assert (whole / "log.csv").read_bytes() == before


@pytest.mark.slow  # three trainings of all operators
def test_every_kind_of_operator_goes_on_to_the_bit_in_bfloat16_with_normalised_weights(
    asked, tmp_path, quick_recipe
):
    recipe, out, kept = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "kept"
    recipe.write_text(
        quick_recipe.read_text().replace("float32", "bfloat16") + "weight_norm: true\n"
    )
    options = ["--tokens", "512", "--width-factor", "8", "--checkpoint-every-tokens", "256"]
    arguments = [f"512(meta=8): {' '.join(LAYERED)}", *asked[1:-2], *options]
    arguments += ["--recipe", recipe, "--out", out]
    train(*arguments)
    shutil.copytree(out, kept)
    shutil.rmtree(out / "checkpoints" / "step-00000004")
    shutil.rmtree(out / "final")
    train(*arguments, "--resume")
    assert curve(out) == curve(kept)
    ours, theirs = (load_model(folder / "final").state_dict() for folder in (out, kept))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


# -- damaged and foreign checkpoints ---------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.safetensors", flip),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:40])),
        ("checkpoint.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_named_and_an_earlier_one_gives_the_same_curve(
    copied, whole, asked, capsys, name, damage
):
    path = copied / "checkpoints" / "step-00000021" / name
    damage(path)
    train(*asked, "--out", copied, "--resume")
    notes = capsys.readouterr().err
    assert f"{path}" in notes
    assert "continuing after step 18 of 24" in notes
    assert curve(copied) == curve(whole)


def test_a_damaged_log_is_named_with_its_place(copied, asked, capsys):
    log = copied / "log.csv"
    text = log.read_bytes()
    for damaged, message in (
        (b"\xc3\x28" * 90 + b"\n" + text, "cannot be read: not UTF-8 text"),
        (text.replace(b"step,tokens", b"steps,token"), "line 1 must be 'step,tokens,loss,"),
        (text.replace(b"\n3,", b"\nx,"), "line 4 must hold the 7 values of one step; got 'x,384,"),
        (text.replace(b"\n3,", b"\n"), "line 4 must hold the 7 values of one step; got '384,"),
    ):
        log.write_bytes(damaged)
        line = refused([*asked, "--out", copied, "--resume"], capsys)
        assert f"{log}: is damaged: {message}" in line
        assert "delete it to continue without the losses of earlier steps" in line
    log.unlink()
    train(*asked, "--out", copied, "--resume")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "optimizer.safetensors: is damaged: its sha256 is not the recorded"),
        ("{}", "checkpoint.json: is damaged: it has no sha256 of itself"),
        ("hello", "checkpoint.json:1: not valid JSON: "),
        ("[" * 100_000, "checkpoint.json: must be nested at most 64 levels deep"),
    ],
)
def test_checkpoint_files_of_which_none_is_usable_are_named(
    copied, asked, capsys, content, message
):
    for folder in checkpoints(copied / "checkpoints"):
        if content is None:
            flip(folder / "optimizer.safetensors")
        else:
            (folder / "checkpoint.json").write_text(content)
    line = refused([*asked, "--out", copied, "--resume"], capsys)
    assert f"step-00000021/{message}" in line
    assert "no earlier checkpoint is undamaged" in line


def reseal(folder):
    """Recompute the digests of a checkpoint, as someone who exchanges files by hand would."""
    from flashnas.network.weights import digest_of
    from flashnas.training.checkpoint import _digest

    content = json.loads((folder / "checkpoint.json").read_text())
    content["sha256"] = {name: digest_of(folder / name) for name in content["sha256"]}
    del content["self"]
    (folder / "checkpoint.json").write_text(json.dumps({**content, "self": _digest(content)}))


def test_a_checkpoint_of_another_architecture_is_named(copied, asked, capsys):
    from flashnas.network.weights import write_model

    folder = copied / "checkpoints" / "step-00000021"
    tensors = read_tensors(folder / "optimizer.safetensors")
    tensors["layers.0.mixer.in_proj.weight/momentum_buffer"] = torch.zeros(2, 3)
    write_tensors(folder / "optimizer.safetensors", tensors)
    reseal(folder)
    assert (
        "optimizer.safetensors: holds the optimizer state of another architecture:"
        " layers.0.mixer.in_proj.weight/momentum_buffer [2, 3] has no place in this one"
    ) in refused([*asked, "--out", copied, "--resume"], capsys)
    write_model(folder, HybridLM(Architecture.parse("64(vocab=300): f f")))
    reseal(folder)
    assert (
        "architecture.yaml: is a checkpoint of another architecture: 64(vocab=300): f f;"
        " this training's is 64(vocab=300): d(head_dim=16) f a(head_dim=16)"
    ) in refused([*asked, "--out", copied, "--resume"], capsys)


def test_another_question_than_recorded_is_refused_with_both_values(
    copied, asked, capsys, monkeypatch
):
    from flashnas.data import dataset

    real = dataset.read_corpus
    monkeypatch.setattr(
        dataset, "read_corpus", lambda _: real(asked[2])
    )  # the small corpus, under any name
    for change, message in (
        (["--tokens", "4096"], "question.recipe.tokens is 3072, but 4096 is asked"),
        (["--seed", "5"], "question.seed is 0, but 5 is asked"),
        (["--data", "stdlib"], "question.corpus is"),
    ):
        line = refused([*asked, "--out", copied, "--resume", *change], capsys)
        assert f"train.yaml: {message}" in line
        assert "choose another --out or the same question" in line
    line = refused(["64: f f", *asked[1:], "--out", copied, "--resume"], capsys)
    assert (
        "question.architecture is '64(vocab=300): d(head_dim=16) f a(head_dim=16)',"
        " but '64(vocab=300): f f' is asked"
    ) in line


# -- what else a user can get wrong ----------------------------------------------------------------


def test_folders_that_exist_are_not_overwritten(copied, asked, tmp_path, capsys):
    assert "holds a training already; continue it with --resume" in refused(
        [*asked, "--out", copied], capsys
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    line = refused([*asked, "--out", tmp_path / "other", "--resume"], capsys)
    assert "other: exists and is not the folder of a training (it has no train.yaml)" in line
    assert "--resume needs --out" in refused([*asked, "--resume"], capsys)
    from flashnas.base.system import hold_lock

    with hold_lock(copied / ".lock", RunError("free")):
        assert "another process is writing this training" in refused(
            [*asked, "--out", copied, "--resume"], capsys
        )


def test_a_tokenizer_that_does_not_fit_names_both_numbers(asked, whole, tmp_path, capsys):
    tokenizer = str(whole / "final" / "tokenizer.json")
    line = refused(
        ["64(vocab=256): f", *asked[1:], "--tokenizer", tokenizer, "--out", tmp_path / "run"],
        capsys,
    )
    assert "has 300 tokens, but the architecture's vocabulary is 256" in line
    options = ["--tokens", 128, "--tokenizer", tokenizer, "--out", tmp_path / "run"]
    train("64(vocab=320): f", *asked[1:], *options)
    assert "20 of the architecture's 320 are never seen" in capsys.readouterr().err
    assert load_model(tmp_path / "run" / "final").architecture.vocab == 320


def test_divergence_ends_with_its_reason_and_the_last_checkpoint_stays(
    asked, tmp_path, capsys, monkeypatch
):
    real = Trainer._update
    monkeypatch.setattr(
        Trainer,
        "_update",
        lambda self, batch: (
            self.network.embedding.weight.data.fill_(float("nan")) if self.done == 7 else None,
            real(self, batch),
        )[1],
    )
    line = refused([*asked, "--out", tmp_path / "run"], capsys, code=4)
    assert "training loss became nan after 896 tokens; the last checkpoint is" in line
    assert line.endswith("step-00000006")
    last = load_model(checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert last.embedding.weight.isfinite().all()
    assert not (tmp_path / "run" / "final").exists()


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(copied, asked, capsys):
    import errno

    from flashnas.network import weights

    def full(_tensors, path):
        raise weights.SafetensorError(
            f"I/O error: No space left on device (os error {errno.ENOSPC})"
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "save_file", full)
        line = refused([*asked, "--out", copied, "--resume"], capsys)
    assert "No space left on device: " in line
    assert "; free room; " in line
    assert line.endswith("--resume")
    assert checkpoints(copied / "checkpoints")[0].name == "step-00000021"
    assert not list((copied / "checkpoints").glob(".*"))


# -- from weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def export(whole, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    assert main(["export", str(whole), "--to", "hf", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def further(asked, tmp_path_factory):
    """The options of a training of weights, whose recipe says nothing of their start."""
    data = asked[asked.index("--data") + 1]
    recipe = tmp_path_factory.mktemp("further") / "further.yaml"
    recipe.write_text(
        "{width_factor: 1, sequence_tokens: 32, batch_sequences: 2, tokens: 128,"
        " validation_tokens: 128, curve_tokens: 64, curve_points: 1, optimizer: adamw,"
        " adamw_lr: 0.00001, dtype: float32}"
    )
    return ["--data", data, "--recipe", str(recipe), "--threads", "1"]


def first_loss(out):
    return float(curve(out)[0]["loss"])


def test_a_training_its_weights_and_its_export_go_on_alike(
    whole, export, further, tmp_path, monkeypatch
):
    out = tmp_path / "one"
    train(whole / "final", *further, "--out", out)
    assert first_loss(out) < 0.9 * float(curve(whole)[0]["loss"])
    for n, source in enumerate((whole, export)):
        other = tmp_path / str(n)
        train(source, *further, "--out", other)
        assert first_loss(other) == pytest.approx(first_loss(out), rel=1e-4)
        record = yaml.safe_load((other / "train.yaml").read_text())
        assert record["vocabulary"] == 300
    train(export, *further, "--out", tmp_path / "1", "--resume")  # which has finished


def test_weights_that_cannot_be_trained_are_one_line(whole, export, further, tmp_path, capsys):
    weights = Path(shutil.copytree(whole / "final", tmp_path / "weights"))
    (weights / "tokenizer.json").unlink()
    recipe = tmp_path / "own.yaml"
    recipe.write_text(Path(further[3]).read_text().replace("}", ", embedding_std: 0.5}"))
    others = Path(shutil.copytree(export, tmp_path / "others"))
    config = others / "config.json"
    said = {**json.loads(config.read_text()), "model_type": "llama"}
    said |= {"num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    said.pop("meta_tokens", None)
    config.write_text(json.dumps({**said, "hidden_size": 32, "vocab_size": 300}))
    (tmp_path / "model.gguf").touch()
    for source, options, line in (
        (weights, further, "--tokenizer must name the tokenizer.json of the weights"),
        (
            whole,
            [*further[:3], recipe],
            "recipe 'own': embedding_std is of weights that are drawn",
        ),
        (others, further, "flashnas did not write these weights, and reads its own alone"),
        (tmp_path / "model.gguf", further, "GGUF files are written and not read"),
    ):
        assert line in refused([source, *options, "--out", tmp_path / "run"], capsys)
    assert not (tmp_path / "run").exists()


def test_the_library_of_a_recipe_computes_weights_that_are_there(structured):
    network = HybridLM(Architecture.parse("64(vocab=300): d(head_dim=16)"))
    recipe = Recipe(backend="torch", sequence_tokens=32)
    Trainer(network.architecture, structured, recipe, 0, Start(network, ""))
    assert [core.backend for core in cores_of(network)] == ["torch"]
