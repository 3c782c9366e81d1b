"""Operators that are trained to take the place of attention: each layer alone, to write into the
stream what the model's own layer writes there, on the model's hidden states.

Shapes: B contexts, T tokens, D hidden.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import read_json
from flashnas.base.system import atomic_folder, disk_errors, write_synced
from flashnas.base.text import duration
from flashnas.convert.found import TrainedReplacement
from flashnas.network.model import Block, HybridLM
from flashnas.network.weights import MODEL, read_tensors, write_tensors
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"
STEP_TOKENS = 2048  # about as many in each step
RATE, WARMUP, LEAST_RATE = 1e-3, 0.05, 0.1  # of AdamW; a cosine falls to the last one, a share
POINTS = 10  # of the curve
FLAT = 0.01  # by less than this share of itself the held-out error falls between two points


@torch.no_grad()
def from_attention(own: Block, attention: Attention, spec: OperatorSpec, hidden: int) -> Block:
    """A layer that starts from the weights of attention: its q, k, v and out, without biases; keys
    and values are repeated for the query heads that share them. The convolution passes the current
    token through; what attention lacks (gate, decay, strength) is drawn."""
    block = Block(spec, hidden)
    block.norm.load_state_dict(own.norm.state_dict())
    state = own.mixer.state_dict()
    rows = _by_part(state["in_proj.weight"], attention.named_tensors(hidden)["in_proj.weight"])
    into = _by_part(
        block.mixer.get_parameter("in_proj.weight"), spec.named_tensors(hidden)["in_proj.weight"]
    )
    for name, weight in into.items():
        if name in rows:
            heads = rows[name].unflatten(0, (-1, attention.head_dim))
            weight.copy_(heads.repeat_interleave(len(weight) // len(rows[name]), 0).flatten(0, 1))
        else:
            weight.normal_(std=hidden**-0.5 * (1.0 if name == "z" else 0.2))
    block.mixer.get_parameter("conv.weight").zero_()[..., -1] = 1
    block.mixer.get_parameter("out_proj.weight").copy_(state["out_proj.weight"])
    return block


def _by_part(weight: Tensor, tensor: Any) -> dict[str, Tensor]:
    names = [name for name, _ in tensor.parts]
    return dict(zip(names, weight.split(tensor.rows()), strict=True))


@dataclass(frozen=True)
class _SavedTraining:
    """What STATE holds. layers: whose replacements are trained. trained: so far."""

    layers: list[int]
    trained: TrainedReplacement


class BlockTraining:
    """The replacements of one name, in all layers side by side; resumed from its folder."""

    def __init__(
        self,
        teacher: HybridLM,
        name: str,
        layers: Mapping[int, OperatorSpec],
        text: tuple[np.ndarray, np.ndarray],
        tokens: int,
        folder: Path,
    ) -> None:
        """layers: number -> what becomes of it. text: contexts [R, T] that are held out, and those
        of the training. tokens: to train on."""
        self.teacher, self.name, self.folder = teacher, name, folder
        self.device = teacher.embedding.weight.device
        self.held_out, self.rows = text
        self.batch = max(1, STEP_TOKENS // self.rows.shape[1])
        self.step_tokens = self.batch * self.rows.shape[1]
        self.steps = max(1, math.ceil(tokens / self.step_tokens))
        self.done, self.seconds, self.flat = 0, 0.0, False
        self.curve: list[tuple[int, float]] = []
        hidden, operators = teacher.architecture.hidden, teacher.architecture.operators
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = {}
            for n, spec in layers.items():
                attention = operators[n]
                assert isinstance(attention, Attention)
                block = from_attention(teacher.blocks[n], attention, spec, hidden)
                self.blocks[n] = block.to(self.device)
        mixers = [block.mixer for block in self.blocks.values()]
        self.optimizer = torch.optim.AdamW(
            [parameter for mixer in mixers for parameter in mixer.parameters()],
            lr=RATE,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )
        if (folder / STATE).is_file():
            self._restore()

    @property
    def tokens(self) -> int:
        return self.done * self.step_tokens

    @property
    def finished(self) -> bool:
        return self.flat or self.done >= self.steps

    def train(self, note: Callable[[str], None], every_s: float) -> TrainedReplacement:
        """Train to the end. every_s: seconds between checkpoints."""
        saved, before = time.monotonic(), self.done
        if not self.done:
            self._fit_scales()
        points = {max(1, round(self.steps * (n + 1) / POINTS)) for n in range(POINTS)}
        while not self.finished:
            started_s = time.monotonic()
            self._step()
            self.done += 1
            self.seconds += time.monotonic() - started_s
            if self.done == before + 2:  # the first one also warms up
                left = (time.monotonic() - started_s) * (self.steps - self.done)
                note(f"{self.name} in {len(self.blocks)} layers: about {duration(left)} to train")
            if self.done in points:
                self._add_point(note)
            if self.finished or time.monotonic() - saved > every_s:
                self._save()
                saved = time.monotonic()
        return self.summary()

    def summary(self) -> TrainedReplacement:
        return TrainedReplacement(
            name=self.name,
            tokens=self.tokens,
            planned=self.steps * self.step_tokens,
            seconds=self.seconds,
            curve=self.curve,
            flat=self.flat,
        )

    # -- steps -------------------------------------------------------------------------------------

    def _pairs(self, tokens_BT: np.ndarray) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Of each layer the replacement, what attention reads and what it writes [B, T, D]."""
        with torch.no_grad():
            x = self.teacher.embed(torch.from_numpy(tokens_BT).long().to(self.device)).float()
        last = max(self.blocks)
        for n, block in enumerate(self.teacher.blocks[: last + 1]):
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                read = block.norm(x)
                written = block.mixer(read)[0].float()
            if n in self.blocks:
                yield self.blocks[n], read, written
            x = x + written

    def _error(self, block: Block, read: Tensor, written: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            own = block.mixer(read)[0]
        return (own.float() - written).square().sum() / written.square().sum()

    def _step(self) -> None:
        order = np.random.default_rng([0, self.done // max(1, len(self.rows) // self.batch)])
        shuffled, at = order.permutation(len(self.rows)), self.done * self.batch
        chosen = [shuffled[(at + n) % len(self.rows)] for n in range(self.batch)]
        warmup = max(1, round(self.steps * WARMUP))
        falling = (1 + math.cos(math.pi * self.done / self.steps)) / 2
        share = min(1.0, (self.done + 1) / warmup) * (LEAST_RATE + (1 - LEAST_RATE) * falling)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * share
        for block, read, written in self._pairs(self.rows[chosen]):
            self._error(block, read, written).backward()
            nn.utils.clip_grad_norm_(block.mixer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _fit_scales(self) -> None:
        """Scale each output by least squares, so that no replacement starts worse than nothing."""
        for block, read, written in self._pairs(self.held_out[:1]):
            with torch.autocast(self.device.type, torch.bfloat16):
                own = block.mixer(read)[0].float()
            scale = (own * written).sum() / own.square().sum()
            block.mixer.get_parameter("out_proj.weight").mul_(scale)

    @torch.no_grad()
    def _add_point(self, note: Callable[[str], None]) -> None:
        errors = [
            float(self._error(*of_layer))
            for row in self.held_out
            for of_layer in self._pairs(row[None])
        ]
        self.curve.append((self.tokens, float(np.mean(errors))))
        if len(self.curve) > 1:
            before, now = self.curve[-2][1], self.curve[-1][1]
            self.flat = before - now < FLAT * before and self.done < self.steps
        note(f"{self.name}: {self.tokens:,} tokens, held-out error {self.curve[-1][1]:.3f}")

    # -- the folder --------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {
            f"{n}.{name}": tensor
            for n, block in self.blocks.items()
            for name, tensor in block.state_dict().items()
        }
        moments = {
            f"{number}.{name}": value
            for number, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        state = asdict(_SavedTraining(sorted(self.blocks), self.summary()))
        full = disk_errors(f"{self.folder}: cannot be written", RunError)
        with full, atomic_folder(self.folder) as fresh:
            write_tensors(fresh / MODEL, tensors)
            if not self.finished:
                write_tensors(fresh / OPTIMIZER, moments)
            write_synced(fresh / STATE, json.dumps(state))

    def _restore(self) -> None:
        path = self.folder / STATE
        state = convert(read_json(path, RunError), _SavedTraining, str(path), RunError)
        trained = state.trained
        if (trained.planned, state.layers) != (self.summary().planned, sorted(self.blocks)):
            raise RunError(
                f"{self.folder}: holds replacements of other layers or for another number of tokens;"
                " choose another --out"
            )
        for n, tensors in read_blocks(self.folder).items():
            self.blocks[n].load_state_dict(tensors)
        self.done, self.seconds = trained.tokens // self.step_tokens, trained.seconds
        self.flat, self.curve = trained.flat, trained.curve
        if not self.finished:
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in read_tensors(self.folder / OPTIMIZER).items():
                number, _, key = name.partition(".")
                moments.setdefault(int(number), {})[key] = tensor
            whole = self.optimizer.state_dict()
            self.optimizer.load_state_dict({**whole, "state": moments})


def read_blocks(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Layer -> the state dict of its replacement; WeightsError for a damaged file."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(folder / MODEL).items():
        layer, _, rest = name.partition(".")
        found.setdefault(int(layer), {})[rest] = tensor
    return found
