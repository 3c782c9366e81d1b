"""One short training run: an architecture at proxy scale, a dataset, a recipe and a seed give a ProxyScore."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

import torch
from torch import nn

from flashnas.architecture import Architecture
from flashnas.errors import CandidateError, ConfigError
from flashnas.model import HybridLM
from flashnas.proxy.dataset import Dataset
from flashnas.proxy.optimizer import Optimizers, initialise
from flashnas.proxy.recipe import Recipe
from flashnas.proxy.score import ProxyScore

Progress = Callable[[int, float], None]  # training tokens seen, training loss of the step

_DIVERGED_NATS = 1.0  # above both guessing, ln(vocab), and the start: the run counts as diverged
_EVALUATE_TOGETHER = 8      # validation sequences per forward pass


def train(architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int,
          progress: Progress | None = None, deadline_s: float | None = None) -> ProxyScore:
    """Train a proxy network (already scaled, see `Recipe.proxy_of`) and score it on held-out text.

    The same arguments on one CPU thread give the same score to the bit. Raises CandidateError with a one-line reason
    for NaN, divergence, lack of memory and when `deadline_s` seconds are over; CorpusError if the text is too short.
    """
    return train_network(architecture, dataset, recipe, seed, progress, deadline_s)[1]


def train_network(architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int,
                  progress: Progress | None = None, deadline_s: float | None = None) -> tuple[HybridLM, ProxyScore]:
    """`train`, with the trained network (float32, on the recipe's device)."""
    dataset.check_length(recipe)
    if architecture.vocab < dataset.vocab:
        raise ConfigError(f"architecture: vocab must be at least the tokenizer's {dataset.vocab};"
                          f" got {architecture.vocab}")
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"recipe {recipe.name!r} trains on cuda, and torch finds no CUDA device;"
                          " take the recipe 'cpu'")
    try:
        return _Run(architecture, dataset, recipe, seed, progress, deadline_s).train()
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator raises a bare one
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise CandidateError("out of memory while training") from None
        raise


class _Run:
    def __init__(self, architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int,
                 progress: Progress | None, deadline_s: float | None) -> None:
        self.started = time.perf_counter()
        self.architecture, self.dataset, self.recipe, self.seed = architecture, dataset, recipe, seed
        self.progress, self.deadline_s = progress, deadline_s
        self.device = torch.device(recipe.device)
        torch.manual_seed(seed)
        self.network = HybridLM(architecture)
        initialise(self.network, recipe)
        self.network.to(self.device)
        self.optimizers = Optimizers(self.network, architecture, recipe)
        self.batches = dataset.batches(recipe, seed)
        self.start_loss = math.inf  # of the first batch, before any update

    def train(self) -> tuple[HybridLM, ProxyScore]:
        recipe = self.recipe
        points = {round(recipe.steps * (i + 1) / recipe.curve_points) for i in range(recipe.curve_points)}
        curve, training_s = [], 0.0
        for step in range(recipe.steps):
            step_started = time.perf_counter()
            loss = self._step(step)
            self.start_loss = loss if step == 0 else self.start_loss
            training_s += time.perf_counter() - step_started
            seen = (step + 1) * recipe.batch_tokens
            if self.progress:
                self.progress(seen, loss)
            if self.deadline_s is not None and time.perf_counter() - self.started > self.deadline_s:
                raise CandidateError(f"time limit: {self.deadline_s:g} s were over after {seen:,} of"
                                     f" {recipe.steps * recipe.batch_tokens:,} tokens")
            if step + 1 in points:
                last = step + 1 == recipe.steps
                validation = self.validate(recipe.validation_tokens if last else recipe.curve_tokens)
                self._check(validation, "validation", seen)
                curve.append((seen, validation))
        final = curve[-1][1]
        score = ProxyScore(loss=final, bits_per_byte=self.dataset.bits_per_byte(final), curve=tuple(curve),
                           tokens=curve[-1][0], tokens_per_s=curve[-1][0] / training_s,
                           seconds=time.perf_counter() - self.started, seed=self.seed,
                           proxy_params=self.architecture.params)
        return self.network, score

    def _step(self, step: int) -> float:
        """One optimizer step; returns the batch's mean loss in nats per token."""
        recipe = self.recipe
        batch_BT = torch.from_numpy(next(self.batches)).to(self.device)
        micro = batch_BT.split(recipe.micro_batch_sequences or recipe.batch_sequences)
        total = 0.0
        for part_BT in micro:
            with self._autocast():
                loss = self.network.loss(part_BT[:, :-1], part_BT[:, 1:]) / len(micro)
            loss.backward()
            total += loss.item()
        seen = step * recipe.batch_tokens
        if not math.isfinite(total):
            raise CandidateError(f"training loss became {total} after {seen:,} tokens")
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip or math.inf).item()
        if not math.isfinite(norm):
            raise CandidateError(f"gradient norm became {norm} after {seen:,} tokens")
        self.optimizers.step(step)
        return total

    @torch.no_grad()
    def validate(self, tokens: int) -> float:
        """Mean loss in nats per token over about `tokens` validation tokens, the same ones for every candidate."""
        rows_NT = torch.from_numpy(self.dataset.validation_slice(self.recipe, tokens))
        self.network.eval()
        total = 0.0
        for part_BT in rows_NT.split(_EVALUATE_TOGETHER):
            part_BT = part_BT.to(self.device)
            with self._autocast():
                total += self.network.loss(part_BT[:, :-1], part_BT[:, 1:]).item() * len(part_BT)
        self.network.train()
        return total / len(rows_NT)

    def _check(self, loss: float, what: str, seen: int) -> None:
        guessing = math.log(self.architecture.vocab)  # a tied head with a large embedding starts far above it
        if not math.isfinite(loss):
            raise CandidateError(f"{what} loss became {loss} after {seen:,} tokens")
        if loss > max(guessing, self.start_loss) + _DIVERGED_NATS:
            raise CandidateError(f"diverged: {what} loss {loss:.2f} after {seen:,} tokens is worse than at the start"
                                 f" ({self.start_loss:.2f}) and than guessing ({guessing:.2f})")

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.recipe.dtype == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()
