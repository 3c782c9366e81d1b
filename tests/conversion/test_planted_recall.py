"""A choice finds the layers that carry the recall, in a model where they are known."""

import pytest
from planted import PLANTED, planted_llama

import flashnas as fn

pytestmark = pytest.mark.slow


def test_the_layers_that_carry_the_recall_are_kept(tmp_path):
    model, text = planted_llama(tmp_path)
    options = {
        "data": str(text),
        "calibration": "paper",
        "context": 256,
        "documents": 8,
        "prompts": 8,
        "windows": (),
        "keep": ("f",),
        "sets": 8,
        "finalists": 3,
        "out": tmp_path / "run",
    }
    found = fn.convert(str(model), budget_ms="99%", **options)
    assert found.probes_done >= 16
    saved_ms = found.singles[0].saved_ms
    # four of six must go
    found = fn.convert(str(model), budget_ms=str(found.model_ms - 3.9 * saved_ms), **options)
    (answer,) = found.answers
    carrying = {2 * layer for layer in PLANTED}
    for entry in answer.layers:
        assert entry.chosen == ("kept" if entry.layer in carrying else "none")
        assert entry.decided
    assert found.finalists[0].recall > 0.8
