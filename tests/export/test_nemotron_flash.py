"""The Nemotron-Flash target: names, shapes and keys, what it refuses, and a gate that sees a wrong cut."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

from networks import make_network, make_source, make_tokens
from offenders import every

from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.base.errors import ExportError
from flashnas.export.exporter import export_network
from flashnas.export.nemotron_flash.config import NAMES, family_config, pieces
from flashnas.export.nemotron_flash.family import family_logits
from flashnas.network.model import HybridLM

SMALL = ("128(vocab=300,meta=3): d(head_dim=32) f m2(head_dim=16,state=16) f"
         " a(head_dim=32,kv_heads=2,qk_norm=true,rope_theta=5000) f")
NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def config_of(notation: str) -> dict:
    return family_config(Architecture.parse(notation), NO_IDS, "float32")


def test_the_released_3b_has_its_published_shapes():
    """Sizes that readers of the released checkpoint state: 12640 rows of in_proj, 6400 filters, 96 heads."""
    architecture = presets()["Nemotron-Flash-3B"]
    with torch.device("meta"):
        state = HybridLM(architecture).state_dict()
    tensors = {piece.name: piece.of(state) for piece in pieces(architecture)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes["model.layers.2.mamba.in_proj.weight"] == (12640, 3072)
    assert shapes["model.layers.2.mamba.conv1d.weight"] == (6400, 1, 4)
    assert shapes["model.layers.2.mamba.norm.weight"] == (6144,)
    assert shapes["model.layers.2.mamba.A_log"] == (96,)
    assert shapes["model.layers.0.gla.b_proj.weight"] == (24, 3072)
    assert shapes["model.layers.0.gla.k_conv1d.weight"] == (3072, 1, 4)
    assert shapes["model.layers.1.ffn.gate_proj.weight"] == (9216, 3072)
    assert shapes["model.layers.4.self_attn.k_proj.weight"] == (768, 3072)
    assert shapes["model.memory_tokens"] == (256, 3072)
    assert sum(tensor.numel() for tensor in tensors.values()) == architecture.params


def test_the_released_1b_has_its_published_keys():
    config = family_config(presets()["Nemotron-Flash-1B"], NO_IDS, "bfloat16")
    expected = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4, "num_memory_tokens": 256,
                "ffn_expand_ratio": 3, "intermediate_size": 0, "mamba_expand": 2, "mamba_d_state": 128,
                "mamba2_headdim": 64, "kq_head_dim": -1, "kq_norm": "none", "rope": True, "tie_word_embeddings": True}
    assert {key: config[key] for key in expected} == expected
    assert config["layer_types"][:8] == ["deltanet", "f", "m2", "f", "a", "f", "m2", "f"]


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_folder_computes_what_the_network_does(tmp_path, tied):
    notation = SMALL.replace("meta=3", f"meta=3,tied={tied}")
    report = export_network(make_source(notation, drawn=True), "nemotron-flash", tmp_path / "out")
    assert report["parity"]["logits"] < 1e-5
    assert report["notes"][0] == "the rows of the drawn head were set to norm 1"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    if tied == "false":  # rows for the vocabulary and for the meta tokens
        assert tensors["lm_head.weight"].shape == (303, 128)
    else:
        assert "lm_head.weight" not in tensors
    network = make_network(notation)
    with torch.no_grad():
        network.head_weight.div_(network.head_weight.norm(dim=1, keepdim=True))
        tokens = make_tokens(network, 2, 70)
        ours, divided = network(tokens), family_logits(config, tensors, tokens, divided=True)
    torch.testing.assert_close(divided, ours, rtol=1e-3, atol=1e-4)
    if tied == "false":
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:300]
    again = {name: torch.full_like(tensor, torch.nan) for name, tensor in network.state_dict().items()}
    for piece in pieces(network.architecture):
        piece.back(tensors[piece.name], again)
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_heads_of_their_own_size_and_odd_ratios_are_said(tmp_path):
    notation = "96(vocab=97): a(heads=3,kv_heads=1,head_dim=16,rope_share=0) f(intermediate=256)"
    config = config_of(notation)
    assert (config["kq_head_dim"], config["num_attention_heads"], config["rope"]) == (16, 3, False)
    report = export_network(make_source(notation, drawn=True), "nemotron-flash", tmp_path / "out")
    assert report["parity"]["logits"] < 1e-5
    for width in range(128, 6000, 128):
        ratio = config_of(f"2304: f(intermediate={width})")["ffn_expand_ratio"]
        assert int(ratio * 2304) // 128 * 128 == width


@every(case=[
    ("128: d gla", "operator 1 is 'gla'; it has d, m2, a, f"),
    ("128: swa", "operator 0 is 'swa'"),
    ("128: m2(groups=2)", "operator 0, 'm2', has groups=2; it has 1"),
    ("128: d(conv_size=3)", "operator 0, 'd', has conv_size=3; it has 4"),
    ("128: a(qkv_bias=true)", "operator 0, 'a', has qkv_bias=true; it has false"),
    ("128: a(rope_share=0.5)", r"rope_share=0\.5; it has 0 or 1"),
    ("128: a a(heads=2,head_dim=64)", "operator 1, 'a', has heads=2 and an earlier one 1; one value holds for all 'a'"),
    ("128: d(head_dim=32) a", "4 heads of 'd' beside 1 heads of 'a'"),
    ("128: f(intermediate=200)", "'f' with intermediate=200; it has multiples of 128"),
    ("128: f(relu2=true)", "has relu2=true; it has false"),
    ("128: m2(heads=3)", "'m2' with heads=3, 192 channels"),
])
def test_what_the_family_lacks_is_named(case):
    notation, message = case
    with pytest.raises(ExportError, match=f"the Nemotron-Flash family lacks this: .*{message}"):
        config_of(notation)


def test_a_head_that_the_released_code_would_divide_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"norms of the head's rows, which must be 1; they lie in 0\.\d+ to 0\.\d+\."):
        export_network(make_source(SMALL), "nemotron-flash", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    report = export_network(make_source(SMALL), "nemotron-flash", tmp_path / "out", options={"raw_logits": True})
    assert "only for runtimes that do not divide" in report["notes"][0]


def test_the_gate_sees_a_tensor_under_a_wrong_name(tmp_path, monkeypatch):
    d = NAMES["d"]
    monkeypatch.setitem(NAMES, "d", {**d, "q": d["k"], "k": d["q"]})
    with pytest.raises(ExportError, match="does not compute what the network does: logits differ by"):
        export_network(make_source(SMALL, drawn=True), "nemotron-flash", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
