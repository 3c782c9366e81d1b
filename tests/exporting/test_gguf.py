"""GGUF files: what llama.cpp computes from them, in a process of its own, and what is refused with
one line.
"""

import importlib.util
import json
import re
import shlex
from importlib.metadata import version

import numpy as np
import pytest
from cases import cases

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

import gguf
from networks import TEXT, make_network, make_source, write_tokenizer_json
from offenders import every
from one_line import one_line
from searched import searched
from tokenizers import Tokenizer, models, pre_tokenizers

from flashnas.api.export import ExportOptions
from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError, ExportError
from flashnas.cli.main import main
from flashnas.data.tokenizer import SpecialTokens
from flashnas.exporting import gguf as write
from flashnas.exporting.exporter import export_network
from flashnas.exporting.source import Source
from flashnas.families.family import families
from flashnas.families.gguf import file
from flashnas.families.gguf.families import NAMES, architecture_name
from flashnas.families.gguf.vocabulary import vocabulary
from flashnas.profiling.llama_cpp.child import ask

M2, GD, GATED = (
    "m2(head_dim=16,state=16)",
    "gd(head_dim=16)",
    "a(head_dim=16,qk_norm=true,out_gate=true)",
)
SMALL = f"64(vocab=300): {M2} f a(head_dim=16) f"


def exported(notation, folder, type_="f32", source=None):
    report = export_network(
        source or make_source(notation), "gguf", folder, options={"type": type_}
    )
    return report, gguf.GGUFReader(folder / "model.gguf")


def asked(path, prompts=((1,),), texts=(), vocab=10):
    return ask(path, prompts=prompts, generate=0, never=[], texts=texts, vocab=vocab, plain=1)


def value_of(reader, key):
    return reader.get_field(key).contents()


@pytest.mark.parametrize(("family", "notation"), cases("exporting", "in_llama_cpp"))
def test_llama_cpp_computes_what_the_network_does(family, notation, tmp_path):
    report, reader = exported(notation, tmp_path / "out")
    assert value_of(reader, "general.architecture") == family
    assert max(report["parity"].values()) < 2e-5
    assert report["notes"][0].startswith(
        f"llama.cpp runs it as {family}; 64 of 64 greedy tokens are equal"
    )
    assert report["dtype"] == "f32"
    # but for what is zero, since llama.cpp must have it
    elements = sum(tensor.n_elements for tensor in reader.tensors if tensor.data.any())
    assert elements == pytest.approx(Architecture.parse(notation).params, rel=0.02)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "README.md"}
    assert "llama-cli -m out/model.gguf" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("type_", ["bf16", "q4_0"])
def test_types_of_weights(type_, tmp_path):
    notation = SMALL.replace(" f", " f(intermediate=72)")
    report, reader = exported(notation, tmp_path / "out", type_)
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    assert types["blk.0.ssm_in.weight"] == types["blk.1.attn_q.weight"] == type_
    assert types["token_embd.weight"] == ("q8_0" if type_ == "q4_0" else type_)
    assert (
        types["blk.0.ssm_a"]
        == types["output_norm.weight"]
        == types["blk.0.ssm_conv1d.weight"]
        == "f32"
    )
    narrow = type_.startswith("q")  # rows of 72 weights are not whole blocks
    assert types["blk.0.ffn_down.weight"] == ("f16" if narrow else type_)
    assert (
        "2 matrices are in f16, because their rows are not multiples of 32" in report["notes"]
    ) == narrow
    assert report["dtype"] == type_
    assert narrow == any(note.startswith("perplexity ") for note in report["notes"])


def test_experts_have_few_bits_and_their_scores_do_not(tmp_path, monkeypatch):
    notation = next(text for family, text in cases("exporting", "in_llama_cpp") if "shared" in text)
    report, reader = exported(notation, tmp_path / "out", "q8_0")
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    for name in ("gate_exps", "down_exps", "up_exps"):
        assert types[f"blk.1.ffn_{name}.weight"] == "q8_0"
    assert types["blk.1.ffn_gate_inp.weight"] == "f32"
    assert value_of(reader, "granitehybrid.expert_used_count") == 3
    assert any(note.startswith("perplexity ") for note in report["notes"])
    names = NAMES["moe"]
    turned = {**names, "gate": names["up"], "up": names["gate"]}
    monkeypatch.setitem(NAMES, "moe", turned)
    with pytest.raises(ExportError, match="does not compute what the network does"):
        exported(notation, tmp_path / "wrong")


def test_types_with_blocks_of_256(tmp_path):
    """llama.cpp quantizes q4_k and q6_k; what a state-space operator has beside its products stays
    in float32.
    """
    matrix = np.random.default_rng(0).standard_normal((8, 256), np.float32)
    for type_ in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        ours = np.empty_like(expected := gguf.quants.quantize(matrix, type_))
        file._quantize_chunk()(
            int(type_), matrix.ctypes.data, ours.ctypes.data, 0, *matrix.shape, None
        )
        assert (ours == expected).all()
    wide = "256(vocab=300): m2(head_dim=64,state=16) f(intermediate=WIDTH) a f(intermediate=WIDTH)"
    sparse = wide.replace("f(", "moe(experts=4,shared=256,")
    file.write_random_file(
        tmp_path / "moe.gguf", Architecture.parse(sparse.replace("WIDTH", "256")), "q4_k"
    )
    asked(tmp_path / "moe.gguf", vocab=300)
    file.write_random_file(
        tmp_path / "k.gguf", Architecture.parse(wide.replace("WIDTH", "512")), "q4_k"
    )
    types = {
        each.name.removeprefix("blk.0."): each.tensor_type.name.lower()
        for each in gguf.GGUFReader(tmp_path / "k.gguf").tensors
    }
    assert types["ssm_in.weight"] == types["ssm_out.weight"] == types["ffn_down.weight"] == "q4_k"
    assert types["token_embd.weight"] == "q6_k"
    assert {types[name] for name in ("ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_dt.bias")} == {
        "f32"
    }
    message = one_line(
        ExportError, file.check_rows, Architecture.parse(wide.replace("WIDTH", "640")), "q6_k"
    )
    assert message == (
        "q6_k holds 256 weights of a row in a block, but the rows of 'out_proj.weight' of operator 1,"
        " 'f', have 640; take sizes that are multiples of 256, or q8_0"
    )


@pytest.mark.slow  # whole exports of networks that are 256 wide
@pytest.mark.parametrize("type_", ["q6_k", "q4_k"])
@pytest.mark.parametrize("family", ["granitehybrid", "nemotron_h", "qwen35", "lfm2"])
def test_hybrids_with_blocks_of_256_answer(type_, family, tmp_path):
    notation = {
        "granitehybrid": f"{M2} f a(head_dim=64) f",
        "qwen35": f"{GD} f {GATED} f",
        "nemotron_h": f"{M2} f(relu2=true) a(head_dim=64,rope_share=0)",
        "lfm2": "conv f a(head_dim=64,qk_norm=true) f",
    }[family]
    report, _ = exported(f"256(vocab=300): {notation}", tmp_path / "out", type_)
    assert report["notes"][0].startswith(f"llama.cpp runs it as {family}")
    assert report["notes"][1].startswith("perplexity ")


def test_a_type_that_costs_too_much_is_refused():
    message = one_line(ExportError, write.check_loss, 0.0, -2.5, "q4_0")
    assert re.match(
        r"q4_0 costs this network 2\.50 nats a token; at most 0\.4 is allowed \(perplexity"
        r" \d+\.\d\d"
        r" in q4_0 and 1\.00 before, over 64 tokens that the network wrote\); take a type of",
        message,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(families()) - {"ministral"}))
def test_what_a_search_of_a_family_looks_at_exports(name, tmp_path):
    family = families()[name]
    size = family.search.sizes[0]
    report, _ = exported(str(searched(family, size, size.widths[0])), tmp_path / "out")
    assert max(report["parity"].values()) < 2e-5


def test_texts_become_the_same_tokens(tmp_path):
    tokenizer = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    _, reader = exported(
        "", tmp_path / "out", source=Source(make_network(SMALL), tokenizer, "test")
    )
    assert value_of(reader, "tokenizer.ggml.add_bos_token") is False
    assert value_of(reader, "tokenizer.ggml.eos_token_id") == 0
    texts = [*TEXT, "A <|endoftext|> in a text", "\u00e9\u4f60 \t\n x"]
    found = asked(tmp_path / "out" / "model.gguf", prompts=[[5, 6]], texts=texts, vocab=300)
    assert found["texts"] == [tokenizer.encode(text).ids for text in texts]


def test_a_tokenizer_without_merges_or_end_gets_what_llama_cpp_needs():
    tokenizer = Tokenizer(models.BPE(vocab={"!": 0, "a": 1, "b": 2}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = vocabulary(tokenizer, 5)
    assert words.tokens == ("!", "a", "b", "[unused 3]", "[unused 4]", "<|end|>")
    assert (words.merges, words.added, words.first, words.ends) == (("! !",), 1, None, (5,))
    ends = SpecialTokens(generation={"eos_token_id": [0, 1, 2]})
    with pytest.raises(ExportError, match="needs a token of whole characters that does not end"):
        _ = vocabulary(tokenizer, 3, ends).plain


@every(case=cases("exporting", "not_in_llama_cpp"))
def test_what_llama_cpp_lacks_is_named(case):
    notation, rule = case
    message = one_line(ExportError, architecture_name, Architecture.parse(notation))
    assert re.search(rf"llama\.cpp cannot hold this network as .*: {rule}", message), message


def test_a_gate_that_fails_leaves_nothing(tmp_path, monkeypatch):
    names = NAMES["f"]
    monkeypatch.setitem(NAMES, "f", {**names, "gate": names["up"], "up": names["gate"]})
    with pytest.raises(
        ExportError, match="does not compute what the network does: prefill logits differ by"
    ):
        export_network(make_source(SMALL), "gguf", tmp_path / "out", options={"type": "f32"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_ends_llama_cpp_is_one_line(tmp_path, monkeypatch):
    """Without Mamba2 llama.cpp aborts its process at the first token; the rule that refuses it
    is taken away.
    """
    for module in (write, file):
        monkeypatch.setattr(module, "architecture_name", lambda architecture: "nemotron_h")
    notation = "64(vocab=300): a(head_dim=16,rope_share=0) f(relu2=true)"
    message = one_line(ExportError, exported, notation, tmp_path / "out")
    assert re.match(
        r"64\(vocab=300\): .*: llama\.cpp ended with (SIGABRT|exit code 1): .*; nothing was"
        " written$",
        message,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_names_what_llama_cpp_says(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(DeviceError, match=r"llama\.cpp ended with exit code 1: "):
        asked(tmp_path / "model.gguf")


def test_an_architecture_that_llama_cpp_does_not_know_names_the_release(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen99")
    file._write(writer, tmp_path / "model.gguf")
    line = (
        rf"^the installed llama\.cpp \(xllamacpp {version('xllamacpp')}\) does not know the"
        r" architecture qwen99;"
        r" a newer one may: pip install --upgrade xllamacpp$"
    )
    with pytest.raises(DeviceError, match=line):
        asked(tmp_path / "model.gguf")


@every(kind=["Whitespace", None])
def test_other_tokenizers_are_refused(tmp_path, kind):
    described = json.loads(write_tokenizer_json(tmp_path / "tokenizer.json").read_text())
    described["pre_tokenizer"] = kind and {"type": kind}
    source = Source(make_network(SMALL), Tokenizer.from_str(json.dumps(described)), "test")
    with pytest.raises(
        ExportError,
        match=f"--to gguf writes tokenizers .*; got BPE with {kind or 'no'} pre-tokenizer",
    ):
        export_network(source, "gguf", tmp_path / "out")


def test_the_command_line(tmp_path, capsys, refused, monkeypatch):
    out = shlex.split(f"--to gguf --out {tmp_path}/out")
    arguments = ["export", SMALL, "--init-seed", "1", *out]
    assert main([*arguments, "--type", "q8_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "q8_0"
    other = [*arguments[:-1], str(tmp_path / "other")]
    for more, message in (
        (
            ["--type", "q4_k_m"],
            "--type must be one of f32, f16, bf16, q8_0, q6_k, q4_0, q4_k; got 'q4_k_m'",
        ),
        (["--dtype", "bfloat16"], "--dtype bfloat16 is not for --to gguf; --type sets the type"),
        (["--type", "f16", "--to", "hf"], "--type is for --to gguf"),
    ):
        assert message in refused([*other, *more])
    assert str(tuple(write.TYPES)) in str(ExportOptions.__dataclass_fields__["type"].metadata)
    assert tuple(write.TYPES) == tuple(write.TOLERANCES)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else found(name)
    )
    assert "--to gguf needs xllamacpp: pip install 'flashnas[llama-cpp]'" in refused(other)
    assert not (tmp_path / "other").exists()
