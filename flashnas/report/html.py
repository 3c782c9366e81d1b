"""report.html: one page that needs nothing else. Plotly is embedded, no request leaves it, all text
is escaped."""

from __future__ import annotations

import time
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flashnas.base.registry import foreign_errors
from flashnas.report.section import render
from flashnas.report.sections import SECTIONS
from flashnas.runs.run import RecordedRun

# the browser itself refuses every request: it loads nothing but the content of the file
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    " blob:;"
    " font-src data:; form-action 'none'; base-uri 'none'"
)
RELOAD_S = 30  # of the page of a run that has not ended


def render_html(run: RecordedRun) -> str:
    """The whole page: the shipped sections, then those of other packages.

    Raises:
        RunError: a file of the run is damaged.
        PluginError: a section of another package fails.
    """
    shown = []
    for section in SECTIONS.values():
        with foreign_errors(("report section", section)):
            if body := section.html(run):
                shown.append((section.title, body))
    style, script = (
        Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("report.css", "report.js")
    )
    return render(
        "page.html",
        run=run,
        policy=Markup(POLICY),
        sections=shown,
        style=style,
        script=script,
        reload_s=None if run.entry("finished") else RELOAD_S,
        written=time.strftime("%H:%M:%S"),
        plotly=Markup(get_plotlyjs()),
        flashnas=run.entry("flashnas"),
    )
