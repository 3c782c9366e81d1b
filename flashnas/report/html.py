"""report.html: one page that needs nothing else. Plotly is embedded, no request leaves it, all text is escaped."""

from __future__ import annotations

import html
from pathlib import Path

from plotly.offline import get_plotlyjs

from flashnas.report.objectives_figure import further_objectives
from flashnas.report.plots import FIGURES
from flashnas.report.sections import (
    failures_section,
    finalists_section,
    header_section,
    reproduce_section,
    sources_section,
)
from flashnas.report.trust_section import trust_section
from flashnas.study.run import Run

# the browser itself refuses every request: nothing but what stands in the file is loaded
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
          " font-src data:; form-action 'none'; base-uri 'none'")
# buttons by name: Plotly's default set includes one that uploads the chart
CONFIG = ('{"responsive": true, "displaylogo": false, "plotlyServerURL": "",'
          ' "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}')
SCRIPT = """
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout, CONFIG);
}
""".replace("CONFIG", CONFIG)

CAPTIONS = {
    "front": "Each point is a network that was trained for a short time; its latency comes from the latency table, at"
             " full width. Nothing to the lower left of the black line was found. Diamonds are pure-operator models:"
             " one token mixer throughout, as wide as the same budget allows. Hover for the architecture.",
    "objectives": "The other objectives of the search against latency. Named points are on the front, some of them for"
                  " these objectives alone. Colours and rings as in the first figure.",
    "hypervolume": "How much of the plane the front covers after each trained network, repeats left out. The line is"
                   " flat while nothing new enters the front.",
    "operators": "Left: the architectures of the front. Right: everything that the search trained, baselines left out."
                 " A kind that is taller on the left stands there more often in the front than in what was tried.",
    "latency-by-operator": "Predicted from the latency table for the run's workload. An imported or measured time is"
                           " solid; a derived or roofline time is hatched and carries wider bounds.",
    "latency-by-kernel": "Matrix products include the head. Calibration, where the table has one, is the difference"
                         " between the sum of single kernels and measured whole models. Tables that were measured"
                         " operator by operator show whole operators in place of kernels.",
    "curves": "The start of training may lie above the frame. Networks whose final losses differ by less than the noise"
              " between seeds are not ranked by one run.",
}


def render_html(run: Run) -> str:
    """The whole page."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    drawn = {**FIGURES, **({"objectives": further_objectives} if run.further_objectives else {})}
    figures = "\n".join(_figure(name, draw(run).to_json()) for name, draw in drawn.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flashnas · {html.escape(run.name)}</title>
<style>{style}</style>
<script id="plotly">{get_plotlyjs()}</script>
</head>
<body>
<main>
{header_section(run)}
{finalists_section(run)}
<h2>Figures</h2>
{figures}
{trust_section(run)}
{sources_section(run)}
{failures_section(run)}
{reproduce_section(run)}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _figure(name: str, json_text: str) -> str:
    data = json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return (f'<figure id="{name}"><div class="plot"></div><script type="application/json">{data}</script>'
            f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>")
