"""Changed layouts on a draw of text; what is measured is kept.

Shapes: D hidden, F columns of a feed-forward network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.json_lines import append_synced, drop_torn_line, read_json_lines
from flashnas.base.system import write_atomic
from flashnas.conversion.choices import Choice, Layout, converted
from flashnas.data.scored_text import Draw
from flashnas.network.model import Block, HybridLM
from flashnas.operators.feed_forward.layer import FeedForwardLayer, swiglu
from flashnas.training.teacher_text import Streams, TeacherText, TextScore


class Student(TeacherText):
    """A draw of text by which layouts are measured: the teacher with changed layers.

    trained: key of a choice -> its layer. like: whose columns narrower networks keep; None: those
    that matter on this draw.

    Layouts that first change a late layer start from the teacher's stream there.
    """

    def __init__(
        self,
        teacher: HybridLM,
        draw: Draw,
        dtype: str,
        trained: Mapping[str, Block] | None = None,
        like: Student | None = None,
    ) -> None:
        super().__init__(teacher, draw, dtype)
        self.trained = trained or {}
        self.like = like or self
        self._columns: dict[int, Tensor] = {}
        self._start = 0, self.embedded(teacher)

    @torch.no_grad()
    def columns(self, layer: int) -> Tensor:
        """Of a feed-forward network, the most important first [F]: by their root mean square on the
        documents times their norm on the way out."""
        if layer not in self._columns:
            block, documents = self.teacher.blocks[layer], len(self.draw.documents)
            mixer = block.mixer
            assert isinstance(mixer, FeedForwardLayer)
            squares_F = [
                swiglu(mixer.in_proj(block.norm(x))).square().mean((0, 1))
                for x in self._streams_at(layer)[:documents]
            ]
            norms_F = mixer.out_proj.weight.norm(dim=0)
            importance_F = torch.stack(squares_F).mean(0).sqrt() * norms_F
            self._columns[layer] = importance_F.argsort(descending=True)
        return self._columns[layer]

    def measure(self, layout: Layout) -> TextScore:
        """KL, loss and recall of a layout."""
        blocks: list[Block | None] = [*self.blocks]
        for choice in layout:
            block = self._block(choice)
            blocks[choice.layer] = block and self.ready(block)
        first = layout[0].layer
        streams = self._streams_at(first)
        for changed in blocks[first:]:
            streams = self.through(changed, streams)
        return self.scored(streams, self.teacher)

    def network(self, layout: Layout) -> HybridLM:
        """A layout as a network of its own; it shares tensors with the teacher."""
        changed = {choice.layer: self._block(choice) for choice in layout}
        blocks = (changed.get(n, block) for n, block in enumerate(self.teacher.blocks))
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
        if choice.key in self.trained:
            return self.trained[choice.key].to(self.device)
        own = self.teacher.blocks[choice.layer]
        state = dict(own.state_dict())
        block = Block(choice.spec, self.teacher.architecture.hidden)
        if isinstance(own.mixer, FeedForwardLayer):
            width = block.mixer.shape("out_proj.weight")[1]
            columns = self.like.columns(choice.layer)[:width].sort().values
            inner = own.mixer.out_proj.in_features
            for name in ("mixer.in_proj.weight", "mixer.in_proj.bias"):
                if name in state:
                    state[name] = state[name][torch.cat([columns, columns + inner])]
            state["mixer.out_proj.weight"] = state["mixer.out_proj.weight"][:, columns]
        block.load_state_dict(state)
        return block.to(self.device)

    def _streams_at(self, layer: int) -> Streams:
        """The teacher's streams in front of a layer; those of the last call are kept."""
        at, streams = self._start
        if at > layer:
            at, streams = 0, self.embedded(self.teacher)
        for block in self.blocks[at:layer]:
            streams = self.through(block, streams)
        self._start = layer, streams
        return streams


class MeasurementLog:
    """All that was measured in a folder: a line for each layout and draw, written when it is known,
    so that a killed conversion loses one at most.

    Raises:
        RunError: the file is damaged, or holds measurements of another question.
    """

    def __init__(self, path: Path, question: Mapping[str, Any], dtype: str) -> None:
        """dtype: of the matrices, unless the folder has another one already."""
        self.path = path
        self.known: dict[tuple[int, str], TextScore] = {}
        self.documents: int = question["documents"]
        self.prompts: dict[int, int] = {}  # draw -> those with probes that the teacher does
        drop_torn_line(path, RunError)
        lines = read_json_lines(path, RunError) if path.exists() else []
        first = lines[0] if lines else {"question": dict(question), "dtype": dtype}
        header = convert(first, _Header, f"{path}:1", RunError, name="header")
        before = header.question
        other = [name for name in question if before.get(name) != question[name]]
        if len(lines) > 1 and other:
            raise RunError(
                f"{path}: holds measurements of another question: {other[0]} was"
                f" {before.get(other[0])!r:.60}, and is {question[other[0]]!r:.60}; choose"
                " another --out"
            )
        self.dtype = header.dtype
        if len(lines) < 2:  # nothing was measured yet
            write_atomic(path, json.dumps({"question": dict(question), "dtype": self.dtype}) + "\n")
        for number, line in enumerate(lines[1:], start=2):
            place = f"{path}:{number}"
            self._check(convert(line, _Line, place, RunError), place)

    def _check(self, line: _Line, place: str | Path) -> None:
        score = line.measured
        prompts = self.prompts.setdefault(line.draw, len(score.recalled))
        needed = [self.documents, self.documents, prompts, prompts]
        if (found := [len(values) for values in vars(score).values()]) != needed:
            raise RunError(
                f"{place}: kl, loss, recalled and value_lost must have {needed} values, as the text"
                f" has documents and as other lines have prompts; got {found}"
            )
        self.known[line.draw, line.layout] = score

    def add(self, draw: int, layout: str, score: TextScore) -> None:
        line = _Line(draw, layout, score)
        self._check(line, self.path)
        append_synced(self.path, json.dumps(asdict(line)))


@dataclass(frozen=True)
class _Header:
    question: dict[str, Any]
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True)
class _Line:
    draw: Annotated[int, Meta(ge=0, le=1)]
    layout: str
    measured: TextScore
