"""report.html in a browser: what a reader needs is in sight at the width of a phone and of a desk."""

import html
import json
import re
import shutil
import subprocess

import pytest

import flashnas as fn

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FRAME = """<iframe src="report.html" style="border:0;width:{width}px;height:3000px"></iframe><pre></pre><script>
document.querySelector("iframe").onload = function () {{
  const page = this.contentDocument, at = name => page.querySelector(name).getBoundingClientRect();
  document.querySelector("pre").textContent = JSON.stringify({{
    wide: page.documentElement.scrollWidth, answer: at("dd"), plot: at("img"),
    row: at("tr.recommended td:nth-child(2)"), drawn: page.querySelector("img").naturalWidth}});
}};</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1400])
def test_answer_plot_and_recommended_network_are_in_sight(width, tmp_path):
    question = {"space": "granite", "params": "0.5B..1B", "budgets": {"latency_ms": 20_000}}
    fn.search(**question, out=tmp_path / "run").report(tmp_path / "report.html")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    words = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --dump-dom"
    where = f"--user-data-dir={tmp_path / 'profile'}"
    page = subprocess.run(
        [CHROMIUM, *words.split(), "--virtual-time-budget=5000", where, tmp_path / "frame.html"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    seen = json.loads(html.unescape(re.search(r"<pre>(.+?)</pre>", page)[1]))
    assert seen["wide"] <= width, "nothing but tables and plots scrolls to the side"
    assert seen["drawn"] > 1000
    assert seen["answer"]["bottom"] < 400
    assert seen["plot"]["width"] >= 360
    assert seen["row"]["left"] < 0.3 * width
    assert seen["row"]["height"] < 80
