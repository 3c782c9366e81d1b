"""The section of report.html with what `flashnas eval` found of networks of the front that were trained."""

from __future__ import annotations

from flashnas.report.section import Section, render
from flashnas.runs.run import RecordedRun
from flashnas.runs.trained import ModelEvaluation, trained_models


class EvaluationSection(Section):
    """Bits per byte and tasks of the networks in `RUN/trained`."""

    title = "Trained networks, evaluated"

    def html(self, run: RecordedRun) -> str:
        """See Section. Raises RunError in one line for a damaged file."""
        lines = [(entry.name, folder.parent.name, *figure) for entry, folder in trained_models(run)
                 if (evaluation := ModelEvaluation.read(folder)) for figure in evaluation.figures()]
        return render("evaluation.html", lines=lines) if lines else ""


EVALUATED = EvaluationSection()
