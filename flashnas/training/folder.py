"""The folder of one `flashnas train`. One process writes it.

train.yaml      the settings, versions and, at the end, the score
log.csv         one row per step
checkpoints/    see checkpoint.py
final/          weights, architecture, tokenizer and recipe of the finished training
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypedDict

import yaml

from flashnas.base.documents import convert, read_yaml
from flashnas.base.errors import RunError, WeightsError
from flashnas.base.foreign import (
    MAX_JOURNAL_MB,
    check_inside,
    check_regular,
    complete_lines,
    read_text,
)
from flashnas.base.system import hold_lock, write_atomic
from flashnas.base.text import difference, flat
from flashnas.network.weights import ARCHITECTURE
from flashnas.training.checkpoint import check_checkpoint, checkpoints, remove_unfinished
from flashnas.training.recipe import ROUNDING
from flashnas.training.trainer import Step

CONFIG, LOG, CHECKPOINTS, FINAL, LOCK = "train.yaml", "log.csv", "checkpoints", "final", ".lock"
COLUMNS = (
    "step",
    "tokens",
    "loss",
    "validation_loss",
    "gradient_norm",
    "lr_factor",
    "tokens_per_s",
)


class _Question(TypedDict, total=False):
    seed: int
    corpus: str
    corpus_digest: str
    recipe: dict[str, Any]


class _Score(TypedDict):
    loss: float
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What train.yaml says of weights: question as `TrainFolder` has it; score: None before the
    end.
    """

    question: _Question = field(default_factory=_Question)
    score: _Score | None = None

    @classmethod
    def of(cls, weights: Path) -> TrainingRecord:
        """Of a folder of weights, `final` or a checkpoint; empty if it lies in no training."""
        weights = weights.absolute()
        path = (
            weights.parents[1] if weights.parent.name == CHECKPOINTS else weights.parent
        ) / CONFIG
        if (weights.name != FINAL and weights.parent.name != CHECKPOINTS) or not path.is_file():
            return cls()
        record = convert(read_yaml(path), cls, error=RunError)
        return record if weights.name == FINAL else replace(record, score=None)

    @property
    def sequence_tokens(self) -> int | None:
        """Length of its sequences; None where it is not recorded."""
        tokens = self.question.get("recipe", {}).get("sequence_tokens")
        return tokens if isinstance(tokens, int) and tokens > 0 else None


class TrainFolder:
    """The folder, open for writing by one process at a time."""

    def __init__(
        self, path: Path, *, question: dict[str, Any], facts: dict[str, Any], resume: bool
    ) -> None:
        """Create the folder, or continue it.

        Args:
            question: what determines the result; a continued training must have the same.
            facts: further entries of train.yaml; `started` stays that of the first call.

        Raises:
            RunError: the folder exists, another process writes it, or its question is another one.
        """
        self.path, self.checkpoints = path, path / CHECKPOINTS
        self.config = _recorded(path, question, resume)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = hold_lock(
            path / LOCK, RunError(f"{path}: another process is writing this training")
        )
        # again: another process may have made a training meanwhile
        self.config = _recorded(path, question, resume)
        self._check_parts()
        remove_unfinished(self.checkpoints)
        started = self.config.get("started") or facts["started"]
        self.write_config(**{**facts, "started": started, "question": question})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _check_parts(self) -> None:
        check_inside(self.path, self.path.rglob("*"), RunError)
        for folder in (self.checkpoints, self.path / FINAL):
            if folder.exists() and not folder.is_dir():
                raise RunError(f"{folder}: is a file, and must be a folder; move the file away")
        final = self.path / FINAL
        if final.exists() and any(final.iterdir()) and not (final / ARCHITECTURE).is_file():
            raise RunError(
                f"{final}: exists and does not hold weights (it has no {ARCHITECTURE}); move it"
                f" away"
            )
        for _ in _rows(self.path / LOG):
            pass

    def write_config(self, **updates: Any) -> None:
        """Replace train.yaml with these entries updated."""
        self.config.update(updates)
        text = yaml.safe_dump(json.loads(json.dumps(self.config)), sort_keys=False, width=120)
        write_atomic(self.path / CONFIG, text)

    def newest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The newest undamaged checkpoint, and notes on newer damaged ones; WeightsError if all are
        damaged.
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
            raise WeightsError(
                f"{first}; no earlier checkpoint is undamaged; delete {self.checkpoints}/ to"
                " train again from the start"
            )
        return None, notes


class StepLog:
    """log.csv: one row per step, written as soon as the step is taken."""

    def __init__(self, path: Path, done: int) -> None:
        """Continue after `done` steps, without later rows and a torn last one. RunError with the
        line of a damaged row."""
        lines = [",".join(COLUMNS)]
        lines += [line for line in _rows(path) if int(line.partition(",")[0]) <= done]
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def add(self, step: Step, batch_tokens: int) -> None:
        """Write the row of a step of `batch_tokens` tokens."""
        values = (
            step.number,
            step.tokens,
            step.loss,
            "" if step.validation is None else step.validation,
            step.gradient_norm,
            f"{step.lr_factor:.6g}",
            f"{batch_tokens / step.seconds:.1f}",
        )
        self._file.write(",".join(map(str, values)) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until the rows are on the disk, before a checkpoint that follows them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows(path: Path) -> list[str]:
    """The rows of a log; none without a file. RunError for what a killed process cannot have
    left.
    """
    try:
        if not check_regular(path, RunError, max_mb=MAX_JOURNAL_MB, write=True).exists():
            return []
        text = read_text(path, RunError, max_mb=MAX_JOURNAL_MB)
    except RunError as error:
        raise _damaged(path, str(error).removeprefix(f"{path}: ")) from None
    header, *rows = complete_lines(text).splitlines() or [""]
    if header != ",".join(COLUMNS):
        raise _damaged(path, f"line 1 must be {','.join(COLUMNS)!r}; got {header!r:.80}")
    for number, row in enumerate(rows, start=2):
        step, *others = row.split(",")
        if len(others) != len(COLUMNS) - 1 or not step.isdecimal():
            raise _damaged(
                path,
                f"line {number} must hold the {len(COLUMNS)} values of one step; got {row!r:.80}",
            )
    return rows


def _recorded(path: Path, question: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """train.yaml of a training that may be continued, or nothing where a new one may be made; else
    RunError.
    """
    config = path / CONFIG
    if not config.exists():
        # a lock, and a part of train.yaml, are what a kill leaves
        if path.exists() and (
            not path.is_dir()
            or any(not place.name.startswith((LOCK, f".{CONFIG}.")) for place in path.iterdir())
        ):
            raise RunError(
                f"{path}: exists and is not the folder of a training (it has no {CONFIG});"
                " choose another --out"
            )
        return {}
    entries: dict[str, Any] = json.loads(json.dumps(read_yaml(config)))
    recorded = entries.get("question") or {}
    if not isinstance(recorded, dict):
        raise RunError(f"{config}: question must be a mapping; got {recorded!r:.80}")
    if other := difference(_settled(recorded), _settled(question)):
        raise RunError(f"{config}: {other}; choose another --out or the same question")
    if not resume:
        raise RunError(
            f"{path}: holds a training already; continue it with --resume or choose another --out"
        )
    return entries


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path}: is damaged: {reason}; delete it to continue without the losses of earlier steps"
    )


def _settled(question: Mapping[str, Any]) -> dict[str, Any]:
    """By names with dots, without what changes rounding alone."""
    values = flat(json.loads(json.dumps(question)), "question")
    return {name: value for name, value in values if name.rpartition(".")[2] not in ROUNDING}
