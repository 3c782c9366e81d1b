"""What a user can get wrong, one case each: the words, the files that they meet, and what the one line must name.

Files are made by hand or by editing what commands wrote; nothing of flashnas is imported. In words, contents and
expected fragments these names in braces stand for paths:

    {tmp}       the case's own folder, which is also the working directory
    {corpus}    40 short texts        {quick}     a recipe that trains in a blink
    {space}     two small widths      {table}     that space measured on this CPU for {chat}
    {run}       a finished search of them, with baselines      {training}  a finished `flashnas train`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

RECIPE = {"width_factor": 1, "vocab": 300, "sequence_tokens": 32, "batch_sequences": 4, "tokens": 256,
          "validation_tokens": 64, "curve_points": 2, "curve_tokens": 64, "muon_lr": 0.01, "adamw_lr": 0.003,
          "dtype": "float32"}
SPACE: dict[str, Any] = {
    "template": "three_stage", "model": {"vocab": 512, "tied": True, "meta_tokens": 2}, "widths": [32, 64],
    "blocks": {"mixers": ["d(head_dim=16)", "a(head_dim=16)"], "ratios": ["0:1"], "ffns_per_mixer": [0, 1]},
    "repeats": [1, 1], "max_operators": 5}
LAYERWISE: dict[str, Any] = {"template": "layerwise", "widths": [1024],
                             "layers": {"depth": 3, "choices": ["a f", "m2"]}}
ARCH = "32(vocab=512,meta=2): a(head_dim=16)"   # that {table} covers
DELTA = "32(vocab=512,meta=2): d(head_dim=16)"  # which needs no cache, so that no memory bounds the context
CHAT = "batch=1,prompt=4,generated=4"
LONG = "12345678901234567890123"                # 23 digits
HUGE = "100000000000000000000"                  # 10^20
GARBAGE = bytes(range(128, 256)) * 8            # not UTF-8, no line end
PRECIOUS = "precious.txt"                       # must outlive every case
LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 16,
                         "num_key_value_heads": 4, "intermediate_size": 4096, "vocab_size": 32000}

Paths = dict[str, Path]                         # name in braces -> path
Builder = Callable[[Paths], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """expect: fragments of the line; `a|b`: either will do. absent: fragments that mislead. apart: in a process of its
    own, for what may abort, eat memory or hang where no signal is heard. file_limit: largest file in bytes there."""

    id: str
    words: tuple[str, ...]
    expect: tuple[str, ...]
    files: tuple[Builder, ...] = ()
    absent: tuple[str, ...] = ()
    apart: bool = False
    file_limit: int | None = None


CASES: list[Case] = []


def case(name: str, words: Sequence[str], *expect: str, files: Sequence[Builder] = (), **more: Any) -> None:
    CASES.append(Case(id=name, words=tuple(words), expect=expect, files=tuple(files), **more))


def filled(text: str, paths: Paths) -> str:
    """The text with the names in braces replaced."""
    for name, path in paths.items():
        text = text.replace(f"{{{name}}}", str(path))
    return text


# -- builders of files -------------------------------------------------------------------------------------------


def write(name: str, content: str | bytes | dict[str, Any] | list[Any]) -> Builder:
    """A file below {tmp}; mappings and lists become YAML, or JSON where the name says so."""
    def build(paths: Paths) -> None:
        path = paths["tmp"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(filled(content, paths))
        else:
            path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False))
    return build


def folder(name: str, *files: str) -> Builder:
    """A folder that holds these files, each with the text `mine`."""
    def build(paths: Paths) -> None:
        (paths["tmp"] / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (paths["tmp"] / name / file).write_text("mine")
    return build


def copied(name: str) -> Builder:
    """{run}, {training} or {table} as {tmp}/name, to be damaged."""
    return lambda paths: shutil.copytree(paths[name], paths["tmp"] / name)


def twin(name: str) -> Builder:
    """A second copy of {tmp}/table, as {tmp}/name/table."""
    return lambda paths: shutil.copytree(paths["tmp"] / "table", paths["tmp"] / name / "table")


def edited(file: str, keys: Sequence[str], value: Any) -> Builder:
    """One entry of a YAML or JSON file replaced."""
    def build(paths: Paths) -> None:
        path = paths["tmp"] / file
        data = yaml.safe_load(path.read_text())
        entry = data
        for key in keys[:-1]:
            entry = entry.setdefault(key, {})
        entry[keys[-1]] = value
        write(file, data)(paths)
    return build


def without(file: str, key: str) -> Builder:
    """One entry of a YAML or JSON file left out."""
    def build(paths: Paths) -> None:
        data = yaml.safe_load((paths["tmp"] / file).read_text())
        del data[key]
        write(file, data)(paths)
    return build


def replaced(file: str, old: str, new: str) -> Builder:
    def build(paths: Paths) -> None:
        path = paths["tmp"] / file
        text = path.read_text()
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new))
    return build


def removed(file: str) -> Builder:
    def build(paths: Paths) -> None:
        path = paths["tmp"] / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return build


def as_folder(file: str) -> Builder:
    """A folder where a file was."""
    def build(paths: Paths) -> None:
        removed(file)(paths)
        (paths["tmp"] / file).mkdir()
    return build


def as_file(file: str) -> Builder:
    """A file where a folder was."""
    def build(paths: Paths) -> None:
        removed(file)(paths)
        (paths["tmp"] / file).write_text("mine")
    return build


def cut_middle_line(file: str) -> Builder:
    """Half of the line in the middle is lost, with its end."""
    def build(paths: Paths) -> None:
        lines = (paths["tmp"] / file).read_text().splitlines(keepends=True)
        middle = len(lines) // 2
        lines[middle] = lines[middle][:len(lines[middle]) // 2]
        (paths["tmp"] / file).write_text("".join(lines))
    return build


def cut_half(file: str) -> Builder:
    """The first half of a file is left."""
    def build(paths: Paths) -> None:
        path = paths["tmp"] / file
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    return build


def column(file: str, name: str, value: Any) -> Builder:
    """The same value in all rows of a parquet file; `...` drops the column."""
    def build(paths: Paths) -> None:
        frame = pd.read_parquet(paths["tmp"] / file)
        (frame.drop(columns=name) if value is ... else frame.assign(**{name: value})).to_parquet(paths["tmp"] / file)
    return build


def newest(file: str, *damage: Callable[[str], Builder]) -> Builder:
    """Damage a file of all checkpoints of {tmp}/training."""
    def build(paths: Paths) -> None:
        found = sorted((paths["tmp"] / "training" / "checkpoints").glob("step-*"))
        assert found
        for checkpoint in found:
            for hurt in damage:
                hurt(f"training/checkpoints/{checkpoint.name}/{file}")(paths)
    return build


def garbage(file: str) -> Builder:
    return write(file, GARBAGE)


# -- the words of each command, right so far ---------------------------------------------------------------------

ASKED = ("--space", "{space}", "--table", "{table}", "--workload", CHAT, "--budget-ms", "1e6", "--recipe", "{quick}",
         "--data", "{corpus}", "--workers", "1", "--no-measure", "--trials", "2")


def search(*words: str, out: str = "{tmp}/out") -> list[str]:
    """Trains in seconds if it is not refused. A later word counts over an earlier one."""
    return ["search", *ASKED, "--out", out, *words]


def again(*words: str) -> list[str]:
    """Continue a copy of {run}."""
    return search("--resume", *words, out="{tmp}/run")


def wide(*words: str) -> list[str]:
    """A search by a shipped table, for spaces of other widths."""
    return ["search", "--table", "h100_sxm", "--workload", "decode-1k", "--data", "{corpus}", "--trials", "1",
            "--workers", "1", "--no-baselines", "--out", "{tmp}/out", *words]


def train(*words: str, arch: str = "32(vocab=300): a(head_dim=16) f", out: str = "{tmp}/out") -> list[str]:
    return ["train", arch, "--recipe", "{quick}", "--data", "{corpus}", "--threads", "1", "--out", out, *words]


def train_on(*words: str) -> list[str]:
    """Continue a copy of {training}."""
    return train("--resume", *words, out="{tmp}/training")


def profile(*words: str) -> list[str]:
    return ["profile", "--space", "{space}", "--workload", CHAT, "--seconds", "0.01", "--out", "{tmp}/out", *words]


def validate(*words: str, table: str = "{table}") -> list[str]:
    return ["validate", "--table", table, "--space", "{space}", "--workload", CHAT, "-n", "1", *words]


def export(*words: str, source: str = "{training}/final") -> list[str]:
    return ["export", source, "--to", "hf", "--out", "{tmp}/out", *words]


def trust(*words: str) -> list[str]:
    """Study a copy of {run}."""
    return ["proxy-trust", "{tmp}/run", "--architectures", "3", "--seeds", "1", "--longer", "2", "--workers", "1",
            *words]


def law(*words: str, pattern: str = "d(head_dim=16) f") -> list[str]:
    return ["scaling-law", pattern, "--depths", "1,2,3", "--widths", "16,32", "--tokens", "128,256", "--recipe",
            "{quick}", "--data", "{corpus}", "--workload", "chat", "--workers", "1", "--out", "{tmp}/out", *words]


def estimate(arch: str, *words: str) -> list[str]:
    return ["estimate", arch, *words]


def recipe(**changes: Any) -> Builder:
    return write("recipe.yaml", {**RECIPE, **changes})


def space(**changes: Any) -> Builder:
    return write("space.yaml", {**SPACE, **changes})


def blocks(**changes: Any) -> Builder:
    return space(blocks={**SPACE["blocks"], **changes})


def layers(**changes: Any) -> Builder:
    return write("space.yaml", {**LAYERWISE, "layers": {**LAYERWISE["layers"], **changes}})


def bomb(end: str) -> str:
    """YAML of a few lines whose aliases stand for 10^9 entries."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join([*lines, end, ""])


# -- the command line itself -------------------------------------------------------------------------------------

case("main-nothing", [], "COMMAND")
case("main-empty-word", [""], "flashnas")
case("main-unknown-command", ["serach"], "serach", "search")
case("main-capital-command", ["Search"], "Search", "search")
case("main-unknown-flag", ["--verison"], "COMMAND|--verison")
case("main-command-with-line-end", ["search\nestimate"], "search\\nestimate")
for command, right in (("search", search()), ("estimate", estimate("1024: d")), ("profile", profile()),
                       ("validate", validate()), ("proxy-trust", trust()), ("scaling-law", law()),
                       ("train", train()), ("export", export()),
                       ("report", ["report", "{run}"]), ("table", ["table", "info", "h100_sxm"]),
                       ("bench", ["bench", "info"])):
    case(f"{command}-unknown-flag", [*right, "--colour"], "--colour")
    case(f"{command}-surplus-word", [*right, "surplus"], "surplus")
for command in ("estimate", "train", "export", "report", "table", "bench"):
    case(f"{command}-without-words", [command], "required", command)
case("validate-without-words", ["validate"], "--table", "--space")
case("proxy-trust-without-words", ["proxy-trust"], "--results")
case("scaling-law-without-words", ["scaling-law"], "PATTERN", "--results")

# -- architectures: notation -------------------------------------------------------------------------------------

for name, text, *expect in (
        ("unknown-operator", "2048: d q f", "'q'"), ("no-operators", "2048:", "operators"),
        ("no-width", ": d f", "': d f'"), ("width-zero", "0: d", "hidden", "0"),
        ("width-negative", "-5: d", "-5: d"), ("width-fraction", "2048.5: d", "2048.5"),
        ("width-nan", "nan: d", "nan: d"), ("width-exponent", "1e3: d", "1e3"),
        ("width-22-digits", "9" * 22 + ": d", "9" * 22), ("width-1.6e15", "1600000000000000: a", "1600000000000000"),
        ("open-repeat", "2048: 3x(d f", "("), ("closed-twice", "2048: d) f", ")"),
        ("repeat-zero", "2048: 0x(d)", "0"), ("repeat-huge", "2048: 99999999999x(d)", "99999999999"),
        ("repeat-nested", "2048: 64x(64x(64x(d)))", "64"), ("comma-between", "2048: d, f", ","),
        ("option-unknown", "2048: a(headz=3)", "headz", "heads"), ("option-twice", "2048: a(heads=8,heads=8)", "heads"),
        ("option-without-value", "2048: a(heads=)", "heads"), ("option-fraction", "2048: a(heads=0.5)", "heads", "0.5"),
        ("option-negative", "2048: a(heads=-1)", "heads", "-1"),
        ("option-nan", "2048: a(rope_theta=nan)", "rope_theta"),
        ("option-inf", "2048: a(rope_theta=inf)", "rope_theta"),
        ("option-text", "2048: a(heads=many)", "heads", "many"),
        ("option-23-digits", f"2048: a(heads={LONG})", "heads", LONG),
        ("option-bool", "2048: a(heads=true)", "heads", "True|true"),
        ("kv-heads", "2048: a(heads=16,kv_heads=3)", "kv_heads", "3"),
        ("head-dim", "100: a(head_dim=16)", "head_dim", "100"), ("odd-head", "70: a(head_dim=7)", "head_dim", "7"),
        ("vocab-one", "2048(vocab=1): d", "vocab", "1"), ("vocab-nan", "2048(vocab=nan): d", "vocab", "nan"),
        ("vocab-huge", f"2048(vocab={HUGE}): d", "vocab|n=", HUGE), ("vocab-23-digits", f"2048(vocab={LONG}): d", LONG),
        ("meta-negative", "2048(meta=-1): d", "meta", "-1"), ("meta-huge", f"2048(meta={HUGE}): d", "meta", HUGE),
        ("tied-number", "2048(tied=1): d", "tied", "1"), ("header-unknown", "2048(heads=3): d", "heads"),
        ("experts-top", "1024: moe(experts=4,active=9)", "active|top"),
        ("not-a-preset", "Nemotron-Flash-1", "Nemotron-Flash-1B"), ("empty", "", "''"),
        ("line-end", "Nemotron\nFlash", "Nemotron\\nFlash"),
        ("missing-file-with-line-end", "no\nfile.yaml", "file.yaml"),
        ("zero-byte", "no\0file.yaml", "file.yaml"), ("very-long", "x" * 100_000, "xxxx"),
        ("long-file-name", "x" * 300 + ".yaml", "xxxx"), ("not-utf8-name", "a\udcff.yaml", "udcff")):
    case(f"arch-{name}", estimate(text), *expect, apart=name in ("not-utf8-name", "width-1.6e15", "meta-huge"))
case("train-arch-unknown-operator", train(arch="32: d q f"), "'q'")
case("train-arch-width-1.6e15", train(arch="1600000000000000: a"), "1600000000000000", apart=True)
case("export-arch-vocab-1e12", export("--init-seed", "0", source="32(vocab=1000000000000): a(head_dim=16)"),
     "1000000000000|1,000,000,000,000|memory", apart=True)

# -- architectures: files ----------------------------------------------------------------------------------------

for name, content, *expect in (
        ("empty", "", "arch.yaml"), ("list", "- 1024", "arch.yaml", "list"), ("garbage", GARBAGE, "arch.yaml", "UTF-8"),
        ("without-key", "archtecture: x", "arch.yaml", "architecture"), ("number", "architecture: 5", "arch.yaml"),
        ("unknown-key", "architecture: {hidden: 64, widht: 3, operators: [f]}", "arch.yaml:1", "widht"),
        ("operators-number", "architecture: {hidden: 64, operators: 3}", "arch.yaml", "operators", "3"),
        ("hidden-text", "architecture: {hidden: wide, operators: [f]}", "arch.yaml", "hidden", "wide"),
        ("hidden-fraction", "architecture: {hidden: 64.5, operators: [f]}", "hidden", "64.5"),
        ("tied-number", "architecture: {hidden: 64, tied: 3, operators: [f]}", "tied", "3"),
        ("tag", "architecture: !!python/object/apply:os.system ['true']", "arch.yaml:1", "python/object"),
        ("bomb", bomb("architecture: *a8"), "arch.yaml", "aliases"),
        ("tab", "architecture:\t{", "arch.yaml:1|arch.yaml:2"),
        ("itself", "architecture: &a [*a]", "arch.yaml"), ("nested", "architecture: " + "[" * 5000, "arch.yaml"),
        ("date", "architecture: 2026-13-45", "arch.yaml"), ("merge", "<<: 5\narchitecture: x", "arch.yaml:1")):
    case(f"arch-file-{name}", estimate("arch.yaml"), *expect, files=[write("arch.yaml", content)])
case("arch-folder-without-config", estimate("{tmp}/full"), "config.json", files=[folder("full", PRECIOUS)])
case("arch-folder-of-a-search", estimate("{run}"), "{run}|config.json")

for name, change, *expect in (
        ("type-unknown", {"model_type": "gpt5"}, "model_type", "gpt5"),
        ("type-list", {"model_type": ["llama"]}, "model_type"),
        ("hidden-text", {"hidden_size": "2048"}, "hidden_size", "'2048'"),
        ("hidden-null", {"hidden_size": None}, "hidden_size"),
        ("hidden-zero", {"hidden_size": 0}, "hidden_size", "0"),
        ("hidden-fraction", {"hidden_size": 2048.0}, "hidden_size"),
        ("hidden-list", {"hidden_size": [2048]}, "hidden_size"), ("hidden-bool", {"hidden_size": True}, "hidden_size"),
        ("hidden-23-digits", {"hidden_size": int(LONG)}, "hidden_size", LONG),
        ("hidden-inf", {"hidden_size": float("inf")}, "hidden_size", "inf"),
        ("layers-negative", {"num_hidden_layers": -1}, "num_hidden_layers", "-1"),
        ("layers-huge", {"num_hidden_layers": 10**9}, "num_hidden_layers", "1000000000"),
        ("kv-heads", {"num_key_value_heads": 5}, "config.json", "5"),
        ("vocab-zero", {"vocab_size": 0}, "vocab_size", "0"),
        ("rope-nan", {"rope_theta": float("nan")}, "rope_theta", "nan"),
        ("rope-list", {"rope_scaling": [1]}, "rope_scaling"),
        ("rope-type", {"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling", "spiral"),
        ("tied-text", {"tie_word_embeddings": "no"}, "tie_word_embeddings", "'no'"),
        ("activation", {"hidden_act": "step"}, "hidden_act", "step")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", {**LLAMA, **change})])
for name, content, *expect in (
        ("truncated", json.dumps(LLAMA)[:60], "config.json:1"), ("empty", "", "config.json"),
        ("list", "[1]", "config.json", "list"),
        ("garbage", GARBAGE, "config.json", "UTF-8"), ("no-type", "{}", "model_type"),
        ("twice", '{"model_type": "llama", "model_type": "llama"}', "model_type", "duplicate key"),
        ("nested", '{"a":' * 50_000, "config.json"), ("digits", '{"hidden_size": ' + "9" * 5000 + "}", "config.json")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", content)])
for name, config, *expect in (
        ("pattern-3-of-52", {"model_type": "nemotron_h", "hybrid_override_pattern": "M*-", "num_hidden_layers": 52},
         "52", "3"),
        ("pattern-letters", {"model_type": "nemotron_h", "hybrid_override_pattern": "MXM"}, "hybrid_override_pattern",
         "MXM"),
        ("pattern-number", {"model_type": "nemotron_h", "hybrid_override_pattern": 7}, "hybrid_override_pattern", "7"),
        ("blocks-of-52", {"model_type": "nemotron_h", "layers_block_type": ["mamba", "attention"],
                          "num_hidden_layers": 52},
         "52", "2"),
        ("mamba-heads", {"model_type": "mamba2", "num_heads": 7, "head_dim": 64, "hidden_size": 2048}, "num_heads",
         "7"),
        ("mamba-step", {"model_type": "mamba2", "time_step_limit": [0]}, "time_step_limit"),
        ("layer-types-length", {"model_type": "qwen3_5_text", "num_hidden_layers": 4,
                                "layer_types": ["full_attention"]},
         "layer_types", "4", "1"),
        ("layer-types-name", {"model_type": "qwen3_5_text", "num_hidden_layers": 1, "layer_types": ["magic"]}, "magic"),
        ("text-config", {"model_type": "qwen3_5", "text_config": 5}, "text_config", "5")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", config)])
case("train-hf-truncated", train(arch="{tmp}/config.json"), "config.json:1", files=[write("config.json", "{")])
case("train-hf-positions", train(arch="{tmp}/config.json"), "max_position_embeddings", "16",
     files=[write("config.json", {**LLAMA, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
                                  "max_position_embeddings": 16})])

# -- estimate: table, workload, stack ----------------------------------------------------------------------------

case("estimate-table-missing", estimate("1024: d", "--table", "h100_sx"), "h100_sx", "h100_sxm")
case("estimate-table-file", estimate("1024: d", "--table", "{quick}"), "{quick}")
case("estimate-table-empty-folder", estimate("1024: d", "--table", "{tmp}/full"), "full",
     files=[folder("full", PRECIOUS)])
case("estimate-stack", estimate("1024: d", "--stack", "both"), "stack", "both", "fused")
case("estimate-weights-nobody-measured", estimate("1024: d", "--table", "a100_sxm", "--weights", "fp8"),
     "no matrix products with weights in fp8", "h100_sxm")
case("estimate-weights-type", estimate("1024: d", "--weights", "fp4"), "weights", "fp4", "fp8")
case("estimate-weights-and-workload", estimate("1024: d", "--weights", "fp8", "--workload",
                                               "batch=1,generated=8,dtype=float32"), "--weights fp8", "float32")
case("estimate-weights-of-operators", estimate(DELTA, "--table", "{table}", "--workload", CHAT, "--weights", "fp8"),
     "no matrix products with weights in fp8")
case("search-weights-nobody-measured", search("--table", "a100_sxm", "--weights", "fp8"),
     "no matrix products with weights in fp8", "l40s")
case("estimate-mode", estimate("1024: d", "--mode", "eager"), "mode", "eager", "cuda_graph")
case("estimate-not-covered", estimate("48: d(head_dim=16)", "--table", "{table}", "--workload", CHAT), "48", "profile")
for name, text, *expect in (
        ("name", "decode-9k", "decode-9k", "decode-8k"), ("empty", "", "''"),
        ("batch-zero", "batch=0,prompt=3", "batch", "0"),
        ("batch-negative", "batch=-1,prompt=3", "batch", "-1"), ("batch-nan", "batch=nan,prompt=3", "batch", "nan"),
        ("batch-fraction", "batch=1.5,prompt=3", "batch", "1.5"), ("batch-huge", f"batch={HUGE},generated=4", HUGE),
        ("nothing", "prompt=0,generated=0", "prompt_tokens|generated"), ("key", "promt=5", "promt", "prompt"),
        ("twice", "prompt=1,prompt=2", "prompt"), ("no-value", "batch,prompt=3", "batch"),
        ("no-number", "prompt=", "prompt"), ("negative", "prompt=-3", "prompt", "-3"),
        ("prompt-huge", f"prompt={HUGE}", "prompt", HUGE), ("generated-huge", f"generated={HUGE}", "generated", HUGE),
        ("generated-23-digits", f"generated={LONG}", "generated", LONG),
        ("dtype", "generated=5,dtype=int8", "dtype", "int8"),
        ("dtype-not-there", "generated=5,dtype=float16", "float16"), ("line-end", "decode\n8k", "decode\\n8k"),
        ("yaml-missing", "nowhere.yaml", "nowhere.yaml")):
    case(f"workload-{name}", estimate(DELTA, "--table", "{table}", "--workload", text), *expect)
for name, content, *expect in (
        ("wrong-key", "promt_tokens: 5", "w.yaml:1", "promt_tokens"),
        ("wrong-type", "prompt_tokens: many", "w.yaml:1", "many"),
        ("nan", "generated_tokens: .nan", "w.yaml:1", "generated_tokens"), ("list", "[5]", "w.yaml:1", "list"),
        ("negative", "generated_tokens: -5", "w.yaml", "-5"), ("garbage", GARBAGE, "w.yaml", "UTF-8")):
    case(f"workload-file-{name}", estimate(ARCH, "--table", "{table}", "--workload", "w.yaml"), *expect,
         files=[write("w.yaml", content)])
case("search-workload", search("--workload", "promt=4"), "promt", "prompt")
case("profile-workload", profile("--workload", "batch=0,prompt=3"), "batch", "0")
case("profile-workload-huge", profile("--workload", f"prompt={HUGE}"), HUGE, apart=True)
case("validate-workload", validate("--workload", "decode-9k"), "decode-9k")
case("validate-workload-not-covered", validate("--workload", "batch=1,prompt=9,generated=9"),
     "profile|batch=1,prompt=9")

# -- search: numbers and words -----------------------------------------------------------------------------------

for flag, value, *more in (
        ("--trials", "0"), ("--trials", "-1"), ("--trials", "1.5"), ("--trials", "many"), ("--trials", HUGE, "apart"),
        ("--tokens", "0"), ("--tokens", "-1"), ("--tokens", HUGE, "apart"), ("--tokens", LONG, "apart"),
        ("--cycle-size", "0"), ("--cycle-size", HUGE, "apart"), ("--seed", "-1"), ("--seed", LONG), ("--seed", "1.5"),
        ("--workers", "0"), ("--workers", "-3"), ("--workers", "1000000", "apart"),
        ("--candidate-timeout-s", "0"), ("--candidate-timeout-s", "-1"), ("--candidate-timeout-s", "nan"),
        ("--candidate-timeout-s", "inf"), ("--candidate-timeout-s", "soon"),
        ("--confidence", "0"), ("--confidence", "1"), ("--confidence", "-2"), ("--confidence", "nan"),
        ("--confidence", "sure"), ("--sampler", "nsga3"), ("--mode", "compiled"), ("--mode", "fast"),
        ("--budget-ms", "-3"), ("--budget-ms", "0"), ("--budget-ms", "nan"), ("--budget-ms", "inf"),
        ("--budget-ms", "1e400"),
        ("--budget-ms", "slow"), ("--budget", "memory_gb"), ("--budget", "memory_gb=much"),
        ("--budget", "memory_gb=nan"),
        ("--budget", "memory_gb=-inf"), ("--budget", "memory_gb=0"), ("--budget", "latency=3"), ("--budget", "=3"),
        ("--budget", "latency_ms=3"), ("--sampler-option", "population"), ("--sampler-option", "popluation=3"),
        ("--sampler-option", "population=0"), ("--sampler-option", "population=nan"),
        ("--sampler-option", "population=many"), ("--sampler-option", f"population={HUGE}"),
        ("--sampler-option", "tournament=1.5"), ("--sampler-option", "seed=3"), ("--sampler-option", "space=3"),
        ("--objectives", ""), ("--objectives", "loss"), ("--objectives", "loss,loss"), ("--objectives", "loss,speed"),
        ("--objectives", "latency_ms,params"), ("--objectives", "loss,latency_ms,recall,mad,params"),
        ("--rungs", "0"), ("--rungs", "-1"), ("--rungs", "1.5"), ("--rungs", "many"), ("--rungs", HUGE),
        ("--rungs", "100"), ("--rungs", "256"), ("--rungs", ""), ("--rungs", "auto,128"), ("--rungs", "128,64"),
        ("--rungs", "128,128"), ("--rungs", "auto"), ("--rungs", "none,128"), ("--rungs", "0%"), ("--rungs", "100%"),
        ("--rungs", "50%,25%"), ("--rungs", "nan%"), ("--rungs", "half%"),
        ("--seeds", "0"), ("--seeds", "1.5"), ("--seeds", HUGE),
        ("--table", "h100_sx"), ("--space", "nemotron"), ("--recipe", "cpuu"), ("--storage", "foo://bar"),
        ("--storage", "sqlite:////nowhere/study.db"), ("--storage", "")):
    place = flag.strip("-").partition("-")[0]
    said = {"1e400": "inf", "": "none|''|storage", "memory_gb=much": "much", "loss": "loss",
            "latency_ms=3": "latency_ms",
            "seed=3": "seed", "space=3": "space", "population=0": "0", "population=nan": "nan",
            "population=many": "many",
            "tournament=1.5": "1.5", "popluation=3": "popluation", "memory_gb=nan": "nan", "memory_gb=-inf": "-inf",
            "memory_gb=0": "0", "latency=3": "latency", "loss,loss": "'loss'", "loss,speed": "speed",
            f"population={HUGE}": HUGE, "auto,128": "auto", "none,128": "none",
            HUGE: f"{HUGE}|{10**20:,}"}.get(value, value)
    sampler = ("--sampler", "aging-evolution") if flag == "--sampler-option" else ()
    case(f"search{flag}={value[:40]}", search(*sampler, flag, value), said, *([] if sampler else [place]),
         apart="apart" in more)
case("search-executor", search("--executor", "storge"), "--executor", "storge", "storage")
case("search-executor-option", search("--executor-option", "worker_memory=4"), "worker_memory", "worker_memory_gb")
case("search-executor-option-no-number", search("--executor-option", "worker_memory_gb=much"), "worker_memory_gb",
     "a number", "much")
case("search-executor-option-negative", search("--executor-option", "worker_memory_gb=-1"), "--executor-option",
     "worker_memory_gb", "at least 0.5", "-1")
case("search-executor-option-too-little-memory", search("--executor-option", "worker_memory_gb=0.01"),
     "--executor-option", "worker_memory_gb", "at least 0.5", "0.01")
case("search-executor-storage-without-a-database", search("--executor", "storage"), "--executor", "--storage URL")
case("search-executor-storage-no-url", search("--executor", "storage", "--storage", "here"), "here", "postgresql://")
case("search-executor-ray-address", search("--executor", "ray", "--executor-option", "adress=here"), "adress",
     "address")
for name, address in (("port", "127.0.0.1:1"), ("host", "no.such.host.invalid:1234"), ("client", "ray://127.0.0.1:1")):
    case(f"search-executor-ray-wrong-{name}", search("--executor", "ray", "--executor-option", f"address={address}"),
         address, "does not answer")
case("search-executor-ray-no-address", search("--executor", "ray", "--executor-option", "address=here"), "'here'",
     "must be HOST:PORT")
case("search-storage-of-another-kind", search("--storage", "redis://host/0"), "redis", "postgresql://")
case("search-storage-without-a-server", search("--storage", "postgresql://me:secret@127.0.0.1:1/x"), "127.0.0.1",
     absent=("secret",))
case("search-processes-none", search("--processes-per-candidate", "0"), "--processes-per-candidate", "at least 1", "0")
case("search-processes-that-do-not-divide-the-batch", search("--processes-per-candidate", "3"), "batch_sequences",
     "multiple of the 3 processes", "got 4")
case("worker-processes", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--processes-per-candidate", "0"],
     "--processes-per-candidate", "at least 1", "0")
case("worker-without-words", ["worker"], "--storage")
case("worker-storage", ["worker", "--storage", "nowhere"], "nowhere", "postgresql://")
case("worker-storage-folder-missing", ["worker", "--storage", "sqlite:///{tmp}/no/a.db"], "{tmp}/no/a.db", "open")
case("worker-storage-is-no-database", ["worker", "--storage", "sqlite:///{quick}"], "{quick}", "not a database")
case("worker-storage-without-a-server", ["worker", "--storage", "postgresql://me:secret@127.0.0.1:1/x"], "127.0.0.1",
     absent=("secret",))
for name, said in (("justname", "module:function"), (":function", "module:function"), ("nosuch:thing", "nosuch"),
                   ("os:nothing", "nothing"), ("os:name", "a function")):
    case(f"worker-evaluator-{name}", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--evaluator", name], name, said)
case("worker-memory", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--worker-memory-gb", "0.01"],
     "--worker-memory-gb", "at least 0.5", "0.01")
case("worker-number", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--workers", "0"], "--workers", "0")
case("search-budget-twice", search("--budget", "params=1e9", "--budget", "params=2e9"), "params", "twice")
case("search-budget-out-of-reach", search("--budget-ms", "1e-9"), "budget", "1e-09")
case("search-strict-without-measuring", search("--strict"), "strict", "measure")
case("search-rungs-between-points", search("--rungs", "100"), "rungs", "points of the curve of recipe", "128", "100")
case("search-rungs-at-the-end", search("--rungs", "128,256"), "rungs", "before its end at 256 tokens", "got 256")
case("search-rungs-tokens-and-shares", search("--rungs", "64,50%"), "rungs must be all tokens or all shares",
     "64,50%")
case("search-rungs-shares-at-the-end", search("--rungs", "75%"), "rungs", "got 75%", "none trains every candidate")
case("search-rungs-not-increasing", search("--rungs", "192,128"), "rungs must increase; got 192,128")
case("search-rungs-auto-without-a-late-point", search("--rungs", "auto"), "rungs auto", "192", "curve_points 2")
case("search-rungs-and-rank", search("--rungs", "128", "--rank-at-tokens", "4096"), "rungs", "rank-at-tokens")
case("search-rungs-and-recall", search("--rungs", "128", "--objectives", "loss,latency_ms,recall"), "rungs", "recall")
case("search-rung-chance-0", search("--rungs", "128", "--rung-chance", "0"), "rung-chance", "above 0", "0")
case("search-rung-chance-1", search("--rungs", "128", "--rung-chance", "1"), "rung-chance", "below 1", "1")
case("search-seeds-beyond-the-largest", search("--seed", str(2**32 - 1), "--seeds", "2"), "seeds", "4,294,967,295")
case("search-rungs-with-the-largest-seed", search("--seed", str(2**32 - 1), "--rungs", "128"), "seeds", "got 3")
case("search-strict-without-the-device", ["search", "--strict", "--data", "{corpus}", "--trials", "1", "--out",
                                          "{tmp}/out"],
     "strict", "h100_sxm")
case("search-confidence-without-validation", search("--confidence", "0.5"), "validat")
case("search-confidence-without-a-time", [word for word in search("--confidence", "0.5", "--budget", "params=1e9")
                                          if word not in ("--budget-ms", "1e6")], "confidence", "budget")
case("search-table-does-not-cover", search("--space", "nemotron_flash"), "table", "nemotron_flash|1024")

for name, content, *expect in (
        ("missing", None, "c.yaml"), ("garbage", GARBAGE, "c.yaml", "UTF-8"), ("list", "- 3", "c.yaml:1", "list"),
        ("wrong-key", "trails: 3", "c.yaml:1", "trails", "trials"),
        ("trials-true", "trials: true", "c.yaml:1", "True|true"),
        ("trials-text", "trials: '3'", "c.yaml:1", "'3'"), ("trials-huge", f"trials: {HUGE}", HUGE),
        ("seed-negative", "seed: -1", "seed", "-1"), ("seed-23-digits", f"seed: {LONG}", "seed", LONG),
        ("timeout-nan", "candidate_timeout_s: .nan", "candidate_timeout_s", "nan"),
        ("timeout-inf", "candidate_timeout_s: .inf", "candidate_timeout_s", "inf"),
        ("budgets-list", "budgets: [3]", "c.yaml:1", "budgets"),
        ("budgets-text", "budgets: {params: few}", "params", "few"),
        ("budgets-nan", "budgets: {params: .nan}", "params", "nan"), ("budgets-name", "budgets: {parms: 3}", "parms"),
        ("objectives-number", "objectives: 5", "objectives", "5"),
        ("objectives-list", "objectives: [[loss]]", "objectives"),
        ("options-list", "sampler_options: [3]", "sampler_options"), ("null", "data:", "c.yaml:1", "data"),
        ("twice", "seed: 1\nseed: 2", "c.yaml:2", "seed"), ("key-number", "3: 4", "c.yaml:1", "3"),
        ("tag", "data: !!python/name:os.system", "c.yaml:1", "python/name"), ("bomb", bomb("space: *a8"), "c.yaml")):
    words = search("--config", "c.yaml")
    for flag in {"trials": ("--trials", "2"), "seed": ()}.get(name.partition("-")[0], ()):
        words.remove(flag)
    case(f"search-config-{name}", words, *expect, files=[] if content is None else [write("c.yaml", content)],
         apart=name == "trials-huge")

# -- recipes -----------------------------------------------------------------------------------------------------

for name, change, *expect in (
        ("unknown-key", {"curve_pionts": 3}, "curve_pionts", "curve_points"),
        ("curve-points-1e9", {"curve_points": 10**9}, "curve_points"),
        ("vocab-1e9", {"vocab": 10**9}, "vocab", "1000000000|1,000,000,000"),
        ("vocab-small", {"vocab": 3}, "vocab", "3"),
        ("tokens-huge", {"tokens": 10**20}, "tokens", HUGE), ("tokens-negative", {"tokens": -1}, "tokens", "-1"),
        ("tokens-text", {"tokens": "all"}, "tokens", "all"), ("rate-nan", {"muon_lr": float("nan")}, "muon_lr", "nan"),
        ("rate-inf", {"adamw_lr": float("inf")}, "adamw_lr", "inf"), ("rate-zero", {"muon_lr": 0}, "muon_lr", "0"),
        ("rate-bool", {"muon_lr": True}, "muon_lr", "True|true"), ("clip-negative", {"clip": -1}, "clip", "-1"),
        ("momentum", {"muon_momentum": 1.0}, "muon_momentum", "1.0"),
        ("steps-huge", {"muon_steps": 10**9}, "muon_steps"),
        ("batch-zero", {"batch_sequences": 0}, "batch_sequences", "0"),
        ("batch-huge", {"batch_sequences": 10**12}, "batch_sequences|tokens|short"),
        ("micro", {"micro_batch_sequences": 3}, "micro_batch_sequences", "3"),
        ("width-factor-zero", {"width_factor": 0}, "width_factor", "0"),
        ("width-factor-no-divisor", {"width_factor": 3}, "width", "3", "32|64"),
        ("optimizer", {"optimizer": "adam"}, "optimizer", "adam"), ("dtype", {"dtype": "float64"}, "dtype", "float64"),
        ("device", {"device": "tpu"}, "device", "tpu"), ("cuda", {"device": "cuda"}, "cuda"),
        ("backend", {"backend": "magic"}, "backend", "magic"), ("tasks-key", {"tasks": {"step": 3}}, "tasks", "step"),
        ("tasks-nan", {"tasks": {"muon_lr": float("nan")}}, "tasks", "nan"), ("tasks-list", {"tasks": [3]}, "tasks"),
        ("family", {"lr_multipliers": {"attention": 2}}, "lr_multipliers", "attention"),
        ("family-nan", {"lr_multipliers": {"a": float("nan")}}, "lr_multipliers", "nan")):
    deep = name in ("curve-points-1e9", "vocab-1e9", "tokens-huge", "steps-huge", "batch-huge")
    case(f"search-recipe-{name}", search("--recipe", "recipe.yaml"), *expect, files=[recipe(**change)], apart=deep)
    if (deep and name != "vocab-1e9") or name in ("unknown-key", "width-factor-no-divisor", "cuda"):
        case(f"train-recipe-{name}", train("--recipe", "recipe.yaml"), *expect, files=[recipe(**change)], apart=deep)
case("search-recipe-list", search("--recipe", "recipe.yaml"), "recipe.yaml:1", "list",
     files=[write("recipe.yaml", [3])])
case("search-recipe-garbage", search("--recipe", "recipe.yaml"), "recipe.yaml", files=[garbage("recipe.yaml")])
case("search-recipe-folder", search("--recipe", "{tmp}/full"), "full", files=[folder("full", PRECIOUS)])

# -- corpora and tokenizers --------------------------------------------------------------------------------------

for name, where, builders, *expect in (
        ("missing", "nowhere", (), "nowhere"), ("name", "stotu", (), "stotu", "sotu"),
        ("suffix", "{tmp}/a.pdf", (write("a.pdf", "x"),), ".pdf"),
        ("binary", "{tmp}/a.txt", (garbage("a.txt"),), "a.txt", "UTF-8"),
        ("empty", "{tmp}/a.txt", (write("a.txt", ""),), "a.txt"),
        ("blank", "{tmp}/a.txt", (write("a.txt", " \n\n "),), "a.txt"),
        ("short", "{tmp}/a.txt", (write("a.txt", "one line"),), "a.txt", "short"),
        ("empty-folder", "{tmp}/full", (folder("full"),), "full"),
        ("folder-without-text", "{tmp}/full", (folder("full", "a.bin"),), "full"),
        ("json", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": "a"}\n{"text": '),), "a.jsonl:2"),
        ("json-key", "{tmp}/a.jsonl", (write("a.jsonl", '{"txt": "a"}'),), "a.jsonl:1", "text"),
        ("json-number", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": 5}'),), "a.jsonl:1", "5"),
        ("json-column", "{tmp}/a.jsonl#body", (write("a.jsonl", '{"text": "a"}'),), "a.jsonl:1", "body"),
        ("json-nested", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "[" * 100_000),), "a.jsonl:1"),
        ("json-digits", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "9" * 5000 + "}"),), "a.jsonl:1"),
        ("parquet", "{tmp}/a.parquet", (garbage("a.parquet"),), "a.parquet"),
        ("hub-without-name", "hf:", (), "hf:"), ("hub-parts", "hf:a:b:c:d", (), "hf:a:b:c:d"),
        ("long-name", "x" * 300, (), "xxxx")):
    case(f"search-data-{name}", search("--data", where), *expect, files=builders)
    if name in ("missing", "binary", "short", "json-nested"):
        case(f"train-data-{name}", train("--data", where), *expect, files=builders)
EQUAL = write("equal.txt", "a" * 400_000)
case("search-data-equal", search("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True)
case("train-data-equal", train("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True)
for name, where, builders, *expect in (
        ("missing", "nowhere.json", (), "nowhere.json"), ("folder", "{corpus}", (), "{corpus}"),
        ("garbage", "{tmp}/t.json", (garbage("t.json"),), "t.json"),
        ("empty", "{tmp}/t.json", (write("t.json", ""),), "t.json"),
        ("mapping", "{tmp}/t.json", (write("t.json", {}),), "t.json"),
        ("no-tokens", "{tmp}/t.json", (write("t.json", {"version": "1.0", "added_tokens": [], "model": {
            "type": "WordLevel", "vocab": {}, "unk_token": "x"}}),), "t.json"),
        ("huge-id", "{tmp}/t.json", (write("t.json", {"version": "1.0", "added_tokens": [], "model": {
            "type": "WordLevel", "vocab": {"a": 0, "b": 4_000_000_000}, "unk_token": "a"}}),), "t.json|vocab")):
    apart = name in ("no-tokens", "huge-id", "garbage", "mapping")
    case(f"search-tokenizer-{name}", search("--tokenizer", where), *expect, files=builders, apart=apart)
    case(f"train-tokenizer-{name}", train("--tokenizer", where), *expect, files=builders, apart=apart)
    case(f"export-tokenizer-{name}", export("--tokenizer", where), *expect, files=builders, apart=apart)
case("train-tokenizer-too-large", train("--tokenizer", "{training}/final/tokenizer.json",
                                        arch="32(vocab=260): a(head_dim=16)"),
     "tokenizer.json", "260")

# -- spaces ------------------------------------------------------------------------------------------------------

for name, builder, *expect in (
        ("no-template", write("space.yaml", {"widths": [32]}), "space.yaml:1", "template"),
        ("template", space(template="four_stage"), "space.yaml:1", "four_stage"),
        ("template-list", space(template=[1]), "template"),
        ("unknown-key", space(width=[32]), "space.yaml", "'width'", "widths"), ("without-widths", write("space.yaml", {
            key: value for key, value in SPACE.items() if key != "widths"}), "widths"),
        ("width-negative", space(widths=[-32]), "space.yaml", "-32"), ("width-zero", space(widths=[0]), "widths", "0"),
        ("widths-empty", space(widths=[]), "widths"), ("widths-descend", space(widths=[64, 32]), "space.yaml", "32",
                                                       "64"),
        ("widths-equal", space(widths=[32, 32]), "widths", "32"), ("width-text", space(widths=["wide"]), "wide"),
        ("width-fraction", space(widths=[32.0]), "32.0"), ("width-bool", space(widths=[True]), "True|true"),
        ("widths-number", space(widths=32), "widths", "32"), ("width-23-digits", space(widths=[int(LONG)]), "width",
                                                              LONG),
        ("mixers-empty", blocks(mixers=[]), "mixers"), ("mixer-unknown", blocks(mixers=["q"]), "'q'"),
        ("mixer-ffn", blocks(mixers=["f"]), "mixers", "'f'"), ("mixer-two", blocks(mixers=["d a"]), "mixers"),
        ("mixer-number", blocks(mixers=[3]), "mixers", "3"), ("mixer-no-divisor", blocks(mixers=["a(head_dim=24)"]),
                                                              "24", "32"),
        ("mixers-equal", blocks(mixers=["d", "d"]), "mixers", "d"), ("ffn", blocks(ffn="a(head_dim=16)"), "ffn"),
        ("ratio", blocks(ratios=["2:9"]), "ratios", "2:9"), ("ratio-number", blocks(ratios=[1]), "ratios", "1"),
        ("ffns", blocks(ffns_per_mixer=[3]), "ffns_per_mixer", "3"),
        ("ffns-bool", blocks(ffns_per_mixer=[True]), "ffns_per_mixer"),
        ("blocks-list", space(blocks=[1]), "blocks"), ("repeats-descend", space(repeats=[3, 1]), "repeats", "3"),
        ("repeats-text", space(repeats="often"), "repeats", "often"),
        ("repeats-huge", space(repeats=[1, 10**20]), "repeats", HUGE),
        ("cap-zero", space(max_operators=0), "max_operators", "0"),
        ("cap-huge", space(max_operators=10**20), "max_operators", HUGE),
        ("cap-small", space(max_operators=3), "max_operators", "3"),
        ("vocab-one", space(model={"vocab": 1}), "vocab", "1"),
        ("vocab-huge", space(model={"vocab": 10**20}), "vocab|n=|512", HUGE),
        ("meta-negative", space(model={"meta_tokens": -1}), "meta_tokens", "-1"),
        ("tied-text", space(model={"tied": "perhaps"}), "tied", "perhaps"),
        ("model-key", space(model={"voacb": 512}), "voacb"),
        ("list", write("space.yaml", [3]), "space.yaml:1", "list"), ("empty", write("space.yaml", ""), "space.yaml"),
        ("garbage", garbage("space.yaml"), "space.yaml", "UTF-8"),
        ("tag", write("space.yaml", "template: !!python/object:os.x {}"), "space.yaml:1"),
        ("bomb", write("space.yaml", bomb("template: three_stage")), "space.yaml"),
        ("bomb-in-widths",
         write("space.yaml", bomb("template: three_stage\nwidths: *a8\nblocks: {}\nmax_operators: 5")), "space.yaml"),
        ("nested", write("space.yaml", "[" * 5000), "space.yaml"),
        ("indent", write("space.yaml", "a: 1\n b: 2"), "space.yaml:2"),
        ("depth-huge", layers(depth=10**9), "depth", "1000000000"),
        ("depth-text", layers(depth="deep"), "depth", "deep"),
        ("choices-empty", layers(choices=[]), "choices"), ("choices-equal", layers(choices=["a f", "a f"]), "choices",
                                                           "a f"),
        ("choices-without-mixer", layers(choices=["f"]), "choices"), ("choice-unknown", layers(choices=["a q"]), "'q'"),
        ("choice-huge", layers(choices=["4000x(a)"]), "4000|12000|choices")):
    words = (wide if name == "choice-huge" else search)("--space", "space.yaml")
    case(f"search-space-{name}", words, *expect, files=[builder])
WIDE = {**SPACE, "blocks": {**SPACE["blocks"], "mixers": ["a"]}}
VERY_WIDE = write("space.yaml", {**WIDE, "widths": [1_600_000_000_000_000]})
MANY_WIDE = write("space.yaml", {**WIDE, "widths": list(range(128, 12_800_128, 128))})
for command, words in (("search", wide("--space", "space.yaml")), ("profile", profile("--space", "space.yaml")),
                       ("validate", validate("--space", "space.yaml"))):
    case(f"{command}-space-width-1.6e15", words, "widths|space.yaml", "1600000000000000", files=[VERY_WIDE], apart=True)
    case(f"{command}-space-100000-widths", words, "widths", files=[MANY_WIDE], apart=True)
    case(f"{command}-space-missing", [*words, "--space", "nowhere.yaml"], "nowhere.yaml")

# -- places to write ---------------------------------------------------------------------------------------------

for command, right in (("search", search), ("train", train), ("profile", profile), ("export", export)):
    def out(name: str, where: str, *expect: str, command: str = command, right: Any = right, **more: Any) -> None:
        more.setdefault("absent", ("free room",))
        case(f"{command}-out-{name}", right("--out", where), *expect, **more)

    out("file", "{tmp}/file", "file", files=[write("file", "mine")])
    out("below-a-file", "{tmp}/file/below", "file", files=[write("file", "mine")])
    out("300-characters", "{tmp}/" + "x" * 300, "xxxx")
    out("300-characters-below", "{tmp}/" + "x" * 300 + "/below", "xxxx")
    if command != "train":  # which can write there
        out("not-utf8", "{tmp}/a\udcff", "udcff", apart=True)
    out("zero-byte", "{tmp}/a\0b", "out|a\\x00b")
    out("foreign", "{tmp}/full", "full", files=[folder("full", PRECIOUS)])
    out("proc", "/proc/nowhere/out", "/proc/nowhere")
    out("sys", "/sys/nowhere/out", "/sys/nowhere")
for name, words in (("merge", ["table", "merge", "{table}", "{table}"]),
                    ("import", ["table", "import", "aiconfigurator", "h100_sxm", "--path", "{tmp}/full"])):
    case(f"table-{name}-out-file", [*words, "--out", "{tmp}/file"], "file|full",
         files=[write("file", "mine"), folder("full", PRECIOUS)])
case("table-merge-out-foreign", ["table", "merge", "h100_sxm", "h100_sxm", "--out", "{tmp}/full"], "full|h100_sxm",
     files=[folder("full", PRECIOUS)])
case("table-merge-out-below-a-file", ["table", "merge", "{table}", "{tmp}/table", "--out", "{tmp}/file/below"], "file",
     files=[write("file", "mine"), copied("table")])
case("table-merge-out-not-utf8", ["table", "merge", "{table}", "{tmp}/table", "--out", "{tmp}/a\udcff"], "udcff",
     files=[copied("table")], apart=True)
case("search-out-foreign-before-the-corpus", search("--out", "{tmp}/full", "--data", "nowhere"), "full",
     files=[folder("full", PRECIOUS)])
case("search-out-of-a-run", search(out="{run}"), "--resume", "{run}")
case("train-out-of-a-training", train(out="{training}"), "--resume", "{training}")
case("train-resume-without-out", [*train()[:-2], "--resume"], "--out")
case("train-out-of-a-run", train("--resume", out="{run}"), "{run}")
case("search-out-of-a-training", search("--resume", out="{training}"), "{training}")
case("export-full-disk", export(), "out|space|large", files=[], apart=True, file_limit=40_000)
case("profile-runtime", profile("--runtime", "llama"), "--runtime", "did you mean 'llama.cpp'")
case("profile-vllm-missing", ["profile", "--runtime", "vllm", "--out", "{tmp}/out"], "needs --vllm-python FILE")
case("profile-vllm-nowhere", ["profile", "--runtime", "vllm", "--vllm-python", "{tmp}/python", "--out", "{tmp}/out"],
     "--vllm-python", "could not be started")
case("profile-vllm-of-torch", profile("--vllm-python", "x"), "--vllm-python is for --runtime vllm")
case("profile-weights-of-torch", profile("--weights", "f16"), "--weights is for --runtime llama.cpp")
in_llama_cpp = ["profile", "--runtime", "llama.cpp", "--out", "{tmp}/out"]
for flag, value in (("--mode", "eager"), ("--dtype", "float32"), ("--backend", "torch"), ("--seconds", "1")):
    case(f"profile-llama-cpp{flag}", [*in_llama_cpp, flag, value], f"{flag} is for --runtime torch")
# where the runtime is not installed, the line names what installs it
for name, words, expect in (
        ("weights", ("--weights", "q4_k"), "--weights|did you mean"), ("cache", ("--cache-type", "q2"), "--cache-type"),
        ("cache-q8", ("--cache-type", "q8_0"), "needs --flash-attention"),
        ("batch", ("--space", "llama_cpp", "--workload", "batch=2,generated=4"), "one sequence at a time"),
        ("space", ("--space", "nemotron_flash"), "llama.cpp cannot hold this network")):
    case(f"profile-llama-cpp-{name}", [*in_llama_cpp, *words], f"{expect}|flashnas[llama-cpp]")
VAST: dict[str, Any] = {"template": "layerwise", "model": {"vocab": 131072}, "widths": [262144],
                        "layers": {"depth": [4, 16], "require": ["m2", "a"],
                                   "choices": ["m2(head_dim=64,state=64) f", "a(head_dim=64) f"]}}
case("profile-llama-cpp-memory", [*in_llama_cpp, "--space", "space.yaml", "--workload", CHAT],
     "of width 262144|flashnas[llama-cpp]", "GB are free|flashnas[llama-cpp]", files=[write("space.yaml", VAST)])
case("profile-out-other-device", profile("--out", "{tmp}/table"), "table", "Other CPU",
     files=[copied("table"), edited("table/device.yaml", ["label"], "Other CPU")])
case("profile-out-damaged-meta", profile("--out", "{tmp}/table"), "meta.yaml",
     files=[copied("table"), garbage("table/meta.yaml")])
case("profile-out-damaged-rows", profile("--out", "{tmp}/table"), "operator_decode.parquet",
     files=[copied("table"), garbage("table/operator_decode.parquet")])
case("profile-out-without-device", profile("--out", "{tmp}/table"), "device.yaml",
     files=[copied("table"), removed("table/device.yaml")])

# -- benches -----------------------------------------------------------------------------------------------------


def grow(*words: str) -> list[str]:
    return ["bench", "grow", "--recipe", "{quick}", "--data", "{corpus}", "--space", "{space}", "--trainings", "2",
            "--out", "{tmp}/out", *words]


def build(out: str = "b") -> list[str]:
    return ["bench", "build", "--journals", "{tmp}/j", "--out", f"{{tmp}}/{out}"]


JOURNAL = '{"flashnas_bench": 1, "recipe": {"vocab": 300}, "source": "sotu", "dataset": "0", "vocab": 300}\n'
case("bench-info-nowhere", ["bench", "info", "nowhere"], "nowhere", "shipped")
case("bench-info-folder", ["bench", "info", "{tmp}/full"], "full", "bench.parquet", files=[folder("full", PRECIOUS)])
case("bench-info-garbage", ["bench", "info", "{tmp}/b"], "bench.parquet", files=[write("b/bench.parquet", GARBAGE)])
case("bench-info-other-table", ["bench", "info", "{tmp}/b"], "bench.parquet", "not a bench", files=[
    lambda paths: ((paths["tmp"] / "b").mkdir(), shutil.copy(paths["run"] / "trials.parquet",
                                                             paths["tmp"] / "b" / "bench.parquet"))])
case("bench-grow-part", grow("--part", "0/2"), "--part", "0/2")
case("bench-grow-part-huge", grow("--part", f"1/{LONG}"), "--part", LONG)
case("bench-grow-no-seeds", grow("--seeds", "0"), "--seeds")
case("bench-grow-networks-missing", grow("--networks", "nowhere.csv"), "nowhere.csv")
case("bench-grow-networks-garbage", grow("--networks", "n.csv"), "n.csv", files=[write("n.csv", GARBAGE)])
case("bench-grow-networks-notation", grow("--networks", "n.csv"), "n.csv:2", "q", files=[
    write("n.csv", "origin,architecture\nmine,64: q\n")])
case("bench-grow-networks-factor", grow("--networks", "n.csv"), "width factor", "100", files=[
    write("n.csv", "origin,architecture,width_factor\nmine,100: f,3\n")])
case("bench-grow-foreign-folder", grow(), "out", "journal", files=[folder("out", PRECIOUS)])
case("bench-grow-file", grow(), "out", files=[write("out", "mine")])
case("bench-grow-other-recipe", grow(), "another recipe or text", "trainings.jsonl", files=[
    write("out/trainings.jsonl", JOURNAL.replace("300", "400"))])
case("bench-grow-damaged-journal", grow(), "trainings.jsonl:2", files=[
    write("out/trainings.jsonl", JOURNAL + "{]\n")])
case("bench-build-nowhere", ["bench", "build", "--journals", "nowhere.jsonl", "--out", "{tmp}/b"], "nowhere.jsonl")
case("bench-build-no-journal", build(), "trainings", files=[folder("j", PRECIOUS)])
case("bench-build-without-rows", build(), "no training", files=[write("j/trainings.jsonl", JOURNAL)])
case("bench-build-two-recipes", build(), "vocab", "another", files=[
    write("j/trainings-1-of-2.jsonl", JOURNAL), write("j/trainings-2-of-2.jsonl", JOURNAL.replace("300", "400"))])
case("bench-build-foreign-folder", build("full"), "full", files=[
    write("j/trainings.jsonl", JOURNAL), folder("full", PRECIOUS, "README.md")])
case("bench-measure-nowhere", ["bench", "measure", "--journals", "{tmp}/nowhere"], "nowhere")
case("bench-measure-batch", ["bench", "measure", "--journals", "{tmp}/j", "--workload", "batch=2,prompt=4"], "batch",
     files=[write("j/trainings.jsonl", JOURNAL)])
case("search-bench-nowhere", search("--bench-table", "nowhere"), "nowhere", "bench")
case("search-bench-and-none", search("--bench-table", "nowhere", "--no-bench"), "--bench-table", "--no-bench")

# -- profile and validate ----------------------------------------------------------------------------------------

for flag, value, *more in (
        ("--device", "tpu"), ("--device", "cuda"), ("--dtype", "float64"), ("--mode", "fast"), ("--mode", "cuda_graph"),
        ("--backend", "magic"), ("--threads", "0"), ("--threads", "-1"), ("--threads", "two"),
        ("--threads", "1000000", "apart"),
        ("--threads", LONG, "apart"), ("--seconds", "0"), ("--seconds", "-1"), ("--seconds", "nan"),
        ("--seconds", "inf"),
        ("--seconds", "long")):
    case(f"profile{flag}={value}", profile(flag, value), flag.strip("-"), value, apart="apart" in more)
for flag, value, *more in (
        ("-n", "0"), ("-n", "-2"), ("-n", "1.5"), ("-n", HUGE, "apart"), ("--seed", "-1"), ("--seed", "x"),
        ("--mode", "compiled"),
        ("--runtime", "ollama"), ("--runtime", "vllm"),
        ("--mode", "fast"), ("--backend", "magic"), ("--table", "nowhere"), ("--space", "nowhere")):
    case(f"validate{flag}={value}", validate(flag, value), flag.strip("-"), value, apart="apart" in more)
case("validate-seed-23-digits", validate("--seed", LONG), "seed", LONG)
case("validate-calibrate-few", validate("--calibrate", "-n", "7"), "-n", "7")
case("validate-calibrate-other-stack", validate("--calibrate", "--allow-other-stack", "-n", "8"), "--calibrate",
     "--allow-other-stack")
ONE = {**SPACE, "widths": [32], "repeats": [1, 1], "max_operators": 3,
       "blocks": {"mixers": ["a(head_dim=16)"], "ratios": ["0:1"], "ffns_per_mixer": [0]}}
case("validate-more-than-there-are", validate("--space", "space.yaml", "-n", "2"), "2",
     files=[write("space.yaml", ONE)])
case("validate-absent-device", validate(table="h100_sxm"), "h100_sxm")
case("validate-validations-text", validate(table="{tmp}/table"), "validations",
     files=[copied("table"), edited("table/meta.yaml", ["validations"], "hello")])

# -- tables ------------------------------------------------------------------------------------------------------

META, DEVICE = "table/meta.yaml", "table/device.yaml"
for name, builders, *expect in (
        ("without-meta", [removed(META)], "meta.yaml"), ("without-device", [removed(DEVICE)], "device.yaml"),
        ("without-rows", [removed("table/operator_decode.parquet")], "operator_decode.parquet"),
        ("checksum", [edited(META, ["kinds", "operator_decode", "sha256"], "0" * 64)], "operator_decode.parquet",
         "checksum"),
        ("cut-rows", [cut_half("table/operator_decode.parquet")], "operator_decode.parquet"),
        ("garbage-meta", [garbage(META)], "meta.yaml", "UTF-8"), ("list-meta", [write(META, [3])], "meta.yaml:1"),
        ("format", [edited(META, ["format"], 99)], "meta.yaml", "99"),
        ("units", [edited(META, ["units", "latency_us"], "hours")], "units"),
        ("kinds-list", [edited(META, ["kinds"], [3])], "kinds"),
        ("kind-unknown", [edited(META, ["kinds", "gem"], {})], "gem"),
        ("kind-number", [edited(META, ["kinds", "operator_decode"], 3)], "operator_decode"),
        ("constants-list", [edited(META, ["kinds", "operator_decode", "constants"], [3])], "constants"),
        ("stacks-list", [edited(META, ["stacks"], [3])], "stacks"),
        ("without-kinds", [without(META, "kinds")], "kinds"),
        ("device-name", [edited(META, ["device"], "other")], "other"),
        ("garbage-device", [garbage(DEVICE)], "device.yaml"),
        ("platform", [edited(DEVICE, ["platform"], "tpu")], "platform", "tpu"),
        ("flops-zero", [edited(DEVICE, ["peak_flops"], 0)], "peak_flops"),
        ("flops-nan", [edited(DEVICE, ["peak_flops"], float("nan"))], "peak_flops", "nan"),
        ("bandwidth-inf", [edited(DEVICE, ["bandwidth_bytes_s"], float("inf"))], "bandwidth_bytes_s", "inf"),
        ("share-zero", [edited(DEVICE, ["bandwidth_share"], 0)], "bandwidth_share", "0"),
        ("launch-negative", [edited(DEVICE, ["launch_us"], -3)], "launch_us", "-3"),
        ("memory-text", [edited(DEVICE, ["memory_bytes"], "much")], "memory_bytes", "much"),
        ("calibration-text", [edited(META, ["calibration"], "hello")], "calibration", "hello"),
        ("calibration-list", [edited(META, ["calibration"], [3])], "calibration"),
        ("calibration-key", [edited(META, ["calibration"], {"scael": 2.0})], "scael"),
        ("calibration-nan", [edited(META, ["calibration"], {"scale": float("nan")})], "scale", "nan"),
        ("calibration-inf", [edited(META, ["calibration"], {"gap_us": float("inf")})], "gap_us", "inf"),
        ("calibration-negative", [edited(META, ["calibration"], {"scale": -1})], "scale", "-1"),
        ("calibration-bool", [edited(META, ["calibration"], {"scale": True})], "scale"),
        ("calibration-stack", [edited(META, ["calibration"], {"stack": "both"})], "stack", "both"),
        ("calibration-stack-list", [edited(META, ["calibration"], {"stack": ["fused"]})], "stack"),
        ("calibration-stack-key", [edited(META, ["calibration"], {"fused": {"scael": 2}})], "scael"),
        ("calibration-other-key", [edited(META, ["calibration"], {"unfused": {"gap_us": float("nan")}})], "gap_us",
         "nan"),
        ("whole-text", [edited(META, ["calibration"], {"whole": "hello"})], "whole", "hello"),
        ("whole-nan", [edited(META, ["calibration"], {"whole": {"eager": {"decode": {"scale": float("nan")}}}})],
         "scale", "nan"),
        ("whole-inf", [edited(META, ["calibration"], {"whole": {"eager": {"decode": {"mb_us": float("inf")}}}})],
         "mb_us", "inf"),
        ("whole-key", [edited(META, ["calibration"], {"whole": {"eager": {"decode": {"scael": 1}}}})], "scael"),
        ("whole-phase", [edited(META, ["calibration"], {"whole": {"eager": {"decoding": {"scale": 1}}}})], "decoding")):
    case(f"estimate-table-{name}", estimate(ARCH, "--table", "{tmp}/table", "--workload", CHAT), *expect,
         files=[copied("table"), *builders])
    if name in ("checksum", "calibration-text", "calibration-nan", "calibration-key"):
        case(f"table-info-{name}", ["table", "info", "{tmp}/table"], *expect, files=[copied("table"), *builders])
    if name in ("calibration-text", "calibration-nan"):
        case(f"search-table-{name}", search("--table", "{tmp}/table"), *expect, files=[copied("table"), *builders])
case("table-info-missing", ["table", "info", "nowhere"], "nowhere")
case("table-info-file", ["table", "info", "{quick}"], "{quick}")
case("table-action", ["table", "inform", "h100_sxm"], "inform")
case("table-merge-itself", ["table", "merge", "{table}", "{table}", "--out", "{tmp}/out"], "{table}")
case("table-merge-itself-by-name", ["table", "merge", "{tmp}/table", "./table", "--out", "{tmp}/out"], "table",
     files=[copied("table")])
case("table-merge-other-device", ["table", "merge", "h100_sxm", "a100_sxm", "--out", "{tmp}/out"], "h100_sxm",
     "a100_sxm")
case("table-merge-other-calibration", ["table", "merge", "{tmp}/table", "{tmp}/second/table", "--out", "{tmp}/out"],
     "calibration",
     files=[copied("table"), edited(META, ["calibration"], {"scale": 2.0}), twin("second"),
            edited(META, ["calibration"], {"scale": 3.0})])
case("table-merge-missing", ["table", "merge", "h100_sxm", "nowhere", "--out", "{tmp}/out"], "nowhere")
case("table-merge-without-out", ["table", "merge", "h100_sxm", "h100_sxm"], "--out")
case("table-merge-damaged", ["table", "merge", "{table}", "{tmp}/table", "--out", "{tmp}/out"],
     "operator_decode.parquet",
     files=[copied("table"), garbage("table/operator_decode.parquet")])
SYSTEM = ["table", "import", "aiconfigurator", "h100_sxm", "--out", "{tmp}/out", "--path"]
case("table-import-source", ["table", "import", "aiconfig", "h100_sxm", "--out", "{tmp}/out"], "aiconfig")
case("table-import-without-out", ["table", "import", "aiconfigurator", "h100_sxm"], "--out")
case("table-import-missing", [*SYSTEM, "{tmp}/nowhere.whl"], "nowhere.whl")
case("table-import-no-wheel", [*SYSTEM, "{quick}"], "{quick}")
case("table-import-folder", [*SYSTEM, "{tmp}/full"], "full", files=[folder("full", PRECIOUS)])
SYSTEMS = [folder("systems/data/h100_sxm", "nothing"), write("systems/h100_sxm.yaml", {"gpu": {}})]
case("table-import-system", ["table", "import", "aiconfigurator", "h100", "--out", "{tmp}/out", "--path", "{tmp}"],
     "'h100'", "h100_sxm", files=SYSTEMS)
case("table-import-key", [*SYSTEM, "{tmp}"], "h100_sxm.yaml", files=SYSTEMS)
case("table-import-list", [*SYSTEM, "{tmp}"], "h100_sxm.yaml", files=[SYSTEMS[0], write("systems/h100_sxm.yaml", [3])])
case("table-import-garbage", [*SYSTEM, "{tmp}"], "h100_sxm.yaml", files=[SYSTEMS[0], garbage("systems/h100_sxm.yaml")])

# -- a run, continued --------------------------------------------------------------------------------------------

JOURNAL = "run/study.journal"
for name, builders, *expect in (
        ("journal-garbage", [garbage(JOURNAL)], "study.journal"),
        ("journal-garbage-with-line-end", [write(JOURNAL, GARBAGE + b"\n")], "study.journal"),
        ("journal-cut-line", [cut_middle_line(JOURNAL)], "study.journal"),
        ("journal-folder", [as_folder(JOURNAL)], "study.journal"),
        ("journal-list", [write(JOURNAL, "[1]\n")], "study.journal"),
        ("journal-text", [write(JOURNAL, "hello\n")], "study.journal"),
        ("journal-number", [write(JOURNAL, "5\n")], "study.journal"),
        ("journal-loss-renamed", [replaced(JOURNAL, '"loss"', '"los"')], "study.journal"),
        ("journal-outcome-renamed", [replaced(JOURNAL, '"outcome"', '"outcom"')], "study.journal"),
        ("journal-notation", [replaced(JOURNAL, '"notation":', '"noattion":')], "study.journal"),
        ("question-text", [edited("run/run.yaml", ["question"], "hi")], "run.yaml", "question"),
        ("question-list", [edited("run/run.yaml", ["question"], [1])], "run.yaml", "question"),
        ("without-question", [without("run/run.yaml", "question")], "run.yaml", "question"),
        ("yaml-garbage", [garbage("run/run.yaml")], "run.yaml", "UTF-8"),
        ("yaml-empty", [write("run/run.yaml", "")], "run.yaml"),
        ("yaml-list", [write("run/run.yaml", [1])], "run.yaml"),
        ("without-yaml", [removed("run/run.yaml")], "run.yaml"),
        ("yaml-folder", [as_folder("run/run.yaml")], "run.yaml"), ("pareto-file", [as_file("run/pareto")], "pareto"),
        ("trials-folder", [as_folder("run/trials.parquet")], "trials.parquet"),
        ("lock-folder", [as_folder("run/.lock")], ".lock")):
    case(f"search-resume-{name}", again(), *expect, files=[copied("run"), *builders])
case("search-resume-other-seed", again("--seed", "3"), "question.seed", "3", files=[copied("run")])
case("search-resume-other-recipe", again("--tokens", "512"), "512", files=[copied("run")])

# -- pareto ------------------------------------------------------------------------------------------------------

case("pareto-without-a-run", ["pareto"], "RUN is required")
case("pareto-missing", ["pareto", "nowhere"], "nowhere")
case("pareto-second-missing", ["pareto", "{run}", "nowhere"], "nowhere")
case("pareto-file", ["pareto", "{quick}"], "{quick}")
case("pareto-twice", ["pareto", "{run}", "{run}"], "{run}", "named twice")
case("pareto-without-a-question", ["pareto", "{tmp}/run"], "{tmp}/run", "question",
     files=[copied("run"), without("run/run.yaml", "question")])
case("pareto-other-seed", ["pareto", "{run}", "{tmp}/run"], "{tmp}/run", "do not compare", "seed",
     files=[copied("run"), edited("run/run.yaml", ["question", "seed"], 77)])
case("pareto-other-recipe", ["pareto", "{run}", "{tmp}/run"], "recipe.tokens", "do not compare",
     files=[copied("run"), edited("run/run.yaml", ["question", "recipe", "tokens"], 77)])
case("pareto-damaged-recipe", ["pareto", "{tmp}/run"], "{tmp}/run", "recipe",
     files=[copied("run"), edited("run/run.yaml", ["question", "recipe"], {"mine": 1})])
case("pareto-table", ["pareto", "{run}", "--table", "h100"], "h100", "h100_sxm")
case("pareto-workload", ["pareto", "{run}", "--workload", "chatt"], "chatt", "chat")
case("pareto-budget", ["pareto", "{run}", "--budget", "speed=3"], "speed")
case("pareto-budget-negative", ["pareto", "{run}", "--budget-ms", "-3"], "--budget-ms", "above 0")
case("pareto-budget-unmet", ["pareto", "{run}", "--budget-ms", "0.000001"], "no network of the runs", "nearest")
case("pareto-budget-twice", ["pareto", "{run}", "--budget-ms", "3", "--budget", "latency_ms=3"], "--budget-ms", "same")
case("pareto-objectives", ["pareto", "{run}", "--objectives", "loss,speed"], "speed")
case("pareto-objectives-alone", ["pareto", "{run}", "--objectives", "loss"], "--objectives", "2 to 4",
     absent=("search.",))
case("pareto-objective-not-trained", ["pareto", "{run}", "--objectives", "recall,latency_ms"], "recall", "{run}")
case("pareto-confidence", ["pareto", "{run}", "--confidence", "0.9"], "validat")
case("pareto-out", ["pareto", "{run}", "--out", "{tmp}/out"], "{tmp}/out", "not empty",
     files=[folder("out", PRECIOUS)])
case("search-start-from-missing", search("--start-from", "nowhere"), "nowhere")
case("search-start-from-other-tokens", search("--start-from", "{run}", "--tokens", "2048"), "{run}",
     "cannot start from its networks", "recipe.tokens")

# -- report and proxy-trust --------------------------------------------------------------------------------------

TRIALS = "run/trials.parquet"
for name, builders, *expect in (
        ("budgets", [edited("run/run.yaml", ["budgets"], 3)], "run.yaml", "budgets"),
        ("all-three", [edited("run/run.yaml", ["budgets"], 3), edited("run/run.yaml", ["totals"], "x"),
                       edited("run/run.yaml", ["proxy"], [1])], "run.yaml"),
        ("breakdown", [edited("run/pareto/01.yaml", ["breakdown"], 5)], "01.yaml", "breakdown"),
        ("missed", [edited("run/pareto/01.yaml", ["missed"], 5)], "01.yaml", "missed"),
        ("architecture", [edited("run/pareto/01.yaml", ["architecture"], 5)], "01.yaml", "architecture"),
        ("hidden", [edited("run/pareto/01.yaml", ["architecture", "hidden"], "x")], "01.yaml", "hidden"),
        ("finalist-garbage", [garbage("run/pareto/01.yaml")], "01.yaml", "UTF-8"),
        ("finalist-name", [write("run/pareto/first.yaml", "architecture: {}")], "first.yaml"),
        ("yaml-garbage", [garbage("run/run.yaml")], "run.yaml"),
        ("yaml-list", [write("run/run.yaml", [1])], "run.yaml"),
        ("curve", [column(TRIALS, "curve", '[1,"a",[2]]')], "trials.parquet", "curve"),
        ("curve-points", [column(TRIALS, "curve", '[["a","b"]]')], "trials.parquet", "curve"),
        ("curve-text", [column(TRIALS, "curve", "hello")], "trials.parquet", "curve"),
        ("curve-number", [column(TRIALS, "curve", "5")], "trials.parquet", "curve"),
        ("scores", [column(TRIALS, "scores", "[1]")], "trials.parquet", "scores"),
        ("scores-text", [column(TRIALS, "scores", '{"recall": "good"}')], "trials.parquet", "scores"),
        ("loss-text", [column(TRIALS, "loss", "low")], "trials.parquet", "loss"),
        ("loss-inf", [column(TRIALS, "loss", float("inf"))], "trials.parquet", "loss"),
        ("number-text", [column(TRIALS, "number", "x")], "trials.parquet", "number"),
        ("without-loss", [column(TRIALS, "loss", ...)], "trials.parquet", "loss"),
        ("trials-garbage", [garbage(TRIALS)], "trials.parquet"), ("trials-cut", [cut_half(TRIALS)], "trials.parquet"),
        ("without-trials", [removed(TRIALS)], "trials.parquet"),
        ("html-folder", [folder("run/report.html")], "report.html|report"),
        ("trust-garbage", [garbage("run/proxy_trust.json")], "proxy_trust.json")):
    builders = [removed("run/report.html"), *builders] if name == "html-folder" else builders
    case(f"report-{name}", ["report", "{tmp}/run"], *expect, files=[copied("run"), *builders])
case("report-missing", ["report", "nowhere"], "nowhere")
case("report-missing-with-line-end", ["report", "no\nwhere"], "where")
case("report-file", ["report", "{quick}"], "{quick}")
case("report-foreign", ["report", "{tmp}/full"], "full", "run.yaml", files=[folder("full", PRECIOUS)])
case("report-of-a-training", ["report", "{training}"], "{training}")
for flag, value, *more in (
        ("--architectures", "2"), ("--architectures", "x"), ("--seeds", "0"), ("--seeds", "-1"), ("--longer", "1"),
        ("--longer", "1.5"), ("--wider", "-1"), ("--wider", "twice"), ("--wider", "3"), ("--workers", "0"),
        ("--seeds", HUGE), ("--longer", HUGE, "apart"), ("--workers", "1000000", "apart")):
    case(f"proxy-trust{flag}={value}", trust(flag, value), flag.strip("-"), value, files=[copied("run")],
         apart="apart" in more)
TABLE = ("set,notation,hash,params,latency_ms,variant,width_factor,tokens,seed,loss,bits_per_byte,tokens_per_s,seconds,"
         "proxy_params,reason\n")
for name, builders, words, *expect in (
        ("missing", [], ["--results", "nowhere.csv"], "nowhere.csv"), ("folder", [], ["--results", "{run}"], "{run}"),
        ("garbage", [garbage("t.csv")], ["--results", "t.csv"], "t.csv", "UTF-8"),
        ("empty", [write("t.csv", "")], ["--results", "t.csv"], "t.csv"),
        ("columns", [write("t.csv", "a,b\n1,2\n")], ["--results", "t.csv"], "t.csv", "set"),
        ("number", [write("t.csv", TABLE + "front,x,h,many,1,short,1,1,0,1,,,,,\n")], ["--results", "t.csv"], "t.csv:2",
         "params", "many"),
        ("variant", [write("t.csv", TABLE + "front,x,h,1,1,tall,1,1,0,1,,,,,\n")], ["--results", "t.csv"], "t.csv:2",
         "tall"),
        ("no-rows", [write("t.csv", TABLE)], ["--results", "t.csv"], "3"),
        ("run-and-results", [], ["{run}", "--results", "t.csv"], "--results"),
        ("run-missing", [], ["nowhere"], "nowhere"),
        ("run-foreign", [folder("full", PRECIOUS)], ["{tmp}/full"], "full"), ("run-file", [], ["{quick}"], "{quick}")):
    case(f"proxy-trust-{name}", ["proxy-trust", *words], *expect, files=builders)
PUBLISHED = "group,operators,params,metric,value\ng,12x(a f),350M,val_loss,2.5\n"
for name, line, *expect in (
        ("params-of-no-width", "g,12x(d f),1M,val_loss,2.4", "t.csv:3", "params", "1,000,000"),
        ("notation", "g,12x(q f),350M,val_loss,2.4", "t.csv:3", "q"),
        ("group-of-one", "h,12x(d f),350M,val_loss,2.4", "t.csv:2|t.csv:3", "at least 2", "1")):
    case(f"proxy-trust-published-{name}", ["proxy-trust", "--published", "t.csv", "--recipe", "{quick}", "--data",
                                           "{corpus}", "--out", "{tmp}/out"], *expect,
         files=[write("t.csv", PUBLISHED + line + "\n")])
case("proxy-trust-rank-without-published", trust("--rank-at-tokens", "4096"), "rank-at-tokens", "--published",
     files=[copied("run")])
for name, builder, *expect in (
        ("unfinished", edited("run/run.yaml", ["finished"], None), "--resume"),
        ("question", edited("run/run.yaml", ["question"], "hi"), "question"),
        ("recipe", edited("run/run.yaml", ["question", "recipe"], {"tokens": -1}), "tokens", "-1"),
        ("recipe-key", edited("run/run.yaml", ["question", "recipe"], {"tokenz": 1}), "tokenz"),
        ("data", edited("run/run.yaml", ["question", "data"], 5), "data"),
        ("data-gone", edited("run/run.yaml", ["question", "data"], "gone"), "gone"),
        ("corpus", edited("run/run.yaml", ["question", "corpus"], "other"), "{corpus}|text"),
        ("notation", column(TRIALS, "notation", "???"), "???")):
    case(f"proxy-trust-run-{name}", trust(), *expect, files=[copied("run"), builder])

# -- scaling-law -------------------------------------------------------------------------------------------------

for flag, value, *more in (
        ("--depths", "0"), ("--depths", "2"), ("--depths", "1,1,2"), ("--depths", "1,x"), ("--depths", ""),
        ("--depths", f"1,{HUGE}", "apart"), ("--widths", "0"), ("--widths", f"16,{HUGE}", "apart"), ("--tokens", "0"),
        ("--tokens", f"1,{HUGE}", "apart"), ("--seeds", "0"), ("--at-tokens", "0"), ("--budget-ms", "0"),
        ("--budget-ms", "nan"), ("--workers", "0"), ("--recipe", "nowhere"), ("--table", "nowhere"),
        ("--workload", "nowhere"), ("--out", "{quick}")):
    case(f"scaling-law{flag}={value}", law(flag, value), flag.strip("-"), value.split(",")[-1], apart="apart" in more)
case("scaling-law-few-sizes", law("--depths", "1,2", "--widths", "16,32", "--tokens", "128"), "depths", "at least 5",
     "got 4")
case("scaling-law-width-of-no-head", law("--widths", "17,32"), "width 17", "head_dim 16")
case("scaling-law-tokens-of-the-same-steps", law("--tokens", "129,256"), "tokens", "129")
case("scaling-law-data", law("--data", "nowhere"), "nowhere")
for name, pattern, *expect in (
        ("unknown", "m2 q", "'q'"), ("open", "m2 (f", "m2 (f"), ("closed", "m2 f)", "')'"), ("empty", "", "pattern"),
        ("architecture", "32: d f", "32: d f")):
    case(f"scaling-law-pattern-{name}", law(pattern=pattern), *expect)
LAW = "depth,width,tokens,loss\n"
SIZES = [(depth, width) for depth in (2, 4, 8) for width in (512, 1024, 2048)]
for name, builders, *expect in (
        ("missing", [], "t.csv"), ("folder", [folder("t.csv")], "t.csv"),
        ("garbage", [garbage("t.csv")], "t.csv", "UTF-8"), ("empty", [write("t.csv", "")], "t.csv"),
        ("no-rows", [write("t.csv", LAW)], "t.csv", "constants", "0"),
        ("few-rows", [write("t.csv", LAW + "2,512,9,4\n4,512,9,3\n4,1024,9,2\n")], "5 constants", "3"),
        ("one-depth", [write("t.csv", LAW + "".join(f"8,{width},9,4\n" for width in range(512, 3072, 256)))], "depth",
         "8 only"),
        ("column", [write("t.csv", LAW.replace("loss", "los") + "2,512,9,4\n")], "t.csv", "'los'", "'loss'"),
        ("column-missing", [write("t.csv", "depth,width,tokens\n2,512,9\n")], "t.csv", "'loss'"),
        ("depth-0", [write("t.csv", LAW + "0,512,9,4\n")], "t.csv:2", "depth", "0"),
        ("loss-text", [write("t.csv", LAW + "2,512,9,low\n")], "t.csv:2", "loss", "low"),
        ("loss-inf", [write("t.csv", LAW + "2,512,9,inf\n")], "t.csv:2", "loss", "inf"),
        ("twice", [write("t.csv", LAW + "2,512,9,4\n2,512,9,4\n")], "t.csv:3", "seed"),
        ("without-pattern", [write("t.csv", LAW + "".join(f"{d},{w},9,{4 + 1 / d + 9 / w}\n" for d, w in SIZES))],
         "PATTERN", "t.csv"),
        ("parquet", [garbage("t.parquet")], "t.parquet")):
    file = "t.parquet" if name == "parquet" else "t.csv"
    case(f"scaling-law-results-{name}", ["scaling-law", "--results", file], *expect, files=builders)
case("scaling-law-results-budget", ["scaling-law", "m2 f", "--results", "t.csv", "--budget-ms", "3"], "3 ms", "fastest",
     files=[write("t.csv", LAW + "".join(f"{d},{w},9,{4 + 1 / d + 9 / w}\n" for d, w in SIZES))])

# -- train -------------------------------------------------------------------------------------------------------

for flag, value, *more in (
        ("--tokens", "0"), ("--tokens", "-1"), ("--tokens", "5"), ("--tokens", "x"), ("--tokens", HUGE, "apart"),
        ("--tokens", LONG, "apart"),
        ("--seed", "-1"), ("--seed", LONG), ("--seed", "x"), ("--width-factor", "0"), ("--width-factor", "-1"),
        ("--width-factor", "3"),
        ("--width-factor", LONG), ("--device", "tpu"), ("--device", "cuda"), ("--keep", "0"), ("--keep", "-1"),
        ("--keep", "x"),
        ("--checkpoint-every-s", "-1"), ("--checkpoint-every-s", "nan"), ("--checkpoint-every-tokens", "0"),
        ("--checkpoint-every-tokens", "x"), ("--threads", "0"), ("--threads", "-1"), ("--threads", "x"),
        ("--threads", "1000000", "apart"),
        ("--threads", LONG, "apart"), ("--recipe", "cpuu")):
    case(f"train{flag}={value}", train(flag, value), flag.strip("-").replace("-", "_").partition("_")[0], value,
         apart="apart" in more)
case("train-two-intervals", train("--checkpoint-every-s", "3", "--checkpoint-every-tokens", "3"), "--checkpoint-every")
CHECKPOINT = "checkpoint.json"
for name, builders, *expect in (
        ("log-garbage", [garbage("training/log.csv")], "log.csv"),
        ("log-garbage-line", [write("training/log.csv", GARBAGE + b"\n")], "log.csv"),
        ("log-folder", [as_folder("training/log.csv")], "log.csv"),
        ("log-columns", [replaced("training/log.csv", "gradient_norm", "norm")], "log.csv"),
        ("yaml-garbage", [garbage("training/train.yaml")], "train.yaml"),
        ("yaml-list", [write("training/train.yaml", [1])], "train.yaml"),
        ("without-yaml", [removed("training/train.yaml")], "train.yaml"),
        ("question-text", [edited("training/train.yaml", ["question"], "hi")], "train.yaml", "question"),
        ("recipe-key", [edited("training/train.yaml", ["question", "recipe", "tokenz"], 3)], "train.yaml", "tokenz"),
        ("recipe-value", [edited("training/train.yaml", ["question", "recipe", "tokens"], -3)], "train.yaml", "-3"),
        ("checkpoints-file", [as_file("training/checkpoints")], "checkpoints"),
        ("final-file", [as_file("training/final")], "final"),
        ("final-foreign", [as_file("training/final"), removed("training/final"), folder("training/final", PRECIOUS)],
         "final"),
        ("scalars-text", [newest(CHECKPOINT, lambda file: write(file, "hello"))], CHECKPOINT),
        ("scalars-garbage", [newest(CHECKPOINT, garbage)], CHECKPOINT),
        ("scalars-list", [newest(CHECKPOINT, lambda file: write(file, "[1]"))], CHECKPOINT),
        ("scalars-missing", [newest(CHECKPOINT, removed)], CHECKPOINT),
        ("scalars-cut", [newest(CHECKPOINT, cut_half)], CHECKPOINT),
        ("scalars-changed", [newest(CHECKPOINT, lambda file: edited(file, ["trainer", "done"], 1))], CHECKPOINT),
        ("scalars-folder", [newest(CHECKPOINT, as_folder)], CHECKPOINT),
        ("model-garbage", [newest("model.safetensors", garbage)], "model.safetensors"),
        ("model-missing", [newest("model.safetensors", removed)], "model.safetensors"),
        ("optimizer-cut", [newest("optimizer.safetensors", cut_half)], "optimizer.safetensors"),
        ("architecture-garbage", [newest("architecture.yaml", garbage)], "architecture.yaml")):
    case(f"train-resume-{name}", train_on(), *expect, files=[copied("training"), *builders])
case("train-resume-scalars-self", train_on(), CHECKPOINT, files=[copied("training"),
                                                                 newest(CHECKPOINT,
                                                                         lambda file: without(file, "self"))],
     absent=("'self'",))
case("train-resume-other-seed", train_on("--seed", "3"), "question.seed", "3", files=[copied("training")])

# -- export ------------------------------------------------------------------------------------------------------

for flag, value in (("--to", "onnx"), ("--dtype", "int8"), ("--dtype", "float16"), ("--type", "q4_k")):
    case(f"export{flag}={value}", export(flag, value), flag, value)
for value in ("-1", LONG, "x", "1.5"):
    case(f"export--init-seed={value}", export("--init-seed", value, source="32: a(head_dim=16)"), "seed", value)
case("export-search", export(source="{run}"), "{run}")
case("export-missing", export(source="nowhere"), "nowhere")
case("export-foreign", export(source="{tmp}/full"), "full", files=[folder("full", PRECIOUS)])
case("export-without-weights", export(source="32: a(head_dim=16)"), "--init-seed")
case("export-weights-and-seed", export("--init-seed", "1"), "--init-seed")
case("export-raw-logits", export("--raw-logits"), "--raw-logits")
case("export-type-of-hf", export("--type", "q8_0"), "--type is for --to gguf")
for name, arch, expect in (
        ("no-attention", "32(vocab=300): m2(head_dim=16) f", "no operator 'a'"),
        ("no-recurrent", "32(vocab=300): a(head_dim=16) f", "no operator 'm2'"),
        ("operator", "32(vocab=300): d(head_dim=16) f a(head_dim=16) f", "operator 0 is 'd'"),
        ("meta", "32(vocab=300,meta=9): m2(head_dim=16) f a(head_dim=16) f", "9 meta tokens"),
        ("order", "32(vocab=300): m2(head_dim=16) a(head_dim=16) f", "operator 1, 'a'")):
    drawn = ["export", arch, "--init-seed", "0", "--out", "{tmp}/out"]
    # where the runtime is not installed, the line names what installs it
    case(f"export-gguf-{name}", [*drawn, "--to", "gguf"], f"{expect}|flashnas[llama-cpp]", "nearest|pip install")
    case(f"export-nemotron-h-{name}", [*drawn, "--to", "nemotron-h"], "Nemotron-H", "architecture that fits: 32(")
case("export-gguf-dtype", ["export", "32(vocab=300): m2(head_dim=16) f a(head_dim=16) f", "--init-seed", "0", "--out",
                           "{tmp}/out", "--to", "gguf", "--dtype", "bfloat16"],
     "--type sets the type of its weights|flashnas[llama-cpp]")
case("export-without-to", ["export", "{training}/final", "--out", "{tmp}/out"], "--to")
case("export-without-out", ["export", "{training}/final", "--to", "hf"], "--out")
for name, builder, *expect in (
        ("weights-garbage", garbage("training/final/model.safetensors"), "model.safetensors"),
        ("weights-cut", cut_half("training/final/model.safetensors"), "model.safetensors"),
        ("weights-missing", removed("training/final/model.safetensors"), "model.safetensors"),
        ("weights-folder", as_folder("training/final/model.safetensors"), "model.safetensors"),
        ("digest-number", edited("training/final/architecture.yaml", ["sha256"], 5),
         "architecture.yaml|model.safetensors"),
        ("architecture-garbage", garbage("training/final/architecture.yaml"), "architecture.yaml"),
        ("architecture-missing", removed("training/final/architecture.yaml"), "final"),
        ("architecture-other", edited("training/final/architecture.yaml", ["architecture", "hidden"], 64),
         "model.safetensors"),
        ("architecture-huge", edited("training/final/architecture.yaml", ["architecture", "vocab"], 10**15),
         "model.safetensors|vocab"),
        ("own-tokenizer-garbage", garbage("training/final/tokenizer.json"), "tokenizer.json")):
    case(f"export-{name}", export(source="{tmp}/training/final"), *expect, files=[copied("training"), builder],
         apart=name == "architecture-huge")
