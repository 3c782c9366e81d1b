"""The same small language model here and in transformers, with the same weights, for training.py
and decode.py.

6x(X f) for attention (Llama) and the gated delta rule (Qwen3-Next, all layers linear, dense FFN),
or 6x(X), where their decoder layers lose the FFN and its norm; 6x(m2) for Mamba2, whose
transformers model has no FFN. Heads of 64 channels, Mamba2 with its state of 128 or with that of
small proxies, 32; FFN three times the width, vocabulary 4096, tied head.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import torch
from torch import Tensor, nn

from flashnas.architecture import Architecture
from flashnas.network.model import HybridLM
from flashnas.operators.spec import NORM_EPS, OUTPUT_NORM_EPS

sys.modules["fla"] = None  # type: ignore[assignment]  # with fla in reach Qwen3-Next calls kernels that need a GPU
import transformers  # noqa: E402
from transformers.cache_utils import Cache, CacheLayerMixin  # noqa: E402
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next  # noqa: E402

LAYERS, VOCAB, HEAD_DIM = 6, 4096, 64
MIXERS = {
    "a": f"a(head_dim={HEAD_DIM})",
    "m2": "m2",
    "m2(state=32)": "m2(state=32)",
    "gd": f"gd(head_dim={HEAD_DIM})",
}
# what their side may choose from; 0: no chunks
CHUNKS = {
    "a": (0,),
    "m2": (32, 64, 128, 256),
    "m2(state=32)": (32, 64, 128, 256),
    "gd": (32, 64, 128),
}
_CHUNKED_DELTA_RULE = qwen3_next.torch_chunk_gated_delta_rule


def ours(kind: str, width: int, ffn: bool = True) -> HybridLM:
    """Our model with weights from seed 0; `ffn`: an FFN behind each mixer, never behind m2."""
    torch.manual_seed(0)
    layer = MIXERS.get(kind, kind) + (" f" if ffn and not kind.startswith("m2") else "")
    return HybridLM(Architecture.parse(f"{width}(vocab={VOCAB}): {LAYERS}x({layer})"))


def theirs(kind: str, model: HybridLM, attention: str = "sdpa") -> nn.Module:
    """transformers' model with the weights of ours; without FFN where ours has none."""
    hidden = model.architecture.hidden
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "num_hidden_layers": LAYERS,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if kind.startswith("m2"):
        spec = model.architecture.operators[0].resolved(hidden)
        network: nn.Module = transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(
                **common,
                num_heads=2 * hidden // 64,
                head_dim=64,
                state_size=spec.state,
                n_groups=1,
                residual_in_fp32=False,
                layer_norm_epsilon=OUTPUT_NORM_EPS,
            )
        )
        for norm in (*(block.norm for block in network.backbone.layers), network.backbone.norm_f):
            norm.variance_epsilon = NORM_EPS  # theirs has one for all
    elif kind == "a":
        spec = model.architecture.operators[0].resolved(hidden)
        network = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **common,
                num_attention_heads=spec.heads,
                num_key_value_heads=spec.kv_heads,
                head_dim=HEAD_DIM,
                intermediate_size=3 * hidden,
                rms_norm_eps=NORM_EPS,
                attn_implementation=attention,
            )
        )
    else:
        heads = hidden // HEAD_DIM
        network = qwen3_next.Qwen3NextForCausalLM(
            transformers.Qwen3NextConfig(
                **common,
                layer_types=["linear_attention"] * LAYERS,
                linear_num_key_heads=heads,
                linear_num_value_heads=heads,
                linear_key_head_dim=HEAD_DIM,
                linear_value_head_dim=HEAD_DIM,
                num_experts=0,
                intermediate_size=3 * hidden,
                rms_norm_eps=NORM_EPS,
            )
        )
    if not kind.startswith("m2") and len(model.layers) == LAYERS:
        for layer in network.model.layers:
            del layer.mlp, layer.post_attention_layernorm
            layer.forward = types.MethodType(_mixer_alone, layer)
    missing, unexpected = network.load_state_dict(_weights(kind, model), strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unexpected, unexpected
    assert sum(p.numel() for p in network.parameters()) == model.architecture.params
    return network.eval()


def _mixer_alone(layer: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """The first half of a decoder layer of Llama or Qwen3-Next."""
    y = layer.input_layernorm(x)
    y = (
        layer.linear_attn(y, **_only(options, "cache", "attention_mask"))
        if hasattr(layer, "linear_attn")
        else (layer.self_attn(y, **options)[0])
    )
    return x + y


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.get(name) for name in names}


def allow_linear_caches() -> None:
    """Let transformers' cache of a model without attention be asked for its length and mask: it
    raises, though only unused positions and masks depend on the answer. Tokens are compared with
    ours afterwards."""
    length, sizes = Cache.get_seq_length, Cache.get_mask_sizes

    def seq_length(self: Cache, layer_idx: int = 0) -> int:
        return int(length(self, layer_idx)) if _has_attention(self) else 0

    def mask_sizes(self: Cache, query_length: int, layer_idx: int) -> tuple[int, int]:
        return sizes(self, query_length, layer_idx) if _has_attention(self) else (query_length, 0)

    vars_of: Any = Cache
    vars_of.get_seq_length, vars_of.get_mask_sizes = seq_length, mask_sizes


def _has_attention(cache: Cache) -> bool:
    return not cache.layers or any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)


def set_chunk(network: nn.Module, chunk: int) -> None:
    """Let transformers' model cut time into chunks of that length."""
    for module in network.modules():
        if hasattr(module, "chunk_size"):
            module.chunk_size = chunk
    if chunk:
        delta_rule = functools.partial(_CHUNKED_DELTA_RULE, chunk_size=chunk)
        vars(qwen3_next)["torch_chunk_gated_delta_rule"] = delta_rule


def _weights(kind: str, model: HybridLM) -> dict[str, Tensor]:
    source, named = model.state_dict(), {}
    if kind.startswith("m2"):
        for name, weight in source.items():
            if name.endswith("conv.weight"):
                weight = weight.unsqueeze(1)
            name = name.replace("mixer.conv.", "mixer.conv1d.").replace("embedding.", "embeddings.")
            named["backbone." + name.replace("final_norm", "norm_f")] = weight
        return named
    shift = 1 if kind == "gd" else 0  # Qwen3-Next multiplies by 1 + weight
    named["model.embed_tokens.weight"] = source["embedding.weight"]
    named["model.norm.weight"] = source["final_norm.weight"] - shift
    halves = len(model.layers) // LAYERS
    for layer in range(LAYERS):
        here, there = f"layers.{halves * layer}.", f"model.layers.{layer}."
        named[there + "input_layernorm.weight"] = source[here + "norm.weight"] - shift
        if halves == 2:
            ffn = f"layers.{2 * layer + 1}."
            named[there + "post_attention_layernorm.weight"] = source[ffn + "norm.weight"] - shift
            gate, up = source[ffn + "mixer.in_proj.weight"].chunk(2)
            named |= {
                there + "mlp.gate_proj.weight": gate,
                there + "mlp.up_proj.weight": up,
                there + "mlp.down_proj.weight": source[ffn + "mixer.out_proj.weight"],
            }
        mixer = {
            name.removeprefix(here + "mixer."): weight
            for name, weight in source.items()
            if name.startswith(here + "mixer.")
        }
        convert = _attention if kind == "a" else _gated_delta_net
        named |= {there + name: weight for name, weight in convert(mixer).items()}
    return named


def _attention(mixer: dict[str, Tensor]) -> dict[str, Tensor]:
    q_rows = mixer["out_proj.weight"].shape[1]
    rows = (mixer["in_proj.weight"].shape[0] - q_rows) // 2
    q, k, v = mixer["in_proj.weight"].split([q_rows, rows, rows])
    return {
        "self_attn.q_proj.weight": q,
        "self_attn.k_proj.weight": k,
        "self_attn.v_proj.weight": v,
        "self_attn.o_proj.weight": mixer["out_proj.weight"],
    }


def _gated_delta_net(mixer: dict[str, Tensor]) -> dict[str, Tensor]:
    heads = len(mixer["A_log"])
    *qkvz, beta, a = mixer["in_proj.weight"].split([heads * HEAD_DIM] * 4 + [heads] * 2)
    by_head = [part.unflatten(0, (heads, -1)) for part in qkvz]  # theirs are grouped by head
    return {
        "linear_attn.in_proj_qkvz.weight": torch.cat(by_head, 1).flatten(0, 1),
        "linear_attn.in_proj_ba.weight": torch.stack([beta, a], 1).flatten(0, 1),
        "linear_attn.conv1d.weight": mixer["conv.weight"].unsqueeze(1),
        **{
            f"linear_attn.{name}": mixer[name]
            for name in ("A_log", "dt_bias", "norm.weight", "out_proj.weight")
        },
    }
