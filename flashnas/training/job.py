"""One architecture trained for longer than in a search, with checkpoints."""

from __future__ import annotations

import math
import os
import platform
import signal
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
import yaml

import flashnas
from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError, ConfigError
from flashnas.base.system import ENDING
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.data.tokenizer import SpecialTokens, load_tokenizer, vocab_size
from flashnas.network.weights import save_model
from flashnas.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from flashnas.training.folder import (
    CHECKPOINTS,
    FINAL,
    LOG,
    StepLog,
    TrainFolder,
    TrainingRecord,
)
from flashnas.training.memory import out_of_memory_is_a_reason
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import (
    Start,
    Step,
    Trainer,
    check_job,
)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """The settings of one training.

    architecture: trained at its widths divided by recipe.width_factor. tokenizer: path of a
    tokenizer.json; None: one is trained on the corpus. A checkpoint is due after
    `checkpoint_every_tokens` or `checkpoint_every_s`, what comes first. start: None: weights are
    drawn, else the tokenizer is theirs. keep: the number of newest checkpoints that remain.
    command: the command line, for the record.
    """

    architecture: Architecture
    recipe: Recipe
    data: str
    out: Path
    tokenizer: str | None = None
    seed: int = 0
    resume: bool = False
    checkpoint_every_tokens: int | None = None
    checkpoint_every_s: float = 300.0
    start: Start | None = None
    keep: int = 2
    command: str = ""

    def __post_init__(self) -> None:
        recipe = self.recipe
        for spec in self.architecture.operators:
            spec.check_layer()
        if recipe.tokens < recipe.batch_tokens:
            raise ConfigError(
                f"tokens must be at least one batch ({recipe.batch_sequences} x"
                f" {recipe.sequence_tokens} = {recipe.batch_tokens:,}); got {recipe.tokens:,}"
            )
        if self.start is not None and recipe.width_factor != 1:
            raise ConfigError(
                f"recipe {recipe.name!r}: weights are trained at their own size, which needs"
                f" width_factor 1; got {recipe.width_factor}"
            )


class TrainProgress(Protocol):
    """What a training calls to show how far it is."""

    def note(self, text: str) -> None:
        """Show one line that remains."""

    def update(self, step: Step, of_steps: int) -> None:
        """Show the step that has just finished."""


def run_training(job: TrainJob, progress: TrainProgress) -> dict[str, Any]:
    """Train, or continue the training in `job.out`. On one CPU thread, an interrupted and
    continued training gives the same losses to the bit.

    Returns:
        The summary that `flashnas train --json` prints.

    Raises:
        CandidateError: for NaN, divergence and lack of memory, with a one-line reason.
        KeyboardInterrupt: after a checkpoint, on SIGINT or SIGTERM.
    """
    recorded = TrainingRecord.of(job.out / FINAL).question.get("recipe", {}).get("dtype")
    job = replace(job, recipe=job.recipe.with_dtype(recorded))
    dataset = _dataset(job)
    architecture, notes = _trained(job, dataset)
    notes += check_job(architecture, dataset, job.recipe)
    with _open(job, architecture, dataset) as folder:  # which keeps others from writing it
        for note in (*dataset.notes, *notes):
            progress.note(note)
        with out_of_memory_is_a_reason():
            trainer = Trainer(architecture, dataset, job.recipe, job.seed, job.start)
            resumed = _resume(job, trainer, folder, progress)
            progress.note(f"matrix products in {job.recipe.dtype}")
            _train(job, trainer, folder, progress)
            score = trainer.score()
        summary = {
            "run": str(job.out),
            "final": str(job.out / FINAL),
            "notation": architecture.notation,
            "hash": architecture.hash,
            "params": architecture.params,
            **score.to_dict(),
            "resumed_at_step": resumed,
        }
        recipe_text = yaml.safe_dump(job.recipe.to_dict(), sort_keys=False)
        save_model(
            job.out / FINAL,
            trainer.network,
            tokenizer_json=dataset.tokenizer_json,
            files={**SpecialTokens.beside(job.tokenizer).files, "recipe.yaml": recipe_text},
        )
        folder.write_config(finished=_now(), score=score.to_dict())
        return summary


# -- what is trained on what -----------------------------------------------------------------------


def _dataset(job: TrainJob) -> Dataset:
    needed = job.architecture.vocab
    if job.tokenizer is None:
        return prepare_dataset(job.data, replace(job.recipe, vocab=min(job.recipe.vocab, needed)))
    size = vocab_size(load_tokenizer(job.tokenizer))
    if size > needed:
        raise ConfigError(
            f"tokenizer {job.tokenizer}: has {size:,} tokens, but the architecture's vocabulary is"
            f" {needed:,}; take a smaller one, or write the architecture with vocab={size}"
        )
    return prepare_dataset(job.data, job.recipe, tokenizer=job.tokenizer)


def _trained(job: TrainJob, dataset: Dataset) -> tuple[Architecture, list[str]]:
    """The network that is trained, and notes. Its vocabulary is that of a tokenizer trained on the
    corpus, or its own."""
    own, of_text = job.architecture.vocab, dataset.vocab
    architecture = job.recipe.proxy_of(job.architecture, own if job.tokenizer else of_text)
    if own == of_text:
        return architecture, []
    if job.tokenizer is None:
        return architecture, [
            f"vocabulary {of_text:,}, of the tokenizer trained on the corpus, in place of"
            f" {own:,}; give --tokenizer to keep the architecture's"
        ]
    return architecture, [
        f"the tokenizer has {of_text:,} tokens: {own - of_text:,} of the"
        f" architecture's {own:,} are never seen"
    ]


def _open(job: TrainJob, architecture: Architecture, dataset: Dataset) -> TrainFolder:
    question = {
        "architecture": architecture.notation,
        "recipe": job.recipe.to_dict(),
        "seed": job.seed,
        "corpus": dataset.source,
        "tokenizer": job.tokenizer,
        "corpus_digest": dataset.digest,
        **({"start": job.start.sha256} if job.start else {}),
    }
    packages = {name: version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")}
    facts = {
        "flashnas": flashnas.__version__,
        "name": job.out.name,
        "command": job.command,
        "started": _now(),
        "finished": None,
        "architecture": architecture.to_dict(),
        "hash": architecture.hash,
        "params": architecture.params,
        "corpus_notes": list(dataset.notes),
        "vocabulary": dataset.vocab,
        "host": {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **packages,
        },
    }
    return TrainFolder(job.out, question=question, facts=facts, resume=job.resume)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


# -- training --------------------------------------------------------------------------------------


def _resume(
    job: TrainJob, trainer: Trainer, folder: TrainFolder, progress: TrainProgress
) -> int | None:
    path, notes = folder.newest_checkpoint()
    for note in notes:
        progress.note(note)
    if path is None:
        return None
    path = path.resolve()
    load_checkpoint(path, trainer)
    progress.note(f"continuing after step {trainer.done:,} of {job.recipe.steps:,}, from {path}")
    return trainer.done


def _train(job: TrainJob, trainer: Trainer, folder: TrainFolder, progress: TrainProgress) -> None:
    recipe, last_s, last_tokens = job.recipe, time.monotonic(), trainer.tokens
    tokenizer_json, micro_batch = trainer.dataset.tokenizer_json, trainer.full_micro_batch
    files = SpecialTokens.beside(job.tokenizer).files
    log = StepLog(folder.path / LOG, trainer.done)
    try:
        with _Signals() as signals:
            for step in trainer.steps():
                progress.update(step, recipe.steps)
                if trainer.micro_batch < micro_batch:
                    progress.note(
                        f"for lack of memory, {trainer.micro_batch} sequences per backward pass in"
                        f" place of {micro_batch}, which changes rounding alone"
                    )
                    micro_batch = trainer.micro_batch
                    folder.write_config(micro_batch_sequences=micro_batch)
                due = (
                    time.monotonic() - last_s >= job.checkpoint_every_s
                    or step.tokens - last_tokens >= (job.checkpoint_every_tokens or math.inf)
                )
                came = signals.came
                log.add(step, recipe.batch_tokens)
                if due or came or step.number == recipe.steps:
                    log.sync()
                    save_checkpoint(job.out / CHECKPOINTS, trainer, tokenizer_json, job.keep, files)
                    last_s, last_tokens = time.monotonic(), step.tokens
                if came:
                    raise KeyboardInterrupt
    except CandidateError as error:
        kept = checkpoints(folder.checkpoints)[:1]
        raise CandidateError(
            f"{error}; the last checkpoint is {kept[0]}" if kept else str(error)
        ) from None
    finally:
        log.close()


class _Signals:
    """Records signals, so that the step is finished and saved first; a second one ends the process.
    What the caller ignores, as under nohup, stays ignored."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> _Signals:
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, *ENDING)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.came:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.came = True
