"""What a network loses against its teacher on a draw of text: KL, loss, recall.

Shapes: N documents, P prompts, T context, D hidden, V vocabulary, S scored positions.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from scipy import stats
from torch import Tensor

from flashnas.base.errors import WeightsError
from flashnas.data.scored_text import Draw, Probe
from flashnas.network.model import Block, HybridLM

POSITIONS = 256  # of a document whose logits are compared
TEACHER_BYTES = 1 << 30  # of the teacher's log-probabilities, which are kept
Nats = Annotated[float, Meta(ge=-1e-3, le=1e9)]  # a KL of 0 may be rounded to less
Share = Annotated[float, Meta(ge=0, le=1)]
Streams = list[Tensor]  # [1, T, D] of each document and prompt


@dataclass(frozen=True)
class TextScore:
    """Of one network on one draw. kl, loss: nats per token, one for each document. recalled: share
    of the teacher's probes, one for each prompt. value_lost: nats by which the log-probability of a
    probe's value falls, 0 where it rises; the mean of each prompt."""

    kl: list[Nats]
    loss: list[Nats]
    recalled: list[Share]
    value_lost: list[Nats]

    def figures(self) -> dict[str, Any]:
        """Means over the draw: KL with half of its 90 % interval, loss, and recall, which is None
        where the teacher does no probe."""
        return {
            "kl": float(np.mean(self.kl)),
            "kl_half": half_width(self.kl),
            "loss": float(np.mean(self.loss)),
            "recall": float(np.mean(self.recalled)) if self.recalled else None,
        }


def half_width(values: list[float] | np.ndarray) -> float:
    """Half of the 90 % interval of a mean over documents that were drawn, by Student's t."""
    return float(student_t(len(values)) * np.std(values, ddof=1) / np.sqrt(len(values)))


@functools.cache
def student_t(count: int) -> float:
    """Standard errors on each side of a 90 % interval, of a mean of so many values, at least 2."""
    return float(stats.t.ppf(0.95, max(count, 2) - 1))


class TeacherText:
    """A draw of text as a teacher reads it, by which networks are scored.

    dtype: of the matrices of layers; norms, the stream and the head are in float32, since logits
    that are rounded to bfloat16 add to a small KL.
    """

    def __init__(self, teacher: HybridLM, draw: Draw, dtype: str) -> None:
        self.teacher = teacher.eval()
        self.draw = draw
        self.dtype = getattr(torch, dtype)
        self.device = teacher.embedding.weight.device
        documents, context = draw.documents.shape
        room = TEACHER_BYTES // (4 * teacher.architecture.vocab * documents)
        count = max(1, min(POSITIONS, room, context - 1))
        self.positions_S = torch.linspace(0, context - 2, count).round().long()
        self.blocks = [self.ready(block) for block in teacher.blocks]
        streams = self.embedded(teacher)
        for block in self.blocks:
            streams = self.through(block, streams)
        self.log_p = [self._log_p(x, self.positions_S, teacher) for x in streams[:documents]]
        # what the teacher does not recall says nothing of a student; probe -> its log-probability
        self.probes = {
            probe: log_p for probe, hit, log_p in self._asked(draw.probes, streams, teacher) if hit
        }
        self.loss = [self._loss(n, log_p) for n, log_p in enumerate(self.log_p)]
        if not np.isfinite(self.loss).all():
            raise WeightsError("the model's loss on the text is not finite: its weights overflow")

    def score(self, network: HybridLM) -> TextScore:
        """KL, loss and recall of a network with the teacher's vocabulary."""
        streams = self.embedded(network)
        for block in network.blocks:
            streams = self.through(self.ready(block), streams)
        return self.scored(streams, network)

    @torch.no_grad()
    def scored(self, streams: Streams, network: HybridLM) -> TextScore:
        """KL, loss and recall of the streams behind the last layer. network: has norm and head."""
        kl, loss = [], []
        for n, log_p in enumerate(self.log_p):
            log_q = self._log_p(streams[n], self.positions_S, network)
            kl.append(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
            loss.append(self._loss(n, log_q))
        sums = np.zeros((3, len(self.draw.prompts)))
        for probe, hit, log_p_value in self._asked(self.probes, streams, network):
            sums[:, probe.prompt] += hit, max(self.probes[probe] - log_p_value, 0.0), 1
        sums = sums[:, sums[2] > 0]
        recalled, value_lost = (sums[:2] / sums[2]).tolist()
        return TextScore(kl, loss, recalled, value_lost)

    # -- the forward pass --------------------------------------------------------------------------

    @torch.no_grad()
    def embedded(self, network: HybridLM) -> Streams:
        rows = [*self.draw.documents, *self.draw.prompts]
        return [
            network.embed(torch.from_numpy(row[None]).long().to(self.device)).float()
            for row in rows
        ]

    def ready(self, block: Block) -> Block:
        """A copy for the forward pass."""
        block = copy.deepcopy(block).eval()
        block.mixer.to(self.dtype)
        return block

    @torch.no_grad()
    def through(self, block: Block | None, streams: Streams) -> Streams:
        """The streams behind a layer; None: one that is gone."""
        if block is None:
            return streams
        return [x + block.mixer(block.norm(x).to(self.dtype))[0] for x in streams]

    @torch.no_grad()
    def _log_p(self, x_BTD: Tensor, positions: Tensor, network: HybridLM) -> Tensor:
        """Log-probabilities [S, V] after these positions."""
        x_SD = network.final_norm(x_BTD[0, positions])
        return F.linear(x_SD, network.head_weight).log_softmax(-1)

    def _loss(self, document: int, log_p_SV: Tensor) -> float:
        targets_S = torch.from_numpy(self.draw.documents[document])[self.positions_S + 1].long()
        return float(-log_p_SV.gather(1, targets_S[:, None].to(self.device)).mean())

    def _asked(
        self, probes: Iterable[Probe], streams: Streams, network: HybridLM
    ) -> Iterator[tuple[Probe, bool, float]]:
        """Each probe, whether its value is the most likely continuation, and the log-probability
        of the value."""
        for probe in probes:
            at = torch.tensor(probe.positions)
            x_BTD = streams[len(self.draw.documents) + probe.prompt]
            log_p_SV = self._log_p(x_BTD, at - 1, network)
            value_S = torch.from_numpy(self.draw.prompts[probe.prompt])[at].to(self.device)
            hit = bool((log_p_SV.argmax(-1) == value_S).all())
            yield probe, hit, float(log_p_SV.gather(1, value_S[:, None]).sum())
