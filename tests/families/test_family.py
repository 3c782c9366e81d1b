"""What the files of families say: the networks that they hold, config.json, and who loads it."""

import json
import re
from pathlib import Path

import pytest
from cases import cases
from offenders import every
from searched import searched

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

A, ROTARY = "a(head_dim=16,kv_heads=2,rope_share=0)", "a(head_dim=16,kv_heads=2,rope_theta=500)"
GATED = "a(heads=2,head_dim=32,kv_heads=1,qk_norm=true,out_gate=true,rope_share=0.25)"


@every(case=cases("families", "checked"))
def test_files_that_were_checked_by_hand_are_read_and_written_alike(tmp_path, case):
    config = case["config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    architecture = load_architecture(tmp_path)
    assert architecture.params == case["params"]
    family = family_of(architecture)
    assert family is families()[case["family"]]
    written = family.configuration(architecture)
    # in free order the interval is not read
    free = {"torch_dtype", "full_attention_interval"}
    assert {key: written[key] for key in config.keys() - free} == {
        key: value for key, value in config.items() if key not in free
    }
    assert architecture_of_config({**written}, "written").hash == architecture.hash
    assert writer_of(written, architecture) is family
    assert writer_of({**written, "max_position_embeddings": 8192}, architecture) is None


def test_what_config_json_states_once_is_one_value_of_all_layers():
    network = "64(vocab=300,tied=false): m2 f(relu2=true) m2{} a(head_dim=16,rope_share=0)"
    one, two = (
        Architecture.parse(network.format(option).replace(" m2 ", f" m2{first} "))
        for first, option in (("(conv_bias=false)", "(conv_bias=false)"), ("", "(conv_bias=false)"))
    )
    family = families()["nemotron_h"]
    assert family.holds(one)
    assert family.format.problems(two) == [
        "operator 2, 'm2', has conv_bias=false and an earlier one true; one value holds for all 'm2'"
    ]


@every(name=families())
def test_names_that_some_program_refuses_are_not_written(name):
    """transformers' own of today stop SGLang and MLX, and keys of experts make a mixture of it."""
    family = families()[name]
    size = family.search.sizes[0]
    config = family.configuration(searched(family, size, size.widths[0]))
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


@every(case=cases("families", "held_by_none"))
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
