"""What the files of families say: the networks that they hold, config.json, and who loads it."""

import json
import re
import sys
from pathlib import Path

import pytest
from offenders import every

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_of_config
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError
from flashnas.families.family import (
    PROGRAMS,
    families,
    family_of,
    interval_of,
    needed_family,
    writer_of,
)
from flashnas.families.programs import loading

FFN = "f(intermediate=96)"
A, ROTARY = "a(head_dim=16,kv_heads=2,rope_share=0)", "a(head_dim=16,kv_heads=2,rope_theta=500)"
WINDOWED = "swa(head_dim=16,kv_heads=2,rope_theta=500,window=24)"
NORMED = "a(heads=4,head_dim=16,kv_heads=2,qk_norm=true,rope_theta=5000)"
GATED = "a(heads=2,head_dim=32,kv_heads=1,qk_norm=true,out_gate=true,rope_share=0.25)"
EXPERTS = "moe(experts=4,active=2,intermediate=32)"
SHARED = EXPERTS.replace(")", ",shared=48)")
NETWORKS = {
    "granite": f"64(vocab=300): m2(head_dim=16,state=16) {FFN} {A} {FFN}",
    "granite_moe": f"64(vocab=300): m2(head_dim=16,state=16) {SHARED} {A} {SHARED}",
    "lfm2": f"64(vocab=300): conv {FFN} {NORMED} {FFN} conv {FFN}",
    "llama": f"64(vocab=300,tied=false): {ROTARY} {FFN} {ROTARY} {FFN}",
    "ministral": f"64(vocab=300): 2x({WINDOWED} {FFN}) {ROTARY} {FFN} {WINDOWED} {FFN}",
    "nemotron_h": "64(vocab=300,tied=false): m2(head_dim=16,state=16,groups=2)"
    f" f(relu2=true,intermediate=80) {A} m2(head_dim=16,state=16,groups=2)",
    "qwen3": f"64(vocab=300): {NORMED} {FFN}",
    "qwen3_moe": f"64(vocab=300,tied=false): {NORMED} {EXPERTS}",
    "qwen3_5": f"64(vocab=300): gd(head_dim=16,expand_v=2,k_heads=2) {FFN} {GATED} {FFN}",
}
PLACES = 3, 9, 15  # of attention in layers of the files that were checked by hand
MIXERS = {n: ("mamba", "attention")[n in PLACES] for n in range(18)}
COMMON = {"vocab_size": 128256, "hidden_size": 2560, "torch_dtype": "bfloat16"}
GRANITE = {
    **COMMON,
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 18,
    "layer_types": [*MIXERS.values()],
    "tie_word_embeddings": True,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "attention_bias": False,
    "position_embedding_type": "nope",
    "hidden_act": "silu",
    "intermediate_size": 6912,
    "shared_intermediate_size": 6912,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "mamba_d_state": 128,
    "mamba_n_heads": 80,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 128**-0.5,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "rms_norm_eps": 1e-05,
    "time_step_limit": [0.0, 1000000.0],
}
NEMOTRON_H = {
    **COMMON,
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "".join("*-" if n in PLACES else "M-" for n in range(18)),
    "num_hidden_layers": 36,
    "tie_word_embeddings": False,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "attention_bias": False,
    "intermediate_size": 10240,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_num_heads": 80,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "conv_kernel": 4,
    "chunk_size": 128,
    "expand": 2,
    "use_conv_bias": True,
    "use_bias": False,
    "mamba_proj_bias": False,
    "mamba_hidden_act": "silu",
    "layer_norm_epsilon": 1e-05,
}
QWEN3_5 = {
    **COMMON,
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "full_attention_interval": 4,
    "tie_word_embeddings": True,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "attention_bias": False,
    "attn_output_gate": True,
    "hidden_act": "silu",
    "intermediate_size": 6912,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000.0,
        "partial_rotary_factor": 0.25,
    },
    "rms_norm_eps": 1e-06,
    "mamba_ssm_dtype": "float32",
}


def qwen3_5(places, layers):
    kinds = ["full_attention" if n in places else "linear_attention" for n in range(layers)]
    return {**QWEN3_5, "layer_types": kinds, "num_hidden_layers": layers}


@every(
    case=[
        ("granite", GRANITE, 1_934_340_880),
        ("nemotron_h", NEMOTRON_H, 2_319_826_960),
        ("qwen3_5", qwen3_5((3, 7, 11, 15, 19), 20), 2_205_724_480),
        ("qwen3_5", qwen3_5(PLACES, 18), 2_026_144_576),
    ]
)
def test_files_that_were_checked_by_hand_are_read_and_written_alike(tmp_path, case):
    name, config, params = case
    (tmp_path / "config.json").write_text(json.dumps(config))
    architecture = load_architecture(tmp_path)
    assert architecture.params == params
    family = family_of(architecture)
    assert family is families()[name]
    written = family.configuration(architecture)
    # in free order the interval is not read
    free = {"torch_dtype", "full_attention_interval"}
    assert {key: written[key] for key in config.keys() - free} == {
        key: value for key, value in config.items() if key not in free
    }
    assert architecture_of_config({**written}, "written").hash == architecture.hash
    assert writer_of(written, architecture) is family
    assert writer_of({**written, "max_position_embeddings": 8192}, architecture) is None


@every(name=[*NETWORKS])
def test_transformers_builds_the_network_of_the_configuration(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch
    from safetensors.torch import load_file

    from flashnas.network.weights import tensor_shapes

    architecture, family = Architecture.parse(NETWORKS[name]), families()[name]
    assert family_of(architecture) is family
    config = family.configuration(architecture)
    fla = sys.modules.get("fla")
    sys.modules["fla"] = None  # which takes seconds to load
    try:
        with torch.device("cpu" if "moe" in name else "meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(**config)
            )
    finally:
        sys.modules.pop("fla")
        if fla is not None:
            sys.modules["fla"] = fla
    assert type(model).__name__ in config["architectures"]
    if "moe" in name:  # whose tensors have other names in a file
        model.save_pretrained(tmp_path)
        written = load_file(tmp_path / "model.safetensors")
        shapes = {key: list(tensor.shape) for key, tensor in written.items()}
        shapes |= {"lm_head.weight": []} if architecture.tied else {}
    else:
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    if architecture.tied:
        del shapes["lm_head.weight"]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in tensor_shapes(architecture)}
    assert shapes == {
        piece.name.replace("backbone.", "model."): list(piece.of(tensors).shape)  # as released
        for piece in family.pieces(architecture)
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == architecture.params
    types = getattr(model.config, "layer_types", None) or ["full_attention"] * len(
        model.model.layers
    )
    recurrent = {"m2": "linear_attention", "gd": "linear_attention", "conv": "conv", "f": "mlp"}
    recurrent["swa"] = "sliding_attention"
    specs = [spec for spec in architecture.operators if spec.mixes_tokens or not family.pairs]
    assert types == [recurrent.get(spec.kind, "full_attention") for spec in specs]


def test_what_config_json_states_once_is_one_value_of_all_layers():
    network = "64(vocab=300,tied=false): m2 f(relu2=true) m2{} a(head_dim=16,rope_share=0)"
    one, two = (
        Architecture.parse(network.format(option).replace(" m2 ", f" m2{first} "))
        for first, option in (("(dt_min=0.001)", "(dt_min=0.001)"), ("", "(dt_min=0.001)"))
    )
    family = families()["nemotron_h"]
    assert family.holds(one)
    assert family.format.problems(two) == [
        "operator 2, 'm2', has dt_min=0.001 and an earlier one 0.0; one value holds for all 'm2'"
    ]


@every(name=[*NETWORKS])
def test_names_that_some_program_refuses_are_not_written(name):
    """transformers' own of today stop SGLang and MLX, and keys of experts make a mixture of it."""
    config = families()[name].configuration(Architecture.parse(NETWORKS[name]))
    assert "layers_block_type" not in config
    if name == "nemotron_h":
        assert "layer_types" not in config
        assert not [key for key in config if "expert" in key]
    if name == "granite":
        assert set(config["layer_types"]) == {"mamba", "attention"}
        assert "head_dim" not in config
        assert config["num_local_experts"] == 0


def test_intervals_of_attention():
    def interval(text):
        return interval_of(Architecture.parse(f"128: {text}").operators)

    assert interval("3x(m2 f) a f") == (4, True)
    assert interval("2x(3x(m2 f) a f)") == (4, True)
    assert interval("2x(3x(m2 f) a f) m2 f") == (4, True)
    assert interval("m2 f a f m2 f m2 f a f m2 f") == (3, False)
    assert interval("a f m2 f a f a f") == (0, False)
    assert interval("2x(m2 f)") == (0, False)
    assert interval("3x(a f)") == (1, True)


def test_programs_that_load_a_network():
    even, free = (
        Architecture.parse(f"64(vocab=300): {text}")
        for text in (
            f"gd(head_dim=16) f {GATED} f",
            f"{GATED} f gd(head_dim=16) f gd(head_dim=16) f",
        )
    )
    family = families()["qwen3_5"]
    assert set(family.programs) - set(family.loading(free)) == {"sglang", "mlx"}
    assert family.loading(even) == {name: family.programs[name] for name in family.loading(even)}
    assert "sglang" not in loading(free)
    assert loading(even)["llama.cpp"] == "gguf"
    assert loading(even)["vllm"] == "hf"
    assert loading(load_architecture("Nemotron-Flash-1B")) == {}


def test_llama_cpp_loads_what_no_family_holds():
    free = "m2(head_dim=16,state=16) f(relu2=true) f(relu2=true,intermediate=80) a(head_dim=16,rope_share=0)"
    assert loading(Architecture.parse(f"64: {free}")) == {"llama.cpp": "gguf"}
    assert loading(Architecture.parse(f"64: {A} f 3x({ROTARY} f)")) == {}


@every(
    case=[
        ("m2(head_dim=16) f(relu2=true)", "NemotronH", "no operator 'a'; it needs at least one"),
        (f"m2(head_dim=16) f {NORMED} f", "Granite hybrid", "'a', has qk_norm=true; it has false"),
        (
            "m2(head_dim=16) f a(head_dim=16,rope_share=0.5) f",
            "Granite hybrid",
            "'a', has rope_share=0.5; it has 0.0 or 1.0",
        ),
        (
            "m2(head_dim=16,dt_min=0.01) f(relu2=true) a(head_dim=16,rope_share=0)",
            "NemotronH",
            "'m2', has dt_min=0.01; it has 0.0 or 0.001",
        ),
        (
            f"{WINDOWED} f {ROTARY.replace('500', '900')} f",
            "transformer with windows (Ministral)",
            "'a', has rope_theta=900.0 and an earlier one 500.0; one value holds for all 'a'",
        ),
        (
            f"{ROTARY} f {WINDOWED} f {WINDOWED.replace('24', '32')} f",
            "transformer with windows (Ministral)",
            "'swa', has window=32 and an earlier one 24; one value holds for all 'swa'",
        ),
        (
            f"{ROTARY} f {WINDOWED.replace('kv_heads=2', 'kv_heads=4')} f",
            "transformer with windows (Ministral)",
            "'swa', has kv_heads=4 and an earlier one 2; one value holds for all 'a' and 'swa'",
        ),
        (
            f"conv f {NORMED.replace('heads=4', 'heads=6')} f",
            "LFM2",
            "'a', has heads x head_dim = 6 x 16; it needs the width, 64",
        ),
        (
            f"conv(conv_size=3) f conv(conv_size=4) f {NORMED} f",
            "LFM2",
            "'conv', has conv_size=4 and an earlier one 3; one value holds for all 'conv'",
        ),
    ]
)
def test_what_no_family_holds_is_named(case):
    notation, title, rule = case
    line = (
        rf"a plain checkpoint cannot hold this network as {re.escape(title)}: .*{re.escape(rule)}"
    )
    with pytest.raises(ExportError, match=line):
        needed_family(Architecture.parse(f"64: {notation}"), "a plain checkpoint")


def test_the_page_on_deployment_has_the_programs_of_each_family():
    def cell(program):
        if program is None:
            return "\u2013"
        words = f"{'run' if program.run else 'read'} {program.version}"
        words += ", every k-th" if program.interval else ""
        return words + (f", {program.beta}" if program.beta else "")

    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    for family in families().values():
        cells = [family.title, *(cell(family.programs.get(name)) for name in PROGRAMS)]
        assert f"| {' | '.join(cells)} |" in page
