"""The figures on the page with their captions, and those of a notebook."""

from __future__ import annotations

import base64
import io
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from flashnas.report.draw_plotly import draw_plotly
from flashnas.report.figures import FIGURES
from flashnas.report.marks import Picture
from flashnas.report.section import Section, render
from flashnas.runs.run import RecordedRun

PNG_DPI = 96  # of a picture in a notebook


class FiguresSection(Section):
    """The figures that have something to show; the others are named with the reason. Where the full
    loss ranks, the front is above the table of the finalists."""

    title = "Figures"

    def html(self, run: RecordedRun) -> str:
        unfit = {
            *(["front"] if run.ranks_full else []),
            *(["curves"] if run.untrained else []),
            *([] if run.further_objectives else ["objectives"]),
        }
        pictures = {name: draw(run) for name, draw in FIGURES.items() if name not in unfit}
        return render(
            "figures.html",
            figures=[
                page_figure(run, name, picture)
                for name, picture in pictures.items()
                if not picture.empty
            ],
            empty=[picture for picture in pictures.values() if picture.empty],
        )


class NotebookFigure(go.Figure):
    """A Plotly figure of which a notebook also keeps a picture, for readers without JavaScript such
    as those on GitHub. matplotlib draws it, without a browser. A figure that was changed has no
    such picture."""

    _picture: Picture

    @classmethod
    def of(cls, picture: Picture) -> NotebookFigure:
        figure = cls(draw_plotly(picture))
        figure._picture, figure._drawn = picture, figure.to_json()
        return figure

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(*args, **options)
        if bundle and "image/png" not in bundle and self.to_json() == getattr(self, "_drawn", None):
            # matplotlib loads when it draws
            from flashnas.report.draw_matplotlib import draw_matplotlib

            draw_matplotlib(self._picture).savefig(file := io.BytesIO(), format="png", dpi=PNG_DPI)
            bundle["image/png"] = base64.b64encode(file.getvalue()).decode()
        return bundle

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if bundle := self._repr_mimebundle_():
            display(bundle, raw=True)
        else:  # a renderer that opens a browser
            super()._ipython_display_()


def page_figure(run: RecordedRun, name: str, picture: Picture) -> dict[str, Any]:
    """A figure with its caption, for the page; no HTML parser takes its JSON for markup."""
    text = str(draw_plotly(picture).to_json())
    return {
        "name": name,
        "caption": render("captions.html", run=run, name=name),
        "json": Markup(
            text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        ),
    }


FIGURES_SECTION = FiguresSection()
