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
from flashnas.base.system import disk_errors
from flashnas.conversion.choices import Choice, Layout, converted, key_of
from flashnas.data.scored_text import Draw
from flashnas.network.model import Block, HybridLM
from flashnas.operators.feed_forward.layer import FeedForwardLayer, swiglu
from flashnas.training.teacher_text import Streams, TeacherText, TextScore


class Student:
    """The teacher with changed layers, on one draw of text.

    columns: of each feed-forward network, its columns by importance, the most important first;
    where they are not given, those of this draw. trained: key of a choice -> its layer. dtype: of
    the matrices of layers.

    Layouts that first change a late layer start from the teacher's stream there.
    """

    def __init__(
        self,
        teacher: HybridLM,
        draw: Draw,
        dtype: str,
        columns: Mapping[int, Tensor] | None = None,
        trained: Mapping[str, Block] | None = None,
    ) -> None:
        self.teacher = teacher
        self.trained = trained or {}
        self.columns = dict(columns or {})
        self.documents = len(draw.documents)
        look = self._order_columns if columns is None else lambda n, streams: None
        self.text = TeacherText(teacher, draw, dtype, look)
        self._start = 0, self.text.embedded(teacher)

    @torch.no_grad()
    def _order_columns(self, n: int, streams: Streams) -> None:
        """Order the columns of a feed-forward network by their root mean square on the documents
        times their norm on the way out."""
        block = self.teacher.blocks[n]
        if not isinstance(block.mixer, FeedForwardLayer) or block.mixer.relu2:
            return
        squares_F = [
            swiglu(block.mixer.in_proj(block.norm(x))).square().mean((0, 1))
            for x in streams[: self.documents]
        ]
        norms_F = block.mixer.out_proj.weight.norm(dim=0)
        self.columns[n] = (torch.stack(squares_F).mean(0).sqrt() * norms_F).argsort(descending=True)

    def measure(self, layout: Layout) -> TextScore:
        """KL, loss and recall of a layout."""
        blocks: list[Block | None] = [*self.text.blocks]
        for choice in layout:
            block = self._block(choice)
            blocks[choice.layer] = block and self.text.ready(block)
        first = layout[0].layer
        streams = self._streams_at(first)
        for changed in blocks[first:]:
            streams = self.text.through(changed, streams)
        return self.text.scored(streams, self.teacher)

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
        if choice.trained:
            return self.trained[choice.key].to(self.text.device)
        own = self.teacher.blocks[choice.layer]
        state = dict(own.state_dict())
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
        return block.to(self.text.device)

    def _streams_at(self, layer: int) -> Streams:
        """The teacher's streams in front of a layer; those of the last call are kept."""
        at, streams = self._start
        if at > layer:
            at, streams = 0, self.text.embedded(self.teacher)
        for block in self.text.blocks[at:layer]:
            streams = self.text.through(block, streams)
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

    def get(self, draw: int, layout: Layout, student: Any) -> TextScore:
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
    measured: TextScore
