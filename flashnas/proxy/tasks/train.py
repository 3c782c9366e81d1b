"""The scores of a search on synthetic tasks: means of shares of right answers after a training of each group
of tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError, ConfigError
from flashnas.network.model import HybridLM
from flashnas.proxy.tasks import SCORES, groups_for, make_task
from flashnas.proxy.tasks.base import Batch, Task
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import autocast

_LR = 0.003              # of the decoder: it is the same small one for every candidate


def task_scores(architecture: Architecture, names: Sequence[str], recipe: Recipe, seed: int,
                deadline_s: float | None = None) -> dict[str, float]:
    """The scores of an architecture, and the accuracy of each task that was trained for them, in 0..1; higher
    is better. Arguments and errors as `score_tasks`."""
    accuracies: dict[str, float] = {}
    for group in groups_for(names):
        accuracies |= score_tasks(architecture, [make_task(name) for name in group], recipe, seed, deadline_s)
    means = {name: sum(accuracies[task] for task in SCORES[name]) / len(SCORES[name]) for name in names}
    return {**means, **accuracies}


def score_tasks(architecture: Architecture, tasks: Sequence[Task], recipe: Recipe, seed: int,
                deadline_s: float | None = None) -> dict[str, float]:
    """Train one network on all of these tasks at once; each batch has the same number of sequences of each.

    Args:
        architecture: at full width; the network is `recipe.proxy_of` it, with the vocabularies of the tasks
            side by side.
        tasks: of one group, so that they have one length and one `from_last`.
        deadline_s: limit of the training in seconds; None for no limit.

    Returns:
        The accuracy on the test set by the name of the task; the same arguments on one CPU thread give the
        same.

    Raises:
        CandidateError: if the loss or a gradient becomes NaN or infinite, or the time is over.
        ConfigError: if the tasks differ in `length` or `from_last`.
    """
    started, settings = time.perf_counter(), recipe.task_training
    names, length = ", ".join(task.name for task in tasks), tasks[0].length
    if len({(task.length, task.from_last) for task in tasks}) > 1:
        raise ConfigError(f"tasks {names} have one group, so that they need one length and one from_last; got"
                          f" {', '.join(f'({task.length}, {task.from_last})' for task in tasks)}")
    recipe = recipe.for_tasks(tasks=len(tasks), length=length)
    proxy = recipe.proxy_of(architecture, vocab=sum(task.vocab for task in tasks))
    torch.manual_seed(seed)
    network = HybridLM(proxy, recipe.backend)
    network.embedding = WithPrevious(proxy.vocab, proxy.hidden, _weight=network.embedding.weight.detach())
    initialise(network, recipe)
    device = torch.device(recipe.device)
    learner = (FromLast(network, length, recipe) if tasks[0].from_last else EachPosition(network)).to(device)
    optimizers = Optimizers(network, recipe)
    tests = [task.test_set(settings.test_sequences, seed) for task in tasks]
    batches = [task.batches(recipe.batch_sequences // len(tasks), seed, apart_from=test)
               for task, test in zip(tasks, tests, strict=True)]
    for step in range(recipe.steps):
        joined = side_by_side(tasks, [next(drawn) for drawn in batches])
        with autocast(recipe, device):
            loss = learner.loss(*_tensors(joined, device))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.clip or math.inf)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise CandidateError(f"{names}: loss or gradient became NaN or infinite in step {step + 1}")
        optimizers.step(step)
        learner.step(step)
        if deadline_s is not None and time.perf_counter() - started > deadline_s:
            raise CandidateError(f"time limit: {deadline_s:g} s were over in step {step + 1} of {names}")
    test = side_by_side(tasks, tests)
    with torch.no_grad(), autocast(recipe, device):
        right_BT = np.concatenate([
            learner.guess(torch.from_numpy(part).to(device)).cpu().numpy()
            for part in np.array_split(test.inputs_BT, -(-len(test.inputs_BT) // recipe.batch_sequences))
        ]) == test.targets_BT
    counts_BT = test.targets_BT >= 0
    return {task.name: float(right_BT[rows][counts_BT[rows]].mean()) for task, rows in zip(
        tasks, np.array_split(np.arange(len(right_BT)), len(tasks)), strict=True)}


def side_by_side(tasks: Sequence[Task], batches: Sequence[Batch]) -> Batch:
    """One batch of all sequences, each task in a vocabulary of its own: its tokens follow those of the tasks
    before."""
    first = np.cumsum([0, *(task.vocab for task in tasks)])
    inputs = [batch.inputs_BT + start for batch, start in zip(batches, first, strict=False)]
    targets = [np.where(batch.targets_BT < 0, batch.targets_BT, batch.targets_BT + start)
               for batch, start in zip(batches, first, strict=False)]
    return Batch(np.concatenate(inputs), np.concatenate(targets))


class WithPrevious(nn.Embedding):
    """The vector of a token includes the vector of the token before, with its features rotated by half.

    Short convolutions join a value to its key from the first step on; two layers of attention learn this
    after hundreds of steps (experiments/mad). All candidates get it: the tasks measure what a network keeps
    and finds again.
    """

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = super().forward(tokens_BT)
        return x_BTD + F.pad(x_BTD[:, :-1], (0, 0, 1, 0)).roll(x_BTD.shape[-1] // 2, -1)


def _tensors(batch: Batch, device: torch.device) -> Iterator[Tensor]:
    return (torch.from_numpy(array).to(device) for array in batch)


# -- where the answers of a task are read from a network -----------------------------------------------------


class EachPosition(nn.Module):
    """Each answer is read from the output at its own position."""

    def __init__(self, network: HybridLM) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.network.loss(inputs_BT, targets_BT)

    def guess(self, inputs_BT: Tensor) -> Tensor:
        guess_BT: Tensor = self.network(inputs_BT).argmax(-1)
        return guess_BT

    def step(self, step: int) -> None:
        """Nothing to update: it has no parameters besides those of the network."""


class FromLast(nn.Module):
    """All answers are read from the output of the last position, as in MAD's autoencoder (arXiv 2403.17844):
    with the code of a position it goes through two linear layers, and the network's head reads out the token
    of that position."""

    codes_TD: Tensor

    def __init__(self, network: HybridLM, length: int, recipe: Recipe) -> None:
        super().__init__()
        hidden = network.architecture.hidden
        self.network, self.recipe = network, recipe
        self.decoder = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
        self.register_buffer("codes_TD", place_codes(length, hidden))
        self._optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=_LR)

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(inputs_BT).float().flatten(0, 1), targets_BT.flatten())

    def guess(self, inputs_BT: Tensor) -> Tensor:
        return self._logits(inputs_BT).argmax(-1)

    def step(self, step: int) -> None:
        """Update the decoder at the schedule's rate for this step."""
        self._optimizer.param_groups[0]["lr"] = _LR * self.recipe.lr_factor(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _logits(self, inputs_BT: Tensor) -> Tensor:
        last_BD = self.network.hidden_states(inputs_BT)[:, -1]
        read_BTD = self.decoder(last_BD.unsqueeze(1) + self.codes_TD)
        return F.linear(read_BTD, self.network.head_weight)


def place_codes(length: int, hidden: int) -> Tensor:
    """Sines and cosines of the position at falling frequencies, [length, hidden]."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(0, hidden, 2) / hidden)
    angles = torch.arange(length).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :hidden]
