"""Model files of strangers, damaged or hostile: each is one line and exit code 2, and takes no more
time and memory than its size explains.
"""

import base64
import json
import signal
import struct

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("gguf")

import gguf
from networks import make_network, write_tokenizer_json
from pretrained import random_model, write_gguf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from flashnas.architecture import Architecture
from flashnas.convert.weights import load_pretrained
from flashnas.formats.gguf import reader
from flashnas.network.model import HybridLM
from flashnas.network.weights import save_model

NORM, DOWN = "model.layers.1.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def limited():
    """What hangs ends with a traceback."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("takes too long"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def model(tmp_path):
    random_model("llama", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def line(refused, tmp_path):
    """What a command says of a model that it refuses."""
    words = ["--to", "hf", "--out", str(tmp_path / "out")]
    return lambda path: refused(["export", str(path), *words])


@pytest.fixture
def unbuilt(monkeypatch):
    """No network may be built."""
    monkeypatch.setattr(HybridLM, "__init__", lambda *_: pytest.fail("built"))


# -- safetensors and their configuration ------------------------------------------------------------


def configured(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"hidden_size": 2**16, "intermediate_size": 2**18}, "asks for 154,676,690,944 parameters; its"),
        ({"head_dim": 10**12}, "parameters; its weights have 111,808"),
        ({"head_dim": 32}, "q_proj.weight is [64, 64]; its configuration asks for [128, 64]"),
    ],
)  # fmt: skip
def test_a_configuration_is_compared_before_anything_is_built(keys, words, model, line, unbuilt):
    configured(model, **keys)
    assert words in line(model)


@pytest.mark.parametrize("exported", [False, True])
def test_a_small_file_cannot_ask_for_a_large_network(exported, tmp_path, line, unbuilt):
    folder = tmp_path / "own"
    folder.mkdir()
    save_file({"embedding.weight": torch.ones(300, 32)}, folder / "model.safetensors")
    asked = Architecture.parse("65536(vocab=1000000): 500x(a f)")
    if exported:
        entry = {"model_type": "flashnas", "hidden_size": asked.hidden, "vocab_size": asked.vocab}
        entry["operators"] = [str(spec) for spec in asked.operators]
        (folder / "config.json").write_text(json.dumps(entry))
    else:
        (folder / "architecture.yaml").write_text(json.dumps({"architecture": asked.to_dict()}))
    assert "embedding.weight is [300, 32], this one needs [1000000, 65536]" in line(folder)


def test_experts_are_bounded(refused):
    assert "experts must be at most 4096; got 1000000000" in refused(
        ["estimate", "64: moe(experts=1000000000)"]
    )


def changed(folder, name, change):
    for file in folder.glob("*.safetensors"):
        if name in (tensors := load_file(file)):
            save_file({**tensors, name: change(tensors[name]).contiguous()}, file)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (DOWN, torch.t, "is [96, 64]; its configuration asks for [64, 96]"),
        (NORM, lambda norm: norm[None], "is [1, 64]; its configuration asks for [64]"),
        (NORM, torch.Tensor.char, "must be of 16-bit floats or wider ones; got int8"),
        (NORM, torch.Tensor.bool, "got bool"),
        (NORM, lambda norm: norm.to(torch.float8_e4m3fn), "got float8_e4m3fn"),
        (NORM, lambda norm: norm / 0, "must be finite; got NaN or infinity"),
        (DOWN, lambda matrix: matrix * torch.nan, "must be finite"),
    ],
)
def test_tensors_are_of_the_right_shape_and_type_and_finite(name, change, words, model, line):
    changed(model, name, change)
    said = line(model)
    assert name in said
    assert words in said


def test_numbers_of_own_weights_are_finite(tmp_path, line):
    network = make_network("32(vocab=300): a(head_dim=16) f")
    network.final_norm.weight.data[3] = torch.inf
    assert "final_norm.weight must be finite" in line(save_model(tmp_path / "own", network))


def test_an_index_says_which_files_count_and_no_tensor_is_there_twice(model, line):
    before = load_pretrained(model).network.state_dict()
    save_file({NORM: torch.ones(64)}, model / "zzz.safetensors")
    after = load_pretrained(model).network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (model / INDEX).write_text('{"weight_map": []}')
    assert f"{INDEX}:weight_map: must be a mapping; got []" in line(model)
    (model / INDEX).unlink()
    assert f"zzz.safetensors: holds {NORM}, as does another file" in line(model)


# -- GGUF -------------------------------------------------------------------------------------------


def header(tensors, values, content):
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, values) + content


def array(type_, count):
    return struct.pack("<Q1sIIQ", 1, b"a", 9, type_, count)


SAME_PLACE = b"".join(struct.pack("<QBIQIQ", 1, n, 1, 64, 0, 0) for n in range(9)) + bytes(512)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(0, 1, array(4, 2**40)), "not a readable GGUF file: "),
        (header(0, 1, array(0, 10**4) + bytes(10**4)), "must hold at most 1,000 values"),
        (header(9, 0, SAME_PLACE), "its tensors overlap"),
    ],
)
def test_the_header_of_gguf_is_bounded_by_the_file(content, words, tmp_path, line, monkeypatch):
    monkeypatch.setattr(reader, "MAX_READS", 1000)
    (tmp_path / "model.gguf").write_bytes(content)
    assert words in line(tmp_path / "model.gguf")


NAMES = "general.architecture", "tokenizer.ggml.tokens", "llama.attention.layer_norm_rms_epsilon"
KEY, TOKENS, EPS = NAMES
BLOCKS, HEADS = "llama.block_count", "lfm2.attention.head_count_kv"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (KEY, (["llama"], "ARRAY", "STRING"), "must be text; got ['llama']"),
        (KEY, (b"\xff", "STRING"), "must be UTF-8 text"),
        (BLOCKS, ("many", "STRING"), "must be a whole number above 0; got 'many'"),
        (BLOCKS, (-1, "INT32"), "must be a whole number above 0; got -1"),
        (BLOCKS, None, "must be a whole number above 0; got nothing"),
        (BLOCKS, (2000, "UINT32"), "asks for"),
        (EPS, ("few", "STRING"), "must be a number; got 'few'"),
        (EPS, (-0.5, "FLOAT32"), "must be a number between 0 and 1; got -0.5"),
        (TOKENS, (7, "UINT32"), "must be a list; got 7"),
        (TOKENS, ([b"\xff"], "ARRAY", "STRING"), "must be UTF-8 text"),
        (HEADS, None, "must be a list; got nothing"),
        (HEADS, (2, "UINT32"), "must be a list; got 2"),
    ],
)
def test_keys_of_gguf_are_checked_by_type(key, value, words, model, tmp_path, line):
    def change(writer):
        values = writer.kv_data[0]
        if key == HEADS:  # the keys of lfm2
            values |= {name.replace("llama", "lfm2"): values[name] for name in values}
            values[KEY] = gguf.GGUFValue("lfm2", gguf.GGUFValueType.STRING)
        values.pop(key)
        if value is not None:
            content, *types = value
            values[key] = gguf.GGUFValue(content, *(gguf.GGUFValueType[name] for name in types))

    write_gguf("llama", model, tmp_path / "model.gguf", None, change)
    said = line(tmp_path / "model.gguf")
    assert words in said
    assert key in said or words.startswith(("asks", "must be a number between"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("blk.1.ffn_down.weight", lambda x: x.T.copy(), "is [96, 64]; its configuration asks for [64"),
        ("blk.1.attn_norm.weight", lambda x: x[None], "is [1, 64]; its configuration asks for [64]"),
        ("blk.1.attn_norm.weight", lambda x: x.astype("int8"), "Dequantization for I8"),
        ("blk.1.attn_norm.weight", lambda x: x * float("nan"), "must be finite"),
    ],
)  # fmt: skip
def test_tensors_of_gguf_fit_its_keys(name, change, words, model, tmp_path, line):
    def replaced(writer):
        writer.add_tensor(name, change(writer.tensors[0].pop(name).tensor))

    write_gguf("llama", model, tmp_path / "model.gguf", None, replaced)
    said = line(tmp_path / "model.gguf")
    assert name in said
    assert words in said


def test_nothing_beside_a_gguf_file_is_read_or_run(model, tmp_path):
    """transformers takes tokenizer.json for the tokenizer, and asks whether auto_map may run."""
    words = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    write_gguf("llama", model, tmp_path / "model.gguf", words)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "run.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nTokenizer = str\n")
    auto_map = json.dumps({"auto_map": {"AutoTokenizer": ["run.Tokenizer", "run.Tokenizer"]}})
    for name in ("tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text(auto_map)
    read = load_pretrained(tmp_path / "model.gguf").tokenizer
    assert read.encode("the state").ids == words.encode("the state").ids
    assert not (tmp_path / "ran").exists()


# -- tokenizers -------------------------------------------------------------------------------------


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def table(*texts):
    """A normalizer of SentencePiece whose characters become these texts."""
    data = struct.pack("<II", 4, 0) + "\0".join(texts).encode()
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def in_turn(*parts):
    return {"type": "Sequence", "normalizers": parts, "decoders": parts}


PREPEND, TEN = {"type": "Prepend", "prepend": "▁"}, replace("a", "a" * 10)


@pytest.mark.parametrize(
    ("place", "part", "grows"),
    [
        ("normalizer", in_turn(PREPEND, replace(" ", "▁")), False),  # Llama 2
        ("normalizer", in_turn(table("a", "b" * 18), replace(" {2,}", " ", "Regex")), False),  # T5
        ("decoder", in_turn(replace("▁", " "), {"type": "Fuse"}), False),
        ("normalizer", replace("a", "a" * 100), True),
        ("normalizer", in_turn(*6 * [in_turn(TEN)]), True),
        ("normalizer", in_turn(*9 * [replace(" ", "\ufdfa"), {"type": "NFKD"}]), True),
        ("normalizer", in_turn(*9 * [PREPEND]), True),
        ("normalizer", table("a", "b" * 1000), True),
        ("decoder", in_turn(*6 * [TEN]), True),
    ],
)
def test_a_tokenizer_that_makes_texts_long_is_refused(place, part, grows, model, line):
    path = write_tokenizer_json(model / "tokenizer.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), place: part}))
    if grows:
        assert "may make a text at most 64 times as long; its" in line(model)
    else:
        load_pretrained(model)
