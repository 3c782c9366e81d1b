"""The loss of a network that learns from another one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashnas.network.loss import linear_distillation
from flashnas.network.model import HybridLM


@dataclass(frozen=True, eq=False)
class Distillation:
    """KL of the next-token distribution from a teacher's, as the loss of a `Start`.

    teacher: of the same vocabulary, on the device of the training. temperature: by which the logits
    of both are divided. loss_weight: of the cross-entropy with the text, beside the KL.
    """

    teacher: HybridLM
    temperature: float = 1.0
    loss_weight: float = 0.0

    def __call__(self, network: HybridLM, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The mean over the targets, in nats per token."""
        with torch.no_grad():
            teacher_x = self.teacher.hidden_states(tokens_BT).flatten(0, 1)
        return linear_distillation(
            network.hidden_states(tokens_BT).flatten(0, 1),
            network.head_weight,
            teacher_x,
            self.teacher.head_weight,
            self.temperature,
            targets_BT.flatten(),
            self.loss_weight,
        )
