"""What a section of report.html is, and the templates, which escape every value that they show."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flashnas.architecture.folding import compressed
from flashnas.base.text import MISSING
from flashnas.runs.run import RecordedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Section(ABC):
    """One section of the report. Another package adds one by an entry point that names an instance:

        [project.entry-points."flashnas.report_sections"]
        energy = "flashnas_energy:SECTION"

    title: the heading; empty: none.
    picture: name of a still picture that is written beside report.html, such as `energy.png`;
    empty: none.
    """

    title: ClassVar[str] = ""
    picture: ClassVar[str] = ""

    @abstractmethod
    def html(self, run: RecordedRun) -> str:
        """The content below the heading, from what the run folder holds; nothing is evaluated
        again.

        Returns:
            Markup (markupsafe), as `render` and jinja2 templates give it. Plain text is escaped. An
            empty text leaves the section out.
        """

    def png(self, run: RecordedRun) -> Figure | None:
        """The still picture as a matplotlib figure; None: it is not written."""
        return None


def render(template: str, **values: Any) -> Markup:
    """A template of flashnas/report/templates with these values, each escaped unless it is
    Markup.
    """
    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flashnas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["compressed"] = compressed
    environment.filters["shown"] = lambda value: MISSING if value is None or value == "" else value
    return environment
