"""Model files of strangers, damaged or hostile: each is one line and exit code 2, and takes no more
time and memory than its size explains.
"""

import base64
import json
import shutil
import struct

import pytest
import torch
from cases import cases

pytest.importorskip("transformers")
pytest.importorskip("gguf")

import gguf
import numpy as np
from networks import make_network, make_source, write_tokenizer_json
from one_line import one_line
from pretrained import SMALL_CONVERSION, random_model, write_gguf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.exporting.exporter import export_network
from flashnas.exporting.transformers import FlashnasConfig
from flashnas.families.gguf import reader
from flashnas.families.load_pretrained import load_pretrained
from flashnas.network.model import HybridLM
from flashnas.network.weights import save_model

NORM, DOWN = "model.layers.1.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight"


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


@pytest.mark.parametrize(("keys", "words"), cases("conversion", "wrong_configurations"))
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
        (folder / "config.json").write_text(FlashnasConfig.of(asked).to_json_string())
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
        (NORM, torch.Tensor.char, "must be of 16-bit floats or wider ones; got torch.int8"),
        (NORM, torch.Tensor.bool, "got torch.bool"),
        (NORM, lambda norm: norm.to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
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


def test_weights_that_overflow_are_named_before_anything_is_measured(llama, texts, tmp_path):
    folder, out = shutil.copytree(llama, tmp_path / "model"), tmp_path / "out"
    changed(folder, "model.norm.weight", lambda norm: norm * 1e38)
    asked = {"data": str(texts), "table": "h100_sxm", "budget_ms": ("90%",), "out": str(out)}
    said = one_line(WeightsError, fn.convert, str(folder), **SMALL_CONVERSION, **asked)
    assert "the model's loss on the text is not finite" in said
    assert (out / "measurements.jsonl").read_text().count("\n") == 1


def test_no_tensor_may_be_there_twice(model, line):
    save_file({NORM: torch.ones(64)}, model / "zzz.safetensors")
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


def key(name, *value, kind="llama"):
    """A damage: a key has another value, or none."""

    def damage(writer):
        values = writer.kv_data[0]
        values |= {old.replace("llama", kind): values[old] for old in values}
        values["general.architecture"] = gguf.GGUFValue(kind, Types.STRING)
        values.pop(name)
        if value:
            values[name] = gguf.GGUFValue(*value)

    return damage


def tensor(name, change):
    return lambda writer: writer.add_tensor(name, change(writer.tensors[0].pop(name).tensor))


def scaled(kind, factor):
    """A damage: rotary positions are scaled."""

    def damage(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(factor)

    return damage


def windowed(writer):
    writer.add_sliding_window(16)


Types = gguf.GGUFValueType
KIND, TOKENS, BLOCKS = "general.architecture", "tokenizer.ggml.tokens", "llama.block_count"
EPS, HEADS = "llama.attention.layer_norm_rms_epsilon", "lfm2.attention.head_count_kv"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (key(KIND, ["llama"], Types.ARRAY, Types.STRING), f"{KIND}: must be str; got ['llama']"),
        (key(KIND, b"\xff", Types.STRING), f"{KIND}: must be UTF-8 text"),
        (key(BLOCKS, "many", Types.STRING), f"{BLOCKS}: must be int; got 'many'"),
        (key(BLOCKS), f"{BLOCKS}: must be int; got None"),
        (key(EPS, "few", Types.STRING), f"{EPS}: must be float; got 'few'"),
        (key(EPS, -0.5, Types.FLOAT32), "rms_norm_eps: must be a number between 0 and 1; got -0.5"),
        (key(TOKENS, 7, Types.UINT32), f"{TOKENS}: must be list; got 7"),
        (key(TOKENS, [b"\xff"], Types.ARRAY, Types.STRING), f"{TOKENS}: must be UTF-8 text"),
        (key(HEADS, kind="lfm2"), f"{HEADS}: must be list; got None"),
        (key(HEADS, 2, Types.UINT32, kind="lfm2"), f"{HEADS}: must be list; got 2"),
        (scaled("yarn", 4.0), "lacks rotary positions of type 'yarn'"),
        (scaled("longrope", 1.0), "lacks rotary positions of type 'longrope'"),
        (windowed, "its attention has windows (attention.sliding_window); convert from"),
        (key("tokenizer.ggml.pre", "odd", Types.STRING), "tokenizer.ggml.pre must be one of gpt-2"),
        (tensor("blk.1.ffn_down.weight", np.transpose), "blk.1.ffn_down.weight is [96, 64]; its"),
        (tensor("blk.1.attn_norm.weight", np.atleast_2d), "blk.1.attn_norm.weight is [1, 64]; its"),
        (
            tensor("blk.1.attn_norm.weight", lambda x: x / 0),
            "blk.1.attn_norm.weight must be finite",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_keys_and_tensors_of_gguf_are_checked(damage, words, model, tmp_path, line):
    write_gguf("llama", model, tmp_path / "model.gguf", None, damage)
    assert words in line(tmp_path / "model.gguf")


@pytest.mark.parametrize(("kind", "factor"), [("linear", 4.0), ("none", 1.0)])
def test_scaled_positions_of_gguf_are_read(kind, factor, model, tmp_path):
    write_gguf("llama", model, tmp_path / "model.gguf", None, scaled(kind, 4.0))
    spec = load_pretrained(tmp_path / "model.gguf").network.architecture.operators[0]
    assert (spec.rope_factor, spec.rope_original) == (factor, 0)


def test_a_description_of_flashnas_is_that_of_the_keys(tmp_path, line):
    path, words = tmp_path / "model.gguf", "llama.attention.head_count: must be [4, 4]"
    export_network(make_source("64(vocab=300): 2x(a(head_dim=16) f)"), "gguf", tmp_path / "own")
    content = (tmp_path / "own" / "model.gguf").read_bytes()
    place = content.index(b"attention.head_count") + len("attention.head_count") + 16
    assert content[place] == 4
    path.write_bytes(content[:place] + b"\x03" + content[place + 1 :])
    assert f"{words}, as general.description says; got [3, 4]" in line(path)


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
        ("normalizer", in_turn(*6 * [in_turn(TEN)]), True),
        ("normalizer", in_turn(*9 * [replace(" ", "\ufdfa"), {"type": "NFKD"}]), True),
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
