"""report.html: one page that needs nothing else. Plotly is embedded, no request leaves it, all text is
escaped."""

from __future__ import annotations

import time
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flashnas.base.errors import FlashnasError, PluginError
from flashnas.report.section import render
from flashnas.report.sections import SECTIONS
from flashnas.runs.run import RecordedRun

# the browser itself refuses every request: it loads nothing but the content of the file
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
          " font-src data:; form-action 'none'; base-uri 'none'")
RELOAD_S = 30            # of the page of a run that has not ended
# buttons by name: Plotly's default set includes one that uploads the chart
CONFIG = ('{"responsive": true, "displaylogo": false, "plotlyServerURL": "",'
          ' "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}')
SCRIPT = """
function narrow(layout) {  // the legend below the plot, wrapped titles, the names that matter
  layout.annotations = (layout.annotations || []).filter(label => label.name !== 'minor');
  layout.legend = {...layout.legend, orientation: 'h', x: 0, xanchor: 'left', y: -0.22, yanchor: 'top'};
  layout.margin = {l: 54, r: 8, t: 110, b: 60, ...layout.margin, ...(layout.margin?.r > 60 ? {r: 60} : {})};
  layout.height += 120;
  const title = layout.title;
  if (title?.text) title.text = wrapped(title.text, 38);
  if (title?.subtitle?.text) title.subtitle.text = wrapped(title.subtitle.text, 52);
}
function wrapped(text, width) {
  let length = 0;
  return text.split(' ').map(word => {
    length += word.length + 1;
    if (length <= width) return word + ' ';
    length = word.length + 1;
    return '<br>' + word + ' ';
  }).join('').trim();
}
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  const config = CONFIG;
  if (innerWidth < 700) {
    narrow(figure.layout);
    config.displayModeBar = false;
  }
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout, config);
}
""".replace("CONFIG", CONFIG)


def render_html(run: RecordedRun) -> str:
    """The whole page: the shipped sections, then those of other packages.

    Raises:
        RunError: a file of the run is damaged.
        PluginError: a section of another package fails.
    """
    bodies = [(section.title, _body(name, run)) for name, section in SECTIONS.items()]
    shown = [(title, body) for title, body in bodies if body]
    reload_s = None if run.entry("finished") else RELOAD_S
    return render("page.html", run=run, policy=Markup(POLICY), sections=shown, reload_s=reload_s,
                  written=time.strftime("%H:%M:%S"),
                  style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
                  plotly=Markup(get_plotlyjs()), script=Markup(SCRIPT), flashnas=run.entry("flashnas"))


def _body(name: str, run: RecordedRun) -> str:
    section = SECTIONS[name]
    try:
        return section.html(run)
    except FlashnasError:
        raise
    except Exception as error:
        if name in SECTIONS.shipped:
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        raise PluginError(f"report section {name!r} of the package {SECTIONS.origin(name)}:"
                          f" {type(error).__name__}: {line}") from error
