"""Files that are not what a reader expects to open, at every reader of a file that a stranger may have
written.

FIFOs, devices and folders; more levels of nesting, and more bytes, than any file has. Without a limit these
end in a traceback, fill the memory or never end. docs/security.md says what is promised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bad_input.words import (
    ARCH,
    PRECIOUS,
    Builder,
    again,
    case,
    copied,
    estimate,
    export,
    folder,
    profile,
    search,
    train,
    train_on,
    write,
)


def replaced_by(make: Callable[[Path], object]) -> Callable[[str], Builder]:
    def damage(file: str) -> Builder:
        def build(paths: dict[str, Path]) -> None:
            path = paths["tmp"] / file
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
        return build
    return damage


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10**13)  # without blocks on the disk


NOT_A_FILE = {"fifo": replaced_by(os.mkfifo), "folder": replaced_by(Path.mkdir),
              "device": replaced_by(lambda path: path.symlink_to("/dev/zero"))}
HUGE = {"huge": replaced_by(huge)}
NESTED = {"nested": replaced_by(lambda path: path.write_text("[" * 100_000 + "\n"))}
LINK = {"link": replaced_by(lambda path: path.symlink_to(path.parents[1] / PRECIOUS))}
TEXT, TABLE = {**NOT_A_FILE, **HUGE, **NESTED}, {**NOT_A_FILE, **HUGE}


def reader(name: str, words: Sequence[str], file: str, damages: dict[str, Callable[[str], Builder]],
           *files: Builder, expect: str = "") -> None:
    """One case for each way in which the file is no such file."""
    for kind, damage in damages.items():
        case(f"foreign-{name}-{kind}", words, expect or Path(file).name, files=[*files, damage(file)],
             apart=True)


TABLE_COPY, RUN_COPY, TRAINING_COPY = copied("table"), copied("run"), copied("training")
reader("config-json", estimate("{tmp}/c.json"), "c.json", TEXT)
reader("config-json-of-a-folder", estimate("{tmp}/m"), "m/config.json", TEXT)
reader("architecture", estimate("{tmp}/a.yaml"), "a.yaml", TEXT)
reader("workload", estimate(ARCH, "--workload", "{tmp}/w.yaml"), "w.yaml", TEXT)
for part in ("meta.yaml", "device.yaml"):
    reader(f"table-{part}", estimate(ARCH, "--table", "{tmp}/table"), f"table/{part}", TEXT, TABLE_COPY)
reader("table-rows", estimate(ARCH, "--table", "{tmp}/table"), "table/operator_decode.parquet", TABLE,
       TABLE_COPY)
reader("config", search("--config", "{tmp}/c.yaml"), "c.yaml", TEXT)
reader("recipe", search("--recipe", "{tmp}/r.yaml"), "r.yaml", TEXT)
reader("space", profile("--space", "{tmp}/s.yaml"), "s.yaml", TEXT)
reader("tokenizer", search("--tokenizer", "{tmp}/tk.json"), "tk.json", TEXT)
reader("corpus-text", train("--data", "{tmp}/t.txt"), "t.txt", {"fifo": NOT_A_FILE["fifo"],
                                                              "device": NOT_A_FILE["device"]})
for suffix in ("jsonl", "parquet"):
    reader(f"corpus-{suffix}", train("--data", f"{{tmp}}/t.{suffix}"), f"t.{suffix}",
           {kind: NOT_A_FILE[kind] for kind in ("fifo", "device")})
reader("weights", export(source="{tmp}/training/final"), "training/final/model.safetensors", NOT_A_FILE,
       TRAINING_COPY)
reader("weights-architecture", export(source="{tmp}/training/final"), "training/final/architecture.yaml",
       TEXT,
       TRAINING_COPY, expect="final")
reader("weights-tokenizer", export(source="{tmp}/training/final"), "training/final/tokenizer.json", TEXT,
       TRAINING_COPY)
reader("evidence", estimate(ARCH, "--evidence", "{tmp}/e.csv"), "e.csv", TABLE)

for part in ("run.yaml", "pareto/01.yaml"):
    reader(f"run-{part}", ["report", "{tmp}/run"], f"run/{part}", TEXT, RUN_COPY)
reader("run-trials", ["report", "{tmp}/run"], "run/trials.parquet", TABLE, RUN_COPY)
reader("run-journal", again(), "run/study.journal", {**NOT_A_FILE, **NESTED, **LINK}, folder(".", PRECIOUS), RUN_COPY)
reader("training-log", train_on(), "training/log.csv", {**NOT_A_FILE, **HUGE, **LINK}, folder(".", PRECIOUS),
       TRAINING_COPY)
reader("training-config", train_on(), "training/train.yaml", TEXT, TRAINING_COPY)
reader("bench", ["bench", "info", "{tmp}/b"], "b/bench.parquet", TABLE)
reader("bench-journal", ["bench", "build", "--journals", "{tmp}/j.jsonl", "--out", "{tmp}/b"], "j.jsonl",
       {kind: damage for kind, damage in TEXT.items() if kind != "folder"})  # a folder may hold journals
reader("bench-networks", ["bench", "grow", "--networks", "n.csv", "--data", "{corpus}", "--recipe", "{quick}", "--out",
                          "{tmp}/out"], "n.csv", TABLE)
reader("trust-results", ["proxy-trust", "--results", "{tmp}/r.csv"], "r.csv", TABLE)
reader("published", ["proxy-trust", "--published", "{tmp}/p.csv", "--no-train"], "p.csv", TABLE)
reader("bundle", ["doctor", "--read", "{tmp}/b.zip"], "b.zip", TABLE)
reader("law-results", ["scaling-law", "--results", "{tmp}/r.parquet"], "r.parquet", TABLE)

# a config file is data: it starts no program
case("config-starts-a-program", profile("--config", "{tmp}/c.yaml"), "c.yaml:1", "vllm_python",
     files=[write("c.yaml", "vllm_python: ./evil.sh\n")])
case("config-imports-a-module", ["worker", "--config", "{tmp}/c.yaml", "--storage", "sqlite:///a.db"],
     "c.yaml:1",
     "evaluators", files=[write("c.yaml", "evaluators: [os:getcwd]\n")])
# a tokenizer that cannot encode the text
case("tokenizer-without-its-unknown-token", search("--tokenizer", "{tmp}/tk.json"), "cannot encode",
     files=[write(
    "tk.json", {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                "pre_tokenizer": None, "post_processor": None, "decoder": None,
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}})])
case("profile-torch-weights", profile("--runtime", "torch", "--weights", "q8_0"), "--weights", "llama.cpp")
