"""`flashnas export` from the command line: what it writes and what it refuses."""

import importlib.util
import json
import shlex

import pytest
import torch

pytest.importorskip("transformers")

from fake_plugins import write_plugin
from networks import MIXED, TEXT, make_network, make_source
from transformers import AutoModelForCausalLM, AutoTokenizer

from flashnas.base.errors import ExportError
from flashnas.base.registry import forget_plugins
from flashnas.cli.main import main
from flashnas.exporting.exporter import EXPORTS, export_network
from flashnas.exporting.transformers import write


def test_trained_weights_and_their_tokenizer_load_and_generate(trained, tmp_path, capsys):
    assert main(shlex.split(f"export {trained} --to hf --out {tmp_path}/out --json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source"].startswith("trained weights, sha256 ")
    assert report["notes"][0].startswith("vLLM, SGLang, TensorRT-LLM or MLX cannot hold this")
    assert sorted(report["parity"]) == ["greedy_logits", "prefill_logits"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert report["notation"] in card
    assert "import flashnas.exporting.transformers" in card
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer(TEXT[0], return_tensors="pt")
    assert tokenizer.decode(tokens["input_ids"][0]) == TEXT[0]
    generated = model.generate(**tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated[:, -4:], make_network(MIXED).generate(tokens["input_ids"], 4))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0


def test_drawn_weights_are_the_seeds_and_said_to_be_drawn(tmp_path, capsys):
    arguments = shlex.split(
        "export '64(vocab=97): m2(head_dim=16,state=16) f' --to hf --init-seed 7"
    )
    for name in ("a", "b"):
        assert main([*arguments, *shlex.split(f"--out {tmp_path / name} --dtype bfloat16")]) == 0
    printed = capsys.readouterr().out
    assert "bfloat16, untrained weights, drawn with seed 7" in printed
    assert "note: no tokenizer written" in printed
    assert (tmp_path / "a/model.safetensors").read_bytes() == (
        tmp_path / "b/model.safetensors"
    ).read_bytes()


def test_what_is_asked_wrongly_is_one_line(trained, tmp_path, refused):
    out = f"--out {tmp_path}/out"
    small = "'64(vocab=97): f' --to hf"
    drawn = f"{small} --init-seed 1"
    for words, message in (
        (f"{small} {out}", "is no folder of weights"),
        (f"{trained} --to hf --init-seed 1 {out}", "leave out --init-seed"),
        (
            f"{drawn} --to onnx {out}",
            f"--to must be one of {', '.join(EXPORTS)}; got 'onnx'",
        ),
        (f"{drawn} --dtype int8 {out}", "--dtype must be one of"),
        (f"{drawn} --type f16 {out}", "--type is for --to gguf"),
        (f"{drawn} --out {trained}", "exists and is not empty"),
        (
            f"{drawn} --tokenizer {trained}/tokenizer.json {out}",
            "the architecture's vocabulary ends at 96",
        ),
    ):
        assert message in refused(f"export {words}")
    assert not (tmp_path / "out").exists()


def test_folders_without_final_weights_say_what_to_name(trained, tmp_path, refused):
    run, search, out = tmp_path / "run", tmp_path / "search", f"--to hf --out {tmp_path}/out"
    for folder, marker in ((run, "train.yaml"), (search, "run.yaml")):
        folder.mkdir()
        (folder / marker).write_text("format: 4\nquestion: {}\n")
    assert refused(f"export {run} {out}").endswith(
        "is a training that has not finished; finish it with flashnas train --resume\n"
    )
    checkpoint = run / "checkpoints" / "step-00000007"
    checkpoint.parent.mkdir()
    trained.rename(checkpoint)
    assert f"or name its newest checkpoint, {checkpoint}\n" in refused(f"export {run} {out}")
    assert f"{search}: the run holds no trials yet" in refused(f"export {search} {out}")
    assert main(shlex.split(f"export {checkpoint} {out}")) == 0


NOTATION = """
from flashnas.exporting.exporter import Exporter, Written

class Notation(Exporter):
    loading = "    flashnas estimate FILE in {name}"
    options = {"short": "write the hash in place of the notation"}

    def write(self, folder, source, dtype, **options):
        architecture = source.architecture
        (folder / "notation.txt").write_text(architecture.hash if options.get("short") else architecture.notation)
        return Written({"notation": 0.0}, ("without weights",))

EXPORTER = Notation()
"""


def test_another_package_adds_a_format(tmp_path, monkeypatch):
    plugin = write_plugin(
        tmp_path / "plugin",
        "flashnas-notation",
        {EXPORTS.group: {"notation": "notations:EXPORTER"}},
        {"notations.py": NOTATION},
    )
    monkeypatch.syspath_prepend(plugin)
    forget_plugins()
    report = export_network(make_source("64(vocab=97): f"), "notation", tmp_path / "out")
    assert report["notes"][0] == "without weights"
    assert (tmp_path / "out/notation.txt").read_text() == "64(vocab=97): f"
    assert "FILE in out" in (tmp_path / "out/README.md").read_text()
    export_network(
        make_source("64(vocab=97): f"), "notation", tmp_path / "short", options={"short": True}
    )
    assert len((tmp_path / "short/notation.txt").read_text()) == len(report["hash"])
    with pytest.raises(ExportError, match="--shrt is for --to none"):
        export_network(
            make_source("64(vocab=97): f"), "notation", tmp_path / "other", options={"shrt": True}
        )
    monkeypatch.undo()
    forget_plugins()


def test_an_export_that_differs_is_not_left_behind(trained, tmp_path, refused, monkeypatch):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(write, "TOLERANCE", -1.0)
    message = refused(f"export {trained} --to hf --out {tmp_path}/out")
    assert "does not compute what the network does" in message
    assert sorted(tmp_path.iterdir()) == before


def test_without_transformers_the_extra_is_named(tmp_path, refused, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name)
    )
    message = refused(f"export '64(vocab=97): f' --init-seed 1 --to hf --out {tmp_path}/out")
    assert "pip install 'flashnas[export]'" in message
