"""Intervals of means over few documents."""

import numpy as np
import pytest

from flashnas.training.teacher_text import half_width


@pytest.mark.parametrize("documents", [4, 8, 12, 64])
def test_nine_of_ten_intervals_hold_the_mean_of_few_documents(documents):
    values = np.random.default_rng(documents).normal(0.4, 0.1, (4000, documents))
    inside = [abs(row.mean() - 0.4) <= half_width(row) for row in values]
    assert 0.88 <= np.mean(inside) <= 0.92


@pytest.mark.parametrize(("documents", "least"), [(4, 0.84), (12, 0.85), (64, 0.87)])
def test_documents_of_another_kind_are_held_nearly_as_often(documents, least):
    """Where a few documents have most of the KL: lognormal, with a standard deviation of 0.5."""
    values = np.random.default_rng(documents).lognormal(0, 0.5, (4000, documents))
    inside = [abs(row.mean() - np.exp(0.125)) <= half_width(row) for row in values]
    assert least <= np.mean(inside) <= 0.91
