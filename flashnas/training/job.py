"""`flashnas train`: one architecture, trained longer, with checkpoints, by one or several processes."""

from __future__ import annotations

import dataclasses
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
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.data.tokenizer import load_tokenizer, vocab_size
from flashnas.network.weights import save_model
from flashnas.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from flashnas.training.distributed import Ranks
from flashnas.training.folder import FINAL, LOG, StepLog, TrainFolder
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Step, Trainer, check_job, out_of_memory_is_a_reason


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What was asked. `architecture` is trained at 1 / recipe.width_factor of its widths.

    positions: longest sequence, meta tokens included, that the architecture's source allows; None: no limit known.
    A checkpoint is written every `checkpoint_every_tokens` tokens, or, where that is None, `checkpoint_every_s`
    seconds, and at the end; the newest `keep` stay.
    """

    architecture: Architecture
    recipe: Recipe
    data: str
    out: Path
    tokenizer: str | None = None
    seed: int = 0
    resume: bool = False
    positions: int | None = None
    checkpoint_every_tokens: int | None = None
    checkpoint_every_s: float = 300.0
    keep: int = 2
    command: str = ""

    def __post_init__(self) -> None:
        recipe = self.recipe
        if recipe.tokens < recipe.batch_tokens:
            raise ConfigError(f"tokens must be at least one batch ({recipe.batch_sequences} x {recipe.sequence_tokens}"
                              f" = {recipe.batch_tokens:,}); got {recipe.tokens:,}")
        for name, least in (("checkpoint_every_tokens", 1), ("checkpoint_every_s", 0), ("keep", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}; got {value}")
        tokens = recipe.sequence_tokens + self.architecture.meta_tokens
        if self.positions is not None and tokens > self.positions:
            raise ConfigError(f"recipe.sequence_tokens {recipe.sequence_tokens}"
                              + (f" and {self.architecture.meta_tokens} meta tokens" if self.architecture.meta_tokens
                                 else "")
                              + f" are beyond the rotary range of the configuration: max_position_embeddings is"
                                f" {self.positions:,}")


class TrainProgress(Protocol):
    def note(self, text: str) -> None: ...
    def update(self, step: Step, of_steps: int) -> None: ...


def run_training(job: TrainJob, ranks: Ranks, progress: TrainProgress) -> dict[str, Any]:
    """Train, or continue what is in `job.out`; returns the summary.

    On one CPU thread an interrupted and continued training gives the same losses to the bit as one that was not.
    Raises CandidateError with a one-line reason for NaN, divergence and lack of memory, other FlashnasErrors for a
    wrong job, KeyboardInterrupt after a checkpoint when SIGINT or SIGTERM came. Only the first process writes.
    """
    ranks.agreed(lambda: ranks.check(job.recipe))
    dataset = ranks.one_after_the_first(lambda: _dataset(job))
    ranks.agreed(lambda: _same_text(dataset, ranks.first_says(dataset.digest)))
    architecture, notes = _trained(job, dataset)
    ranks.agreed(lambda: check_job(architecture, dataset, job.recipe))
    folder = ranks.agreed(lambda: _open(job, architecture, dataset, ranks) if ranks.first else None)
    for note in (*dataset.notes, *notes):
        progress.note(note)
    with out_of_memory_is_a_reason():
        trainer = ranks.agreed(lambda: Trainer(architecture, dataset, job.recipe, job.seed, ranks))
        resumed = _resume(job, trainer, folder, ranks, progress)
        _train(job, trainer, folder, ranks, progress)
        score = trainer.score()
    summary = {"run": str(job.out), "final": str(job.out / FINAL), "notation": architecture.notation,
               "hash": architecture.hash, "params": architecture.params, **score.to_dict(),
               "resumed_at_step": resumed, "processes": ranks.size}
    if folder is not None:
        save_model(job.out / FINAL, trainer.network, tokenizer_json=dataset.tokenizer_json,
                   files={"recipe.yaml": yaml.safe_dump(job.recipe.to_dict(), sort_keys=False)})
        folder.write_config(finished=_now(), score=score.to_dict())
    ranks.agreed(lambda: None)  # nobody leaves before the weights are written
    return summary


# -- what is trained on what -------------------------------------------------------------------------------------


def _dataset(job: TrainJob) -> Dataset:
    wanted = job.architecture.vocab
    if job.tokenizer is None:
        return prepare_dataset(job.data, replace(job.recipe, vocab=min(job.recipe.vocab, wanted)))
    found = vocab_size(load_tokenizer(job.tokenizer))
    if found > wanted:
        raise ConfigError(f"tokenizer {job.tokenizer}: has {found:,} tokens, but the architecture's vocabulary is"
                          f" {wanted:,}; take a smaller one, or write the architecture with vocab={found}")
    return prepare_dataset(job.data, job.recipe, tokenizer=job.tokenizer)


def _trained(job: TrainJob, dataset: Dataset) -> tuple[Architecture, list[str]]:
    """The network that is trained: its vocabulary is that of the tokenizer trained on the corpus, or the
    architecture's own where a tokenizer is given."""
    own, found = job.architecture.vocab, dataset.vocab
    architecture = job.recipe.proxy_of(job.architecture, own if job.tokenizer else found)
    if own == found:
        return architecture, []
    if job.tokenizer is None:
        return architecture, [f"vocabulary {found:,}, of the tokenizer trained on the corpus, in place of {own:,};"
                              " give --tokenizer to keep the architecture's"]
    return architecture, [f"the tokenizer has {found:,} tokens: {own - found:,} of the architecture's {own:,}"
                          " are never seen"]


def _same_text(dataset: Dataset, digest: str) -> None:
    if dataset.digest != digest:
        raise ConfigError(f"corpus {dataset.source!r}: its digest is {dataset.digest} here and {digest} on the first"
                          " process; all processes need the same text")


def _open(job: TrainJob, architecture: Architecture, dataset: Dataset, ranks: Ranks) -> TrainFolder:
    question = {"architecture": architecture.notation, "recipe": job.recipe.to_dict(), "seed": job.seed,
                "corpus": dataset.source, "tokenizer": job.tokenizer, "corpus_digest": dataset.digest}
    packages = {name: version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")}
    facts = {"flashnas": flashnas.__version__, "name": job.out.name, "command": job.command,
             "started": _now(), "finished": None, "architecture": architecture.to_dict(), "hash": architecture.hash,
             "params": architecture.params, "corpus_notes": list(dataset.notes), "vocabulary": dataset.vocab,
             "host": {"cpu": platform.processor() or platform.machine(), "processes": ranks.size,
                      "threads": torch.get_num_threads(), "python": platform.python_version(), **packages}}
    return TrainFolder(job.out, question=question, facts=facts, resume=job.resume)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


# -- training ----------------------------------------------------------------------------------------------------


def _resume(job: TrainJob, trainer: Trainer, folder: TrainFolder | None, ranks: Ranks,
            progress: TrainProgress) -> int | None:
    """Load the newest whole checkpoint, if there is one; returns its step."""
    path, notes = ranks.agreed(lambda: folder.newest_checkpoint() if folder else (None, []))
    for note in notes:
        progress.note(note)
    name = ranks.first_says(str(path.resolve()) if path else "")
    if not name:
        return None
    ranks.agreed(lambda: load_checkpoint(Path(name), trainer))
    progress.note(f"continuing after step {trainer.done:,} of {job.recipe.steps:,}, from {name}")
    return trainer.done


def _train(job: TrainJob, trainer: Trainer, folder: TrainFolder | None, ranks: Ranks,
           progress: TrainProgress) -> None:
    recipe, last_s, last_tokens = job.recipe, time.monotonic(), trainer.done * job.recipe.batch_tokens
    tokenizer_json = trainer.dataset.tokenizer_json
    log = StepLog(folder.path / LOG, trainer.done) if folder else None
    try:
        with _Signals() as signals:
            for step in trainer.steps():
                progress.update(step, recipe.steps)
                stop = ranks.total(float(signals.came))[0] > 0
                if folder is None or log is None:
                    if stop:
                        raise SystemExit(130)
                    continue
                log.add(step, recipe.batch_tokens)
                due = (time.monotonic() - last_s >= job.checkpoint_every_s if job.checkpoint_every_tokens is None
                       else step.tokens - last_tokens >= job.checkpoint_every_tokens)
                if due or stop or step.number == recipe.steps:
                    log.sync()
                    save_checkpoint(folder.checkpoints, trainer, tokenizer_json, job.keep)
                    last_s, last_tokens = time.monotonic(), step.tokens
                if stop:
                    raise KeyboardInterrupt
    except CandidateError as error:
        kept = checkpoints(folder.checkpoints)[:1] if folder else []
        raise CandidateError(f"{error}; the last checkpoint is {kept[0]}" if kept else str(error)) from None
    finally:
        if log:
            log.close()


class _Signals:
    """Notes SIGINT and SIGTERM, so that a step is finished and saved first; a second one ends at once."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.came:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.came = True


def with_overrides(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with what was given on the command line in place of its own; None: not given."""
    return dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
