"""report.html: one page that needs nothing else. It runs no script, no request leaves it, and all
text is escaped. Its sections are in `sections.py`; other packages may add to them.

Templates, also those of what commands print, are in `templates`.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from flashnas.architecture.architecture import compressed
from flashnas.base import text
from flashnas.base.errors import RunError
from flashnas.base.registry import Registry, foreign_errors
from flashnas.base.system import disk_errors, write_atomic
from flashnas.run_folder.recorded_run import RecordedRun

if TYPE_CHECKING:
    pass

# the browser itself refuses every script and every request
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
PICTURE = "pareto.png"  # the front, beside the page
RELOAD_S = 30  # of the page of a run that has not ended


@dataclass(frozen=True)
class Section:
    """One section of the report. Another package adds one by an entry point that names it:

        [project.entry-points."flashnas.report_sections"]
        energy = "flashnas_energy:SECTION"

    title: the heading; empty: none. of: `search` or `conversion`, the runs that have it; empty: both.
    html: the content below the heading, from what the run folder holds; nothing is evaluated again.
        It returns markup (markupsafe), as jinja2 templates give it; plain text is escaped. An empty
        text leaves the section out.
    picture: name of a still picture that is written beside report.html, such as `energy.png`.
    png: the content of that picture; None: it is not written.
    """

    title: str
    html: Callable[[RecordedRun], str]
    picture: str = ""
    png: Callable[[RecordedRun], bytes | None] = lambda run: None
    of: str = ""

    def shown(self, run: RecordedRun) -> bool:
        return self.of in ("", "conversion" if run.entry("conversion") else "search")


SECTIONS: Registry[Section] = Registry(
    "report section",
    "flashnas.report_sections",
    {
        "header": "flashnas.reporting.sections:HEADER",
        "conversion": "flashnas.reporting.conversion:CONVERSION",
        **{
            name: f"flashnas.reporting.sections:{name.upper()}"
            for name in ("finalists", "figures", "evaluation", "sources", "failures", "reproduce")
        },
    },
    error=RunError,
    base="flashnas.reporting.page:Section",
)


def render_html(run: RecordedRun) -> str:
    """The whole page: the shipped sections, then those of other packages.

    Raises:
        RunError: a file of the run is damaged.
        PluginError: a section of another package fails.
    """
    shown = []
    for section in SECTIONS.values():
        with foreign_errors(("report section", section.html)):
            if section.shown(run) and (body := section.html(run)):
                shown.append((section.title, body))
    page = render(
        "page.html",
        run=run,
        policy=Markup(POLICY),
        sections=shown,
        style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        reload_s=None if run.entry("finished") else RELOAD_S,
        written=time.strftime("%H:%M:%S"),
        flashnas=run.entry("flashnas"),
    )
    # a terminal obeys control characters of foreign text where somebody reads the file there
    return "\n".join(map(text.printable, page.split("\n")))


def write_report(source: str | Path | RecordedRun) -> tuple[Path, Path]:
    """Write report.html and its still pictures, pareto.png first, into a run folder; source: it, or
    its run.

    Returns:
        The paths of report.html and pareto.png.

    Raises:
        RunError: the folder is not a run, is damaged, or cannot be written.
        PluginError: a section of another package cannot be loaded or fails.
    """
    run = source if isinstance(source, RecordedRun) else RecordedRun.load(source)
    page = run.path / "report.html"
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        write_atomic(page, render_html(run))
        for section in SECTIONS.values():
            if section.picture:
                with foreign_errors(("report section", section.png)):
                    picture = section.png(run)
                if picture is not None:
                    write_atomic(run.path / section.picture, picture)
    return page, run.path / PICTURE


def render(template: str, **values: Any) -> Markup:
    """A template with these values. In HTML, each is escaped unless it is Markup."""
    return Markup(_environment().get_template(template).render(**values))


def render_text(template: str, **values: Any) -> str:
    """A template of a text. A backslash at the end of one of its lines joins the next one to it."""
    written = _environment().get_template(template).render(**values)
    return re.sub(r" *\\\n *", " ", written).rstrip()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flashnas.reporting"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compressed": compressed,
        "counted": text.counted,
        "fixed": text.fixed,
        "names": text.names_text,
        "number": text.number,
        "parameters": text.parameters,
        "shown": lambda value: text.MISSING if value is None or value == "" else value,
        "signed": text.signed,
        "tokens": text.tokens_text,
    }
    environment.globals |= {"table": text.table, "with_interval": text.with_interval}
    return environment
