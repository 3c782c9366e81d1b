"""The picture of `flashnas scaling-law`."""

import numpy as np
import pandas as pd
import pytest

from flashnas.latency.prediction import LatencyModel
from flashnas.report.still_figures import draw_scaling
from flashnas.trust.depth_width import Sizes, findings
from flashnas.trust.scaling_grid import block

DEPTHS, WIDTHS = (2, 4, 8, 16), (512, 768, 1024, 2048)


@pytest.fixture(scope="module")
def found():
    depth, width, tokens = (axis.ravel().astype(float) for axis in np.meshgrid(DEPTHS, WIDTHS, [10**5, 10**6],
                                                                               indexing="ij"))
    loss = 2 + depth ** -0.5 + 9 * width ** -0.4 + 20 * tokens ** -0.3
    return findings(pd.DataFrame({"depth": depth, "width": width, "tokens": tokens, "loss": loss}), resamples=0)


def test_each_depth_has_a_line_and_the_answer_a_star(found):
    sizes = Sizes("m2 f", found, LatencyModel("h100_sxm", "decode-8k"))
    best = sizes.best(6000)
    figure = draw_scaling(found, sizes, "words above", best, 6000)
    left, right = figure.axes
    shown = dict(zip([text.get_text() for text in left.get_legend().get_texts()], left.get_legend().legend_handles,
                     strict=True))
    assert list(shown) == [*(f"{depth} blocks" for depth in DEPTHS), f"best: {best.depth} x {best.width}"]
    dots = next(line for line in left.lines if line.get_label() == "4 blocks")
    expected = [sizes.model.estimate(block("m2 f", 4, width)).latency_ms / 1000 for width in WIDTHS]
    assert dots.get_xdata() == pytest.approx(expected)
    assert "budget 6 s" in [text.get_text() for text in left.texts]
    fitted, held = (next(line for line in right.lines if line.get_label().startswith(name)) for name in
                    ("fitted", "held out"))
    assert len(held.get_xdata()) == len(found.held_out) == 14
    assert len(fitted.get_xdata()) + len(held.get_xdata()) == len(found.points)
    assert held.get_ydata() == pytest.approx(held.get_xdata(), abs=0.01)
    assert figure.texts[-1].get_text() == "words above"


def test_without_a_budget_there_is_no_star(found):
    sizes = Sizes("m2 f", found, LatencyModel("h100_sxm", "decode-8k"))
    figure = draw_scaling(found, sizes, "", None, None)
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "*"]
