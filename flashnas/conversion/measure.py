"""What a changed network loses: KL to its teacher, loss on text, recall; kept as it is measured.

Shapes: N documents, T context, D hidden, V vocabulary, S scored positions.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from flashnas.base.documents import convert
from flashnas.base.errors import RunError, WeightsError
from flashnas.base.json_lines import append_synced, drop_torn_line, read_json_lines
from flashnas.base.system import disk_errors
from flashnas.base.text import INTERVAL_90
from flashnas.conversion.choices import Choice, Layout, converted, key_of
from flashnas.conversion.found import Nats, Share
from flashnas.conversion.texts import Draw, Probe
from flashnas.network.model import Block, HybridLM
from flashnas.operators.feed_forward.layer import FeedForwardLayer, swiglu

POSITIONS = 256  # of a document whose logits are compared
TEACHER_BYTES = 1 << 30  # of the teacher's log-probabilities, which are kept
Head = tuple[nn.Module, Tensor]  # final norm, and matrix [V, D]


@dataclass(frozen=True)
class LayoutScore:
    """Of one layout on one draw. kl, loss: nats per token, one for each document. recalled: share
    of the teacher's probes, one for each prompt. value_lost: nats by which the log-probability of
    a probe's value falls, 0 where it rises; the mean of each prompt. block_error: of the first
    change, the square of what it changes in the stream, as a share of the stream's."""

    kl: list[Nats]
    loss: list[Nats]
    recalled: list[Share]
    value_lost: list[Nats]
    block_error: Nats = 0.0

    def figures(self) -> dict[str, Any]:
        """The fields of LayoutFigures."""
        return {
            "kl": float(np.mean(self.kl)),
            "kl_half": half_width(self.kl),
            "loss": float(np.mean(self.loss)),
            "recall": float(np.mean(self.recalled)) if self.recalled else None,
        }


def half_width(values: list[float] | np.ndarray) -> float:
    """Half of the 90 % interval of the mean over documents."""
    return float(INTERVAL_90 * np.std(values, ddof=1) / np.sqrt(len(values)))


class Student:
    """The teacher with changed layers, on one draw of text.

    columns: of each feed-forward network, its columns by importance, the most important first;
    where they are not given, those of this draw. trained: key of a choice -> its weights. dtype: of
    the matrices; norms and the stream are in float32.

    Layouts that first change a late layer start from the teacher's stream there.
    """

    def __init__(
        self,
        teacher: HybridLM,
        draw: Draw,
        dtype: str,
        columns: Mapping[int, Tensor] | None = None,
        trained: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.trained = trained or {}
        self.teacher = teacher.eval()
        self.draw = draw
        self.device = teacher.embedding.weight.device
        self.dtype = getattr(torch, dtype)
        self.rows = np.concatenate([draw.documents, draw.prompts])
        vocab = teacher.architecture.vocab
        context = draw.documents.shape[1]
        room = TEACHER_BYTES // (4 * vocab * len(draw.documents))
        count = max(1, min(POSITIONS, room, context - 1))
        self.positions_S = torch.linspace(0, context - 2, count).round().long()
        self.head = self._head_of(teacher)
        self.blocks = [self._ready(block) for block in teacher.blocks]
        self._start = 0, self._embedded(teacher)
        self.columns = dict(columns or {})
        self._teach()

    # -- the teacher -------------------------------------------------------------------------------

    @torch.no_grad()
    def _teach(self) -> None:
        """Run the teacher: the order of columns by importance, its probabilities, its probes."""
        streams = self._start[1]
        documents = len(self.draw.documents)
        for n, block in enumerate(self.blocks):
            mixer = block.mixer
            if isinstance(mixer, FeedForwardLayer) and not mixer.relu2 and n not in self.columns:
                inputs = [block.norm(x).to(self.dtype) for x in streams[:documents]]
                self.columns[n] = self._importance(mixer, inputs).argsort(descending=True)
            streams = self._through(block, streams)
        self.log_p = [self._log_p(x, self.positions_S, self.head) for x in streams[:documents]]
        # what the teacher does not recall says nothing of a student; probe -> its log-probability
        self.probes = {
            probe: log_p
            for probe, hit, log_p in self._asked(self.draw.probes, streams[documents:], self.head)
            if hit
        }
        self.loss = [self._loss(n, log_p) for n, log_p in enumerate(self.log_p)]
        if not np.isfinite(self.loss).all():
            raise WeightsError("the model's loss on the text is not finite: its weights overflow")

    def _importance(self, mixer: FeedForwardLayer, inputs: list[Tensor]) -> Tensor:
        """Of each column of a feed-forward network: its root mean square times its norm on the way
        out."""
        squares = [swiglu(mixer.in_proj(x)).float().square().mean((0, 1)) for x in inputs]
        return torch.stack(squares).mean(0).sqrt() * mixer.out_proj.weight.float().norm(dim=0)

    # -- students ----------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, layout: Layout) -> LayoutScore:
        """KL, loss and recall of a layout."""
        first = layout[0].layer
        blocks: list[Block | None] = [*self.blocks]
        for choice in layout:
            block = self._block(choice)
            blocks[choice.layer] = block and self._ready(block)
        before = self._streams_at(first)
        (unchanged,) = self._through(self.blocks[first], before[:1])
        streams = self._through(blocks[first], before)
        error = (streams[0] - unchanged).square().sum() / unchanged.square().sum()
        for block in blocks[first + 1 :]:
            streams = self._through(block, streams)
        return replace(self._scored(streams, self.head), block_error=float(error))

    @torch.no_grad()
    def score(self, network: HybridLM) -> LayoutScore:
        """KL, loss and recall of a network with weights of its own."""
        streams = self._embedded(network)
        for block in network.blocks:
            streams = self._through(self._ready(block), streams)
        return self._scored(streams, self._head_of(network))

    def _scored(self, streams: list[Tensor], head: Head) -> LayoutScore:
        documents = len(self.draw.documents)
        kl, loss = [], []
        for n, x in enumerate(streams[:documents]):
            log_q = self._log_p(x, self.positions_S, head)
            log_p = self.log_p[n]
            kl.append(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
            loss.append(self._loss(n, log_q))
        sums = np.zeros((3, len(self.draw.prompts)))
        for probe, hit, log_p_value in self._asked(self.probes, streams[documents:], head):
            sums[:, probe.prompt] += hit, max(self.probes[probe] - log_p_value, 0.0), 1
        sums = sums[:, sums[2] > 0]
        recalled, value_lost = (sums[:2] / sums[2]).tolist()
        return LayoutScore(kl, loss, recalled, value_lost)

    def network(self, layout: Layout) -> HybridLM:
        """A layout as a network of its own; it shares tensors with the teacher."""
        changed = {choice.layer: self._block(choice) for choice in layout}
        blocks = (changed.get(n, block) for n, block in enumerate(self.teacher.blocks))
        with torch.random.fork_rng(devices=[]):
            network = HybridLM(converted(self.teacher.architecture, layout))
        for name in ("embedding", "final_norm", "head"):
            setattr(network, name, getattr(self.teacher, name))
        network.layers = nn.ModuleList(block for block in blocks if block is not None)
        return network.eval()

    @torch.no_grad()
    def _block(self, choice: Choice) -> Block | None:
        """The layer that a choice makes of the teacher's; None where it goes."""
        if choice.spec is None:
            return None
        own = self.teacher.blocks[choice.layer]
        state = dict(self.trained.get(choice.key, own.state_dict()))
        with torch.random.fork_rng(devices=[]):
            block = Block(choice.spec, self.teacher.architecture.hidden)
        if isinstance(own.mixer, FeedForwardLayer):
            width = block.mixer.shape("out_proj.weight")[1]
            columns = self.columns[choice.layer][:width].sort().values
            inner = own.mixer.out_proj.in_features
            for name in ("mixer.in_proj.weight", "mixer.in_proj.bias"):
                if name in state:
                    state[name] = state[name][torch.cat([columns, columns + inner])]
            state["mixer.out_proj.weight"] = state["mixer.out_proj.weight"][:, columns]
        block.load_state_dict(state)
        return block.to(self.device)

    # -- the forward pass --------------------------------------------------------------------------

    def _embedded(self, network: HybridLM) -> list[Tensor]:
        with torch.no_grad():
            return [
                network.embed(torch.from_numpy(row[None]).long().to(self.device)).float()
                for row in self.rows
            ]

    def _ready(self, block: Block) -> Block:
        """A copy for the forward pass."""
        block = copy.deepcopy(block).eval()
        block.mixer.to(self.dtype)
        return block

    def _through(self, block: Block | None, streams: list[Tensor]) -> list[Tensor]:
        """The streams behind a layer; None: one that is gone."""
        if block is None:
            return streams
        return [x + block.mixer(block.norm(x).to(self.dtype))[0] for x in streams]

    def _streams_at(self, layer: int) -> list[Tensor]:
        """The teacher's streams in front of a layer; those of the last call are kept."""
        at, streams = self._start
        if at > layer:
            at, streams = 0, self._embedded(self.teacher)
        for block in self.blocks[at:layer]:
            streams = self._through(block, streams)
        self._start = layer, streams
        return streams

    def _head_of(self, network: HybridLM) -> Head:
        return network.final_norm, network.head_weight.detach().to(self.dtype)

    def _log_p(self, x_BTD: Tensor, positions: Tensor, head: Head) -> Tensor:
        """Log-probabilities [S, V] after these positions."""
        norm, head_VD = head
        x_SD = norm(x_BTD[0, positions])
        return F.linear(x_SD.to(self.dtype), head_VD).float().log_softmax(-1)

    def _loss(self, document: int, log_p_SV: Tensor) -> float:
        targets_S = torch.from_numpy(self.draw.documents[document])[self.positions_S + 1].long()
        return float(-log_p_SV.gather(1, targets_S[:, None].to(self.device)).mean())

    def _asked(
        self, probes: Iterable[Probe], streams: list[Tensor], head: Head
    ) -> Iterator[tuple[Probe, bool, float]]:
        """Each probe, whether its value is the most likely continuation, and the log-probability
        of the value."""
        for probe in probes:
            at = torch.tensor(probe.positions)
            log_p_SV = self._log_p(streams[probe.prompt], at - 1, head)
            value_S = torch.from_numpy(self.draw.prompts[probe.prompt])[at].to(self.device)
            hit = bool((log_p_SV.argmax(-1) == value_S).all())
            yield probe, hit, float(log_p_SV.gather(1, value_S[:, None]).sum())


class MeasurementLog:
    """All that was measured in a folder: a line for each layout and draw, written when it is known,
    so that a killed conversion loses one at most.

    Raises:
        RunError: the file is damaged, or holds measurements of another question.
    """

    def __init__(self, path: Path, question: Mapping[str, Any], dtype: str) -> None:
        """dtype: of the matrices, unless the folder has another one already."""
        self.path = path
        self.known: dict[tuple[int, str], LayoutScore] = {}
        self.documents: int = question["documents"]
        self.prompts: dict[int, int] = {}  # draw -> those with probes that the teacher does
        with disk_errors(f"{path}: cannot be written", RunError):
            drop_torn_line(path, RunError)
            if not path.exists():
                append_synced(path, json.dumps({"question": dict(question), "dtype": dtype}))
        first, *lines = read_json_lines(path, RunError)
        header = convert(first, _Header, f"{path}:1", RunError, name="header")
        before, self.dtype = header.question, header.dtype
        if other := [name for name in question if before.get(name) != question[name]]:
            raise RunError(
                f"{path}: holds measurements of another question: {other[0]} was"
                f" {before.get(other[0])!r:.60}, and is {question[other[0]]!r:.60}; choose"
                " another --out"
            )
        for number, line in enumerate(lines, start=2):
            self._add(convert(line, _Line, f"{path}:{number}", RunError), f"{path}:{number}")

    def _add(self, line: _Line, place: str | Path) -> None:
        score = line.measured
        prompts = self.prompts.setdefault(line.draw, len(score.recalled))
        needed = [self.documents, self.documents, prompts, prompts]
        lists = score.kl, score.loss, score.recalled, score.value_lost
        if (found := [len(values) for values in lists]) != needed:
            raise RunError(
                f"{place}: kl, loss, recalled and value_lost must have {needed} values, as the text"
                f" has documents and as other lines have prompts; got {found}"
            )
        self.known[line.draw, line.layout] = score

    def get(self, draw: int, layout: Layout, student: Any) -> LayoutScore:
        """Of a layout on a draw; student: a function that returns the Student of the draw."""
        key = draw, key_of(layout)
        if key not in self.known:
            line = _Line(*key, student().measure(layout))
            self._add(line, self.path)
            with disk_errors(
                f"{self.path}: cannot be written",
                RunError,
                "; free some space and run the command again, which continues",
            ):
                append_synced(self.path, json.dumps(asdict(line)))
        return self.known[key]


@dataclass(frozen=True)
class _Header:
    question: dict[str, Any]
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True)
class _Line:
    draw: Annotated[int, Meta(ge=0, le=1)]
    layout: str
    measured: LayoutScore
