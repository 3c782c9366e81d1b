"""Training of single layers, each alone, to write into the stream what the model's own layer writes
there, on the model's hidden states.

Shapes: B contexts, T tokens, D hidden.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import read_json
from flashnas.base.system import atomic_folder, disk_errors, write_synced
from flashnas.base.text import duration
from flashnas.conversion.found import TrainedReplacement
from flashnas.network.model import Block, HybridLM
from flashnas.network.weights import MODEL, fill, read_tensors, write_tensors
from flashnas.training.checkpoint import OPTIMIZER, fill_optimizers, optimizer_state
from flashnas.training.recipe import Recipe

STATE = "state.json"
STEP_TOKENS = 2048  # about as many in each step
FLAT = 0.01  # by less than this share of itself the held-out error falls between two points


@dataclass(frozen=True)
class _SavedTraining:
    """What STATE holds. layers: whose replacements are trained. trained: so far."""

    layers: list[int]
    trained: TrainedReplacement


class BlockTraining:
    """The replacements of one name, in all layers side by side; resumed from its folder.

    trained: so far.
    """

    def __init__(
        self,
        teacher: HybridLM,
        name: str,
        blocks: Mapping[int, Block],
        text: tuple[np.ndarray, np.ndarray],
        tokens: int,
        dtype: str,
        folder: Path,
    ) -> None:
        """blocks: number of a layer -> its replacement, untrained. text: contexts [R, T] that are
        held out, and those of the training. tokens: to train on. dtype: of matrix products."""
        self.teacher = teacher
        self.folder = folder
        self.device = teacher.embedding.weight.device
        self.held_out, self.rows = text
        context = self.rows.shape[1]
        self.recipe = Recipe(
            sequence_tokens=context,
            batch_sequences=max(1, STEP_TOKENS // context),
            tokens=tokens,
            validation_tokens=self.held_out.size,
            curve_tokens=self.held_out.size,
            curve_points=10,
            adamw_lr=1e-3,
            warmup_fraction=0.05,
            dtype=dtype,
        )
        self.half = dtype == "bfloat16"
        planned = self.recipe.steps * self.recipe.batch_tokens
        self.trained = TrainedReplacement(
            name=name, tokens=0, planned=planned, seconds=0.0, curve=[], flat=False
        )
        self.blocks = blocks
        self.layers = sorted(blocks)
        self.saved = nn.ModuleDict({str(n): blocks[n] for n in self.layers})
        self.parameters = {
            name: parameter
            for name, parameter in self.saved.named_parameters()
            if ".mixer." in name
        }
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            betas=(self.recipe.adamw_beta1, self.recipe.adamw_beta2),
            weight_decay=0.0,
            fused=True,
        )
        if (folder / STATE).is_file():
            self._restore()

    @property
    def finished(self) -> bool:
        return self.trained.flat or self.trained.tokens >= self.trained.planned

    def train(self, note: Callable[[str], None], every_s: float) -> TrainedReplacement:
        """Train to the end. every_s: seconds between checkpoints."""
        batch_tokens = self.recipe.batch_tokens
        saved_at = time.monotonic()
        timed_at = self.trained.tokens + 2 * batch_tokens
        if not self.trained.tokens:
            self._fit_scales()
        while not self.finished:
            started = time.monotonic()
            self._step(self.trained.tokens // batch_tokens)
            step_s = time.monotonic() - started
            tokens = self.trained.tokens + batch_tokens
            seconds = self.trained.seconds + step_s
            self.trained = replace(self.trained, tokens=tokens, seconds=seconds)
            if tokens == timed_at:  # the step before also warms up
                left = duration(step_s * (self.trained.planned - tokens) / batch_tokens)
                note(f"{self.trained.name} in {len(self.blocks)} layers: about {left} to train")
            if tokens in self.recipe.curve_at:
                self._add_point(note)
            if self.finished or time.monotonic() - saved_at > every_s:
                self._save()
                saved_at = time.monotonic()
        return self.trained

    # -- steps -------------------------------------------------------------------------------------

    def _pairs(self, tokens_BT: np.ndarray) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Of each layer the replacement, what attention reads and what it writes [B, T, D]."""
        with torch.no_grad():
            x = self.teacher.embed(torch.from_numpy(tokens_BT).long().to(self.device)).float()
        for n, block in enumerate(self.teacher.blocks[: self.layers[-1] + 1]):
            with (
                torch.no_grad(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.half),
            ):
                read = block.norm(x)
                written = block.mixer(read)[0].float()
            if n in self.blocks:
                yield self.blocks[n], read, written
            x = x + written

    def _written(self, block: Block, read: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return block.mixer(read)[0].float()

    def _error(self, block: Block, read: Tensor, written: Tensor) -> Tensor:
        return (self._written(block, read) - written).square().sum() / written.square().sum()

    def _step(self, step: int) -> None:
        batch = self.recipe.batch_sequences  # of contexts that are in random order already
        contexts = self.rows.take(range(step * batch, (step + 1) * batch), axis=0, mode="wrap")
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.adamw_lr * self.recipe.lr_factor(step)
        for block, read, written in self._pairs(contexts):
            self._error(block, read, written).backward()
            nn.utils.clip_grad_norm_(block.mixer.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _fit_scales(self) -> None:
        """Scale each output by least squares, so that no replacement starts worse than nothing."""
        for block, read, written in self._pairs(self.held_out[:1]):
            own = self._written(block, read)
            scale = (own * written).sum() / own.square().sum()
            block.mixer.get_parameter("out_proj.weight").mul_(scale)

    @torch.no_grad()
    def _add_point(self, note: Callable[[str], None]) -> None:
        """Measure the held-out error, and whether it still falls."""
        errors = [
            float(self._error(*of_layer))
            for row in self.held_out
            for of_layer in self._pairs(row[None])
        ]
        trained, error = self.trained, float(np.mean(errors))
        flat = any(before - error < FLAT * before for _, before in trained.curve[-1:])
        curve = [*trained.curve, (trained.tokens, error)]
        self.trained = replace(trained, curve=curve, flat=flat and trained.tokens < trained.planned)
        note(f"{trained.name}: {trained.tokens:,} tokens, held-out error {error:.3f}")

    # -- the folder --------------------------------------------------------------------------------

    def _save(self) -> None:
        state = asdict(_SavedTraining(self.layers, self.trained))
        full = disk_errors(f"{self.folder}: cannot be written", RunError)
        with full, atomic_folder(self.folder) as fresh:
            write_tensors(fresh / MODEL, self.saved.state_dict())
            if not self.finished:
                moments, _ = optimizer_state(self.parameters, [self.optimizer])
                write_tensors(fresh / OPTIMIZER, moments)
            write_synced(fresh / STATE, json.dumps(state))

    def _restore(self) -> None:
        path = self.folder / STATE
        state = convert(read_json(path, RunError), _SavedTraining, str(path), RunError)
        if (state.trained.planned, state.layers) != (self.trained.planned, self.layers):
            raise RunError(
                f"{self.folder}: holds replacements of other layers or for another number of tokens;"
                " choose another --out"
            )
        self.trained = state.trained
        fill(self.saved, read_tensors(self.folder / MODEL), self.folder / MODEL)
        if not self.finished:
            file = self.folder / OPTIMIZER
            fill_optimizers(self.parameters, [self.optimizer], read_tensors(file), file)
