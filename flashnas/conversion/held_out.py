"""What a network that is healed is worth on held-out text, and what the healing will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flashnas.base.text import duration
from flashnas.conversion.measure import Student
from flashnas.conversion.texts import held_out_draw
from flashnas.data.dataset import Dataset
from flashnas.network.model import HybridLM
from flashnas.network.precision import fast_dtype
from flashnas.training.cost import ASSUMED_RATES, training_flops
from flashnas.training.recipe import Recipe

CONTEXT = 1024
DOCUMENTS = 8
PROMPTS = 6


class HeldOutScore:
    """Scores a network on validation text by its teacher, and says at the first time what the
    training will take at the pace of the forward passes that it has timed."""

    def __init__(self, teacher: HybridLM, recipe: Recipe, note: Callable[[str], None]) -> None:
        self.teacher = teacher
        self.recipe = recipe
        self.note = note
        self._student: Student | None = None

    def __call__(self, network: HybridLM, dataset: Dataset) -> dict[str, Any]:
        """KL to the teacher, half of its 90 % interval, loss in nats per token, the share of the
        teacher's recall that is left (None without a probe that the teacher does), and the number
        of those probes."""
        student = self._student
        if student is None:
            draw = held_out_draw(dataset, context=CONTEXT, documents=DOCUMENTS, prompts=PROMPTS)
            device = self.teacher.embedding.weight.device.type
            student = Student(self.teacher, draw, fast_dtype(device))
        started = time.monotonic()
        score = student.score(network)
        if self._student is None:
            self._student = student
            self._say_plan(network, time.monotonic() - started)
        return {**score.figures(), "probes": len(student.probes)}

    def _say_plan(self, network: HybridLM, score_s: float) -> None:
        """score_s: of the forward passes over the held-out text."""
        recipe = self.recipe
        tokens = recipe.steps * recipe.batch_tokens
        of_teacher = self.teacher.architecture.flops_per_token(recipe.sequence_tokens) * tokens
        flops = training_flops(network.architecture, recipe) + of_teacher
        scored = network.architecture.prefill_flops(CONTEXT) * (DOCUMENTS + PROMPTS)
        self.note(
            f"plan: {tokens:,} tokens, {flops:.1e} FLOP with the"
            f" teacher's; about {duration(flops / scored * score_s)} at the pace of a forward pass"
            f" here, and {duration(flops / ASSUMED_RATES['cuda'])} on one H100 at an assumed 15 % of"
            " its peak"
        )
        self.note(
            "the loss of steps is that of the distillation; validation is the loss on the text"
        )
