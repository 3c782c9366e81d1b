"""The picture of `flashnas scaling-law`."""

import numpy as np
import pandas as pd
import pytest

from flashnas.latency.prediction import LatencyModel
from flashnas.report.draw_matplotlib import draw_matplotlib
from flashnas.report.marks import Guide, Points
from flashnas.report.study_figures import scaling_picture
from flashnas.trust.depth_width import Sizes, findings
from flashnas.trust.scaling_grid import block

DEPTHS, WIDTHS = (2, 4, 8, 16), (512, 768, 1024, 2048)


@pytest.fixture(scope="module")
def found():
    depth, width, tokens = (axis.ravel().astype(float) for axis in np.meshgrid(DEPTHS, WIDTHS, [10**5, 10**6],
                                                                               indexing="ij"))
    loss = 2 + depth ** -0.5 + 9 * width ** -0.4 + 20 * tokens ** -0.3
    return findings(pd.DataFrame({"depth": depth, "width": width, "tokens": tokens, "loss": loss}), resamples=0)


def points(picture, place):
    return {mark.group or mark.shape: mark for mark in picture.panels[place].marks if isinstance(mark, Points)}


def test_each_depth_has_a_line_and_the_answer_a_star(found):
    sizes = Sizes("m2 f", found, LatencyModel("h100_sxm", "decode-8k"))
    best = sizes.best(6000)
    picture = scaling_picture(found, sizes, "words above", best, 6000)
    assert picture.subtitle == "words above"
    left, right = points(picture, 0), points(picture, 1)
    assert list(left) == [*(f"{depth} blocks" for depth in DEPTHS), "star"]
    assert [key.text for key in picture.keys][:5] == [*list(left)[:4], f"best: {best.depth} x {best.width}"]
    expected = [sizes.model.estimate(block("m2 f", 4, width)).latency_ms / 1000 for width in WIDTHS]
    assert list(left["4 blocks"].x) == pytest.approx(expected)
    assert [mark.text for mark in picture.panels[0].marks if isinstance(mark, Guide)] == ["budget 6 s"]
    fitted, held = right["fitted"], right["held out"]
    assert len(held.x) == len(found.held_out) == 14
    assert len(fitted.x) + len(held.x) == len(found.points)
    assert held.y == pytest.approx(held.x, abs=0.01)
    assert draw_matplotlib(picture).axes[0].get_xscale() == "log"
