"""What a case of bad input is made of: words of commands, builders of files, fragments of the line.

Files are made by hand or by editing what commands wrote; nothing of flashnas is imported. In words,
contents and expected fragments these names in braces stand for paths:

    {tmp}       the case's own folder, which is also the working directory
    {corpus}    40 short texts        {quick}     a recipe that trains in a blink
    {space}     two small widths      {table}     that space measured on this CPU for {chat}
    {run}       a finished search of them, with baselines      {training}  a finished `flashnas
    train` {quiet}     a file for --config: nothing is timed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

RECIPE = {
    "width_factor": 1,
    "vocab": 300,
    "sequence_tokens": 32,
    "batch_sequences": 4,
    "tokens": 256,
    "validation_tokens": 64,
    "curve_points": 2,
    "curve_tokens": 64,
    "muon_lr": 0.01,
    "adamw_lr": 0.003,
    "dtype": "float32",
}
SPACE = {
    "template": "three_stage",
    "model": {"vocab": 512, "tied": True, "meta_tokens": 2},
    "widths": [32, 64],
    "blocks": {
        "mixers": ["d(head_dim=16)", "a(head_dim=16)"],
        "ratios": ["0:1"],
        "ffns_per_mixer": [0, 1],
    },
    "repeats": [1, 1],
    "max_operators": 5,
}
ARCH = "32(vocab=512,meta=2): a(head_dim=16)"  # that {table} covers
CHAT = "batch=1,prompt=4,generated=4"
LONG = "12345678901234567890123"  # 23 digits
HUGE = "100000000000000000000"  # 10^20
PRECIOUS = "precious.txt"  # must outlive every case
LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "vocab_size": 32000,
}

Paths = dict[str, Path]  # name in braces -> path
Builder = Callable[[Paths], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """expect: fragments of the line; `a|b`: either will do. absent: fragments that mislead."""

    id: str
    words: tuple[str, ...]
    expect: tuple[str, ...]
    files: tuple[Builder, ...] = ()
    absent: tuple[str, ...] = ()


CASES = []


def case(
    name,
    words,
    *expect,
    files=(),
    keys=None,
    **more,
):
    """keys: of a file for --config."""
    if keys is not None:
        words, files = [*words, "--config", "{tmp}/keys.yaml"], [*files, write("keys.yaml", keys)]
    CASES.append(Case(id=name, words=tuple(words), expect=expect, files=tuple(files), **more))


def filled(text, paths):
    """The text with the names in braces replaced."""
    for name, path in paths.items():
        text = text.replace(f"{{{name}}}", str(path))
    return text


# -- builders of files -----------------------------------------------------------------------------


def write(name, content):
    """A file below {tmp}; mappings and lists become YAML, or JSON where the name says so."""

    def build(paths):
        path = paths["tmp"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(filled(content, paths))
        else:
            path.write_text(
                json.dumps(content)
                if path.suffix == ".json"
                else yaml.safe_dump(content, sort_keys=False)
            )

    return build


def folder(name, *files):
    """A folder that holds these files, each with the text `mine`."""

    def build(paths):
        (paths["tmp"] / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (paths["tmp"] / name / file).write_text("mine")

    return build


def copied(name):
    """{run}, {training} or {table} as {tmp}/name, to be damaged."""
    return lambda paths: shutil.copytree(paths[name], paths["tmp"] / name)


def edited(file, keys, value):
    """One entry of a YAML or JSON file replaced."""

    def build(paths):
        path = paths["tmp"] / file
        data = yaml.safe_load(path.read_text())
        entry = data
        for key in keys[:-1]:
            entry = entry.setdefault(key, {})
        entry[keys[-1]] = value
        write(file, data)(paths)

    return build


def without(file, key):
    """One entry of a YAML or JSON file left out."""

    def build(paths):
        data = yaml.safe_load((paths["tmp"] / file).read_text())
        del data[key]
        write(file, data)(paths)

    return build


def removed(file):
    def build(paths):
        path = paths["tmp"] / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return build


def as_folder(file):
    """A folder where a file was."""

    def build(paths):
        removed(file)(paths)
        (paths["tmp"] / file).mkdir()

    return build


def as_file(file):
    """A file where a folder was."""

    def build(paths):
        removed(file)(paths)
        (paths["tmp"] / file).write_text("mine")

    return build


def cut_half(file):
    """The first half of a file is left."""

    def build(paths):
        path = paths["tmp"] / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return build


def newest(file, *damage):
    """Damage a file of all checkpoints of {tmp}/training."""

    def build(paths):
        found = sorted((paths["tmp"] / "training" / "checkpoints").glob("step-*"))
        assert found
        for checkpoint in found:
            for hurt in damage:
                hurt(f"training/checkpoints/{checkpoint.name}/{file}")(paths)

    return build


# -- the words of each command, right so far -------------------------------------------------------


def search(*words, out="{tmp}/out"):
    """Trains in seconds if it is not refused. A later word counts over an earlier one."""
    asked = (
        f"search --space {{space}} --table {{table}} --workload {CHAT} --budget-ms 1e6 --recipe"
        " {quick} --data {corpus} --workers 1 --config {quiet} --trials 2 --train-anyway --out"
    )
    return [*asked.split(), out, *words]


def again(*words):
    """Continue a copy of {run}."""
    return search("--resume", *words, out="{tmp}/run")


def train(*words, arch="32(vocab=300): a(head_dim=16) f", out="{tmp}/out"):
    files = "--recipe {quick} --data {corpus} --threads 1 --out"
    return ["train", arch, *files.split(), out, *words]


def train_on(*words):
    """Continue a copy of {training}."""
    return train("--resume", *words, out="{tmp}/training")


def profile(*words, out="{tmp}/out"):
    asked = f"profile --space {{space}} --workload {CHAT} --seconds 0.01 --out"
    return [*asked.split(), out, *words]


def validate(*words, table="{table}"):
    asked = f"validate --space {{space}} --workload {CHAT} -n 1 --table"
    return [*asked.split(), table, *words]


def export(*words, source="{training}/final"):
    return ["export", source, "--to", "hf", "--out", "{tmp}/out", *words]


def estimate(arch, *words):
    return ["estimate", arch, *words]


def recipe(**changes):
    return write("recipe.yaml", {**RECIPE, **changes})
