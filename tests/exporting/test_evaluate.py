"""Bits per byte of a text, what they are written to, and what is refused."""

import json
import math
import shlex

import pytest
import torch
import yaml

pytest.importorskip("transformers")

from networks import TEXT, make_network, write_tokenizer_json
from one_line import one_line
from transformers import AutoModelForCausalLM, AutoTokenizer

import flashnas as fn
import flashnas.exporting.transformers  # registers the model
from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError
from flashnas.cli.main import main
from flashnas.data.tokenizer import train_tokenizer
from flashnas.exporting.evaluate import windows
from flashnas.network.weights import save_model


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate((TEXT[0] * 2, "größer\n" + TEXT[1], "x")):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


@torch.no_grad()
def by_transformers(folder, texts, window, prefix):
    """Bits per byte token by token; of a token the network sees what its window holds."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bits, size, stride = 0.0, 0, max(1, window // 2)
    for path in sorted(texts.iterdir()):
        text = path.read_text(encoding="utf-8")
        ids = [*prefix, *tokenizer(text)["input_ids"]]
        for place in range(1, len(ids)):
            new = max(0, -(-(place - window) // stride))  # how often the window has moved
            end = min(len(ids) - 1, window + new * stride)  # of what is predicted with this token
            start = max(0, end - window) if new else 0
            logits = network(torch.tensor([ids[start:place]])).logits[0, -1].double()
            bits -= float(logits.log_softmax(-1)[ids[place]]) / math.log(2)
        size += len(text.encode()) - (0 if prefix else len(tokenizer.decode(ids[:1]).encode()))
    return bits / size


@pytest.mark.parametrize(("separated", "window"), [(True, 16), (True, 500), (False, 7)])
def test_bits_per_byte_are_those_of_transformers(trained, texts, tmp_path, separated, window):
    if not separated:
        described = json.loads((trained / "tokenizer.json").read_text())
        described["added_tokens"][0]["content"] = "<other>"
        described["model"]["vocab"]["<other>"] = described["model"]["vocab"].pop("<|endoftext|>")
        (trained / "tokenizer.json").write_text(json.dumps(described))
    fn.export(str(trained), to="hf", out=tmp_path / "out")
    expected = by_transformers(tmp_path / "out", texts, window, [0] if separated else [])
    for folder in (trained, tmp_path / "out"):
        found = fn.evaluate(str(folder), text=str(texts), window=window)
        assert found.score["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
        assert (found.score["documents"], found.score["lossy"], found.warnings) == (3, 0, ())


def test_results_of_the_same_weights_add_up_and_those_of_others_go(trained, texts):
    for name in ("0.txt", "1.txt"):
        fn.evaluate(str(trained), text=str(texts / name))
    written = json.loads((trained / "eval.json").read_text())
    assert [text["name"] for text in written["texts"].values()] == ["0.txt", "1.txt"]
    (trained / "eval.json").write_text(json.dumps({**written, "weights_sha256": "of others"}))
    fn.evaluate(str(trained), text=str(texts / "0.txt"))
    (text,) = json.loads((trained / "eval.json").read_text())["texts"].values()
    assert text["name"] == "0.txt"


def test_a_tokenizer_that_cannot_encode_the_text_is_one_line(trained, texts, capfd):
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    described = json.loads((trained / "tokenizer.json").read_text())
    described |= {"added_tokens": [], "model": words}
    (trained / "tokenizer.json").write_text(json.dumps(described))
    assert main(shlex.split(f"eval {trained} --text {texts}")) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"flashnas eval: the tokenizer cannot encode {str(texts)!r}: ")
    assert "Missing [UNK] token" in error
    assert error.count("\n") == 1


def test_a_tokenizer_that_drops_text_makes_a_warning(trained, texts):
    described = json.loads((trained / "tokenizer.json").read_text())
    described["normalizer"] = {"type": "Lowercase"}
    (trained / "tokenizer.json").write_text(json.dumps(described))
    (texts / "0.txt").write_text("UNION")
    assert "text of 1 of 3 documents" in fn.evaluate(str(trained), text=str(texts)).warnings[0]


def test_a_run_stands_for_its_chosen_network_once_that_is_trained(
    pages, build_run, tmp_path, texts, capsys
):
    run = build_run(count=8)
    for path in sorted((run / "pareto").glob("*.yaml"))[1:]:
        path.unlink()
    front = run / "pareto" / "01.yaml"
    searched = Architecture.parse("32(vocab=999): d(head_dim=16) f")
    entry = yaml.safe_load(front.read_text()) | {"architecture": searched.to_dict()}
    front.write_text(yaml.safe_dump(entry | {"notation": searched.notation, "hash": searched.hash}))
    command = shlex.split(f"eval {run} --text {texts}")
    assert main(command) == 2
    assert (
        f"its network P1 has not been trained; train it with flashnas train {front} --out"
        f" {run}/trained/01\n" in capsys.readouterr().err
    )
    text = write_tokenizer_json(tmp_path / "tokenizer.json").read_text()
    save_model(
        run / "trained/01/final",
        make_network("32(vocab=300): d(head_dim=16) f"),
        tokenizer_json=text,
    )
    assert main(command) == 0
    assert f"results {run}/trained/01/final/eval.json" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "<code>flashnas eval</code> found them" in page
    assert '<td class="text">texts</td>' in page
    assert main(shlex.split(f"export {run} --to hf --out {tmp_path}/out")) == 0
    assert "trained weights" in (tmp_path / "out/README.md").read_text()


def test_what_cannot_be_evaluated_is_one_line(trained, texts, tmp_path):
    bare = save_model(tmp_path / "bare", make_network("32(vocab=300): f"))
    fn.export(str(bare), to="hf", out=tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    (tmp_path / "out/config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    other = tmp_path / "other"
    other.mkdir()
    damaged = save_model(
        tmp_path / "damaged",
        make_network("32(vocab=300): f"),
        tokenizer_json=train_tokenizer(TEXT * 20, 290).to_str(),
    )
    (damaged / "eval.json").write_text('{"weights_sha256": "0", "texts": {"a": {"name": 3}}}')
    (linked := tmp_path / "linked").mkdir()
    (linked / "final").symlink_to(trained)
    text = {"text": str(texts)}
    cases = [
        (linked, text, "linked/final: must lie in the folder"),
        ("nowhere", text, "nowhere: no such folder"),
        (trained, {}, "eval.text is required"),
        (trained, {"text": "nowhere.txt"}, "corpus 'nowhere.txt': no such file"),
        (trained, {**text, "stride": 5}, "eval.stride of 0.2.0 is gone; a window moves by half"),
        (bare, text, "bare: has no tokenizer"),
        (tmp_path / "out", text, "not the configuration of an export"),
        (other, text, "other"),
        (trained, {"tasks": ["a"]}, "eval.tasks of 0.2.0 is gone; export with --to hf"),
        (damaged, text, "damaged/eval.json: texts"),
    ]
    for folder, options, expected in cases:
        assert expected in one_line(FlashnasError, fn.evaluate, str(folder), **options)


@pytest.mark.parametrize("window", [1, 3, 9])
def test_tokens_that_stand_in_front_are_no_text(window):
    ids, predicted = [300, 301, 5, 6, 7], []
    for part, first in windows(ids, window, 2):
        assert len(part) <= max(window, 2) + 1
        predicted += part[first:]
    assert predicted == [5, 6, 7]
