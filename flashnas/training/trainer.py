"""Training one network: an architecture, a dataset, a recipe and a seed give a ProxyScore."""

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError, ConfigError, DeviceError
from flashnas.data.dataset import Dataset
from flashnas.network.model import HybridLM
from flashnas.network.precision import autocast
from flashnas.operators import OperatorSpec
from flashnas.operators.backends.core import choose_backend, cores_of, running
from flashnas.operators.layer import build_layer
from flashnas.training import memory
from flashnas.training.balance import ExpertBalance
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.recipe import Recipe

TOKEN_BY_TOKEN = ("selective_scan",)  # recurrences whose parallel form in torch is a loop on CUDA

# above both guessing, ln(vocab), and the first loss: the training has diverged
_DIVERGED_NATS = 1.0
_EVALUATE_TOGETHER = 8  # validation sequences per forward pass


@dataclass(frozen=True, kw_only=True)
class ProxyScore:
    """The score of one trained network; lower is better.

    loss: nats per token over the validation slice, after the last step. bits_per_byte: the same
    loss per byte of text; the ends of documents count here, and not in those of `eval`. curve:
    (training tokens, validation loss); points before the last use a part of the slice.
    tokens_per_s: of training steps, without validation. seconds: with it. seed: of start and order
    of the text. proxy_params: of the trained network. backends: what trained each kind of operator;
    validation may take a library whose backward pass alone is wrong.
    """

    loss: float
    bits_per_byte: float
    curve: tuple[tuple[int, float], ...]
    tokens: int
    tokens_per_s: float
    seconds: float
    seed: int
    proxy_params: int
    backends: dict[str, str] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**dataclasses.asdict(self), "curve": [list(point) for point in self.curve]}


def train(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
) -> ProxyScore:
    """Train a network and score it on held-out text. The same arguments on one CPU thread give the
    same score to the bit.

    Args:
        architecture: the network, already scaled (`Recipe.proxy_of`).

    Raises:
        CandidateError: for NaN, divergence and lack of memory, with a one-line reason.
        CorpusError: if the text is too short.
        ConfigError: if vocabulary, length or device do not fit.
    """
    check_job(architecture, dataset, recipe)
    with memory.out_of_memory_is_a_reason():
        trainer = Trainer(architecture, dataset, recipe, seed)
        for _ in trainer.steps():
            pass
        return trainer.score()


def check_job(architecture: Architecture, dataset: Dataset, recipe: Recipe) -> list[str]:
    """Raises CorpusError for text that is too short, ConfigError for a vocabulary, length or device
    that is wrong; returns the lines of `check_kernels`."""
    dataset.check_length(recipe)
    if architecture.vocab < dataset.vocab:
        raise ConfigError(
            f"architecture: vocab must be at least the tokenizer's {dataset.vocab};"
            f" got {architecture.vocab}"
        )
    check_device(recipe)
    return check_kernels(dict.fromkeys(architecture.operators), architecture.hidden, recipe)


def check_device(recipe: Recipe) -> None:
    """Raises DeviceError for a recipe whose device this machine does not have."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"recipe {recipe.name!r} trains on cuda, and torch finds no CUDA device;"
            " take the recipe 'cpu'"
        )


def check_kernels(specs: Iterable[OperatorSpec], hidden: int, recipe: Recipe) -> list[str]:
    """Raises DeviceError for an operator that torch would compute token by token on CUDA, though
    nobody chose torch: it would take hundreds of times as long as others. Returns a line for each
    operator, at this width, whose recurrence torch would compute in chunks and in float32 (5 to 10
    times as long as by a kernel, which nobody has measured)."""
    notes: dict[str, None] = {}
    if recipe.device != "cuda" or recipe.backend == "torch":
        return []
    dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32
    for spec in specs:
        with torch.device("meta"):
            layer = build_layer(spec, hidden)
            choose_backend(layer, recipe.backend)
        for core in cores_of(layer):
            if core.kernels("cuda", dtype, gradients=True).name != "torch":
                continue
            rejected = core.rejected("cuda", dtype, gradients=True)
            reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
            notes[
                f"recipe {recipe.name!r}: operator {spec.name} will be trained by torch in float32,"
                f" several times as slowly as by a kernel ({reasons or 'no library has it'})"
            ] = None
            if core.kind in TOKEN_BY_TOKEN:
                raise DeviceError(
                    f"recipe {recipe.name!r}: operator {spec.name} would be trained token by token"
                    f" by torch ({reasons or 'no library has it'}); install mamba-ssm built with"
                    " MAMBA_KEEP_CUDA_BUILD=TRUE, leave the operator out, or set backend: torch"
                )
    return list(notes)


def visible_devices() -> tuple[str, ...]:
    """The GPUs of this process, each as CUDA_VISIBLE_DEVICES names it for another process."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(str(number) for number in range(torch.cuda.device_count()))
    return tuple(name.strip() for name in named.split(",") if name.strip())[
        : torch.cuda.device_count()
    ]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished step. number: from 1. tokens: training tokens so far. loss: mean of the batch in
    nats per token. gradient_norm: before clipping. lr_factor: share of the peak learning rate.
    seconds: without validation. validation: the loss in nats per token if one was computed after
    the step. remaining_s: of the training, at the pace of this process; None after its first step,
    which also warms up."""

    number: int
    tokens: int
    loss: float
    gradient_norm: float
    lr_factor: float
    seconds: float
    validation: float | None
    remaining_s: float | None


@dataclass(frozen=True, eq=False)
class Start:
    """What a training starts from in place of drawn weights. network: with its weights, which are
    trained. sha256: of the files that hold them."""

    network: HybridLM
    sha256: str


class Trainer:
    """A training of which `done` steps are finished, at first 0; `steps()` continues from there.

    Where memory is lacking, `micro_batch`, the sequences of a backward pass, is halved, and the step
    begins anew. `full_micro_batch` is that of the recipe."""

    def __init__(
        self,
        architecture: Architecture,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        start: Start | None = None,
    ) -> None:
        """Draw the network, unless there is one to start from. Arguments as in `train`."""
        self.started = time.perf_counter()
        self.architecture, self.dataset = architecture, dataset
        self.recipe, self.seed = recipe.with_dtype(), seed
        self.device = torch.device(recipe.device)
        torch.manual_seed(seed)
        self.drawn = start is None
        if start is None:
            network = HybridLM(architecture, recipe.backend)
            initialise(network, recipe)
        else:
            network = start.network.float()
            network.choose_backend(recipe.backend)
        self.network = network.train().to(self.device)
        self.balance = ExpertBalance(self.network, recipe)
        kinds = (spec.kind for spec in self.network.architecture.operators)
        self.backends = running(
            zip(kinds, self.network.blocks, strict=True),
            self.device.type,
            torch.bfloat16 if self.recipe.dtype == "bfloat16" else torch.float32,
            gradients=True,
        )
        self.optimizers = Optimizers(self.network, recipe)
        rows = recipe.batch_sequences
        self.full_micro_batch = self.micro_batch = min(recipe.micro_batch_sequences or rows, rows)
        self.done = 0
        self.start_loss = math.inf  # of the first batch, before any update
        self.curve: list[tuple[int, float]] = []
        self.training_s = 0.0

    @property
    def tokens(self) -> int:
        """Training tokens so far."""
        return self.done * self.recipe.batch_tokens

    def state(self) -> dict[str, Any]:
        """The numbers that a continued training needs besides weights, optimizer states and random
        numbers."""
        return {
            "done": self.done,
            "micro_batch": self.micro_batch if self.micro_batch < self.full_micro_batch else 0,
            "start_loss": self.start_loss,
            "curve": [list(point) for point in self.curve],
            "training_s": self.training_s,
            "seconds": time.perf_counter() - self.started,
            "loads": self.balance.loads,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`; the batches follow from the seed and the number of steps."""
        self.done, self.start_loss = int(state["done"]), float(state["start_loss"])
        most = min(self.full_micro_batch, state.get("micro_batch") or self.full_micro_batch)
        self.micro_batch = memory.equal_part(self.full_micro_batch, most)
        self.curve = [(int(tokens), float(loss)) for tokens, loss in state["curve"]]
        self.training_s = float(state["training_s"])
        self.balance.loads = state.get("loads", [])
        self.started = time.perf_counter() - float(state["seconds"])

    def steps(self) -> Iterator[Step]:
        """Train to the end, one optimizer step at a time; CandidateError for NaN and
        divergence."""
        recipe = self.recipe
        points = {tokens // recipe.batch_tokens for tokens in recipe.curve_at}
        batches = self.dataset.batches(recipe, self.seed, skip=self.done)
        first, started, at_start = self.done + 1, 0.0, 0.0
        while self.done < recipe.steps:
            step_started = time.perf_counter()
            batch_BT = torch.from_numpy(next(batches))
            loss, norm = self._update(batch_BT)
            seconds = time.perf_counter() - step_started
            self.start_loss = loss if self.done == 0 else self.start_loss
            self.done += 1
            self.training_s += seconds
            validation = None
            if self.done in points:
                last = self.done == recipe.steps
                validation = self.validate(
                    recipe.validation_tokens if last else recipe.curve_tokens
                )
                self._check_divergence(validation)
                self.curve.append((self.tokens, validation))
            left, remaining_s = recipe.work_left(self.tokens), None
            if self.done > first:
                remaining_s = (time.perf_counter() - started) * left / (at_start - left)
            yield Step(
                number=self.done,
                tokens=self.tokens,
                loss=loss,
                gradient_norm=norm,
                seconds=seconds,
                lr_factor=recipe.lr_factor(self.done - 1),
                validation=validation,
                remaining_s=remaining_s,
            )
            if self.done == first:
                started, at_start = time.perf_counter(), left

    def score(self) -> ProxyScore:
        """The score of a finished training."""
        tokens, final = self.curve[-1]
        return ProxyScore(
            loss=final,
            bits_per_byte=self.dataset.bits_per_byte(final),
            curve=tuple(self.curve),
            tokens=tokens,
            tokens_per_s=tokens / self.training_s,
            seconds=time.perf_counter() - self.started,
            seed=self.seed,
            proxy_params=self.architecture.params,
            backends=self.backends,
        )

    def _update(self, batch_BT: torch.Tensor) -> tuple[float, float]:
        """One optimizer step: mean loss of the batch in nats per token, and the gradient's norm."""
        rows_BT = batch_BT.to(self.device)
        while (total := self._gradients(rows_BT)) is None:
            self.network.zero_grad(set_to_none=True)
            memory.free_memory()  # here, because the error keeps what was allocated
            self.micro_batch = memory.equal_part(self.micro_batch, self.micro_batch // 2)
        if not math.isfinite(total):
            raise CandidateError(f"training loss became {total} after {self.tokens:,} tokens")
        clip = self.recipe.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), clip).item()
        if not math.isfinite(norm):
            raise CandidateError(f"gradient norm became {norm} after {self.tokens:,} tokens")
        self.optimizers.step(self.done)
        self.balance.update()
        return total, norm

    def _gradients(self, rows_BT: torch.Tensor) -> float | None:
        """Add up the gradients of a batch; its mean loss, or None if memory is lacking for a
        micro-batch that can be smaller."""
        self.balance.begin()
        micro = rows_BT.split(self.micro_batch)
        losses = []
        try:
            for part_BT in micro:
                with autocast(self.recipe.dtype, self.device):
                    loss = self.balance.loss(self.network, part_BT[:, :-1], part_BT[:, 1:])
                    loss = loss / len(micro)
                loss.backward()
                # read at the end of the step: a GPU waits for the host at each look
                losses.append(loss.detach())
            return sum(loss.item() for loss in losses)
        except RuntimeError as error:
            if self.micro_batch == 1 or not memory.lacks_memory(error):
                raise
        return None

    @torch.no_grad()
    def validate(self, tokens: int) -> float:
        """Mean loss in nats per token over about `tokens` validation tokens, the same ones for
        every candidate."""
        rows_NT = torch.from_numpy(self.dataset.validation_slice(self.recipe, tokens))
        self.network.eval()
        losses: list[tuple[torch.Tensor, int]] = []
        for part_BT in rows_NT.split(_EVALUATE_TOGETHER):
            part_BT = part_BT.to(self.device)
            with autocast(self.recipe.dtype, self.device):
                loss = self.network.loss(part_BT[:, :-1], part_BT[:, 1:])
            losses.append((loss, len(part_BT)))
        self.network.train()
        return sum(loss.item() * rows for loss, rows in losses) / len(rows_NT)

    def _check_divergence(self, loss: float) -> None:
        # a tied head with a large embedding starts far above it
        guessing = math.log(self.architecture.vocab)
        if not math.isfinite(loss):
            raise CandidateError(f"validation loss became {loss} after {self.tokens:,} tokens")
        # weights that were there may be those of a model that guesses worse
        if self.drawn and loss > max(guessing, self.start_loss) + _DIVERGED_NATS:
            raise CandidateError(
                f"diverged: validation loss {loss:.2f} after {self.tokens:,} tokens is worse than"
                f" at the start ({self.start_loss:.2f}) and than guessing ({guessing:.2f})"
            )
