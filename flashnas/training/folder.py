"""The folder of one `flashnas train`: train.yaml (what was asked, all versions), log.csv (every step), checkpoints/,
final/ (weights, architecture, tokenizer, recipe). One process writes it."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flashnas.base.errors import RunError
from flashnas.base.yaml import read_yaml
from flashnas.network.weights import WeightsError, write_text
from flashnas.training.checkpoint import check_checkpoint, checkpoints, remove_unfinished
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Step

CONFIG, LOG, CHECKPOINTS, FINAL = "train.yaml", "log.csv", "checkpoints", "final"
COLUMNS = ("step", "tokens", "loss", "validation_loss", "gradient_norm", "lr_factor", "tokens_per_s")


class TrainFolder:
    """Open for writing by one process at a time."""

    def __init__(self, path: Path, *, question: dict[str, Any], facts: dict[str, Any], resume: bool) -> None:
        """Create the folder, or continue it; raises RunError when it exists, is busy or answers another question."""
        self.path, self.checkpoints = path, path / CHECKPOINTS
        config = path / CONFIG
        if config.exists():
            self.config: dict[str, Any] = json.loads(json.dumps(read_yaml(config)))
            _check_same(config, self.config.get("question") or {}, question)
            if not resume:
                raise RunError(f"{path}: holds a training already; continue it with --resume or choose another --out")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path}: exists and is no training's folder (it has no {CONFIG}); choose another --out")
        else:
            self.config = {}
        path.mkdir(parents=True, exist_ok=True)
        self._lock = open(path / ".lock", "w")  # noqa: SIM115 - held for the life of the training
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{path}: another process is writing this training") from None
        remove_unfinished(self.checkpoints)
        started = self.config.get("started") or facts["started"]
        self.write_config(**{**facts, "started": started, "question": question})

    def write_config(self, **updates: Any) -> None:
        """Replace train.yaml with these entries updated."""
        self.config.update(updates)
        aside = self.path / f".{CONFIG}.part"
        write_text(aside, yaml.safe_dump(json.loads(json.dumps(self.config)), sort_keys=False, width=120))
        os.replace(aside, self.path / CONFIG)

    def newest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """(the newest undamaged checkpoint, notes on newer damaged ones); raises WeightsError if all are damaged.

        An older one serves as well: the steps between are trained again, with the same result.
        """
        notes: list[str] = []
        first: WeightsError | None = None
        for path in checkpoints(self.checkpoints):
            try:
                check_checkpoint(path)
                return path, notes
            except WeightsError as error:
                first = first or error
                notes.append(f"{error}; continuing from an earlier checkpoint")
        if first is not None:
            raise WeightsError(f"{first}; no earlier checkpoint is whole; delete {self.checkpoints}/ to train again"
                               " from the start")
        return None, notes


class StepLog:
    """log.csv: one row per step, on the disk's way as soon as it is taken."""

    def __init__(self, path: Path, done: int) -> None:
        """Continue after `done` steps: later rows, and a row that a killed process left unfinished, are dropped."""
        kept = [row for row in _rows(path) if int(row["step"]) <= done] if path.exists() else []
        aside = path.with_name(f".{path.name}.part")
        with open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        os.replace(aside, path)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, step: Step, batch_tokens: int) -> None:
        validation = "" if step.validation is None else repr(step.validation)
        self._writer.writerow([step.number, step.tokens, repr(step.loss), validation, repr(step.gradient_norm),
                               f"{step.lr_factor:.6g}", f"{batch_tokens / step.seconds:.1f}"])
        self._file.flush()

    def sync(self) -> None:
        """Put the rows on the disk, as before a checkpoint that counts on them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        text = file.read()
    for row in csv.DictReader(text[:text.rfind("\n") + 1].splitlines()):
        if row.get("step", "").isdigit() and row.get("tokens_per_s"):
            yield {name: row[name] for name in COLUMNS}


def _check_same(path: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    known = dict(recorded)
    if isinstance(known.get("recipe"), dict):
        known["recipe"] = Recipe.from_dict(known["recipe"]).to_dict()  # fields younger than the record
    before, now = (dict(_flat(json.loads(json.dumps(question)))) for question in (known, asked))
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key):
            raise RunError(f"{path}: question.{key} is {before.get(key)!r}, but this training asks {now.get(key)!r};"
                           " choose another --out or the same question")


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
