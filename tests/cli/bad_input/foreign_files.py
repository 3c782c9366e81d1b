"""Files that are not what a reader expects to open, at every reader of a file that a stranger may
have written.

FIFOs, links, and more levels of nesting than any file has. Without a limit these end in a
traceback, write to another file or never end. docs/security.md says what is
promised.
"""

import os
from pathlib import Path

from bad_input.words import (
    ARCH,
    PRECIOUS,
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
)


def replaced_by(make):
    def damage(file):
        def build(paths):
            path = paths["tmp"] / file
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)

        return build

    return damage


# tests/base/test_foreign.py has the other ways; each reader of another file would hang here
FIFO = {"fifo": replaced_by(os.mkfifo)}
LINK = {"link": replaced_by(lambda path: path.symlink_to(path.parents[1] / PRECIOUS))}
TEXT = {**FIFO, "nested": replaced_by(lambda path: path.write_text("[" * 100_000 + "\n"))}


FINAL = export(source="{tmp}/training/final")
for name, words, file, damages in (
    ("config-json", estimate("{tmp}/c.json"), "c.json", TEXT),
    ("config-json-of-a-folder", estimate("{tmp}/m"), "m/config.json", FIFO),
    ("architecture", estimate("{tmp}/a.yaml"), "a.yaml", TEXT),
    ("workload", estimate(ARCH, "--workload", "{tmp}/w.yaml"), "w.yaml", FIFO),
    ("table-meta", estimate(ARCH, "--table", "{tmp}/table"), "table/meta.yaml", TEXT),
    ("table-device", estimate(ARCH, "--table", "{tmp}/table"), "table/device.yaml", FIFO),
    ("table-rows", estimate(ARCH, "--table", "{tmp}/table"), "table/operator_decode.parquet", FIFO),
    ("config", search("--config", "{tmp}/c.yaml"), "c.yaml", TEXT),
    ("recipe", search("--recipe", "{tmp}/r.yaml"), "r.yaml", FIFO),
    ("space", profile("--space", "{tmp}/s.yaml"), "s.yaml", FIFO),
    ("tokenizer", train("--tokenizer", "{tmp}/tk.json"), "tk.json", TEXT),
    ("corpus-text", train("--data", "{tmp}/t.txt"), "t.txt", FIFO),
    ("corpus-jsonl", train("--data", "{tmp}/t.jsonl"), "t.jsonl", FIFO),
    ("corpus-parquet", train("--data", "{tmp}/t.parquet"), "t.parquet", FIFO),
    ("weights", FINAL, "training/final/model.safetensors", FIFO),
    ("weights-architecture", FINAL, "training/final/architecture.yaml", FIFO),
    ("weights-tokenizer", FINAL, "training/final/tokenizer.json", TEXT),
    ("evidence", estimate(ARCH, "--evidence", "{tmp}/e.csv"), "e.csv", FIFO),
    ("run-yaml", ["report", "{tmp}/run"], "run/run.yaml", FIFO),
    ("run-front", ["report", "{tmp}/run"], "run/pareto/01.yaml", FIFO),
    ("run-trials", ["report", "{tmp}/run"], "run/trials.parquet", FIFO),
    ("run-journal", again(), "run/study.journal", {**TEXT, **LINK}),
    ("training-log", train_on(), "training/log.csv", {**FIFO, **LINK}),
    ("training-config", train_on(), "training/train.yaml", FIFO),
):
    copies = (
        [copied(file.partition("/")[0])]
        if file.partition("/")[0] in ("table", "run", "training")
        else []
    )
    said = Path(file).name
    for kind, damage in damages.items():
        got = ("got a FIFO",) if kind == "fifo" else ()
        case(
            f"foreign-{name}-{kind}",
            words,
            said,
            *got,
            files=[folder(".", PRECIOUS), *copies, damage(file)],
        )
