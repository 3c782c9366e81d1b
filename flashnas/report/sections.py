"""The registry of the sections of report.html, and the plain ones."""

from __future__ import annotations

from flashnas.architecture.folding import compressed
from flashnas.base.errors import RunError
from flashnas.base.registry import Registry
from flashnas.base.text import MISSING, flat
from flashnas.report.palette import SOFT, SOURCES, ordered_sources
from flashnas.report.section import Section, render
from flashnas.runs.run import RecordedRun, rows
from flashnas.runs.trained import ModelEvaluation, trained_models

SECTIONS: Registry[Section] = Registry(
    "report section",
    "flashnas.report_sections",
    {
        "header": "flashnas.report.header_section:HEADER",
        "finalists": "flashnas.report.finalists_section:FINALISTS",
        "figures": "flashnas.report.page_figures:FIGURES_SECTION",
        "evaluation": "flashnas.report.sections:EVALUATED",
        "sources": "flashnas.report.sections:ORIGINS",
        "failures": "flashnas.report.sections:FAILURES",
        "reproduce": "flashnas.report.sections:REPRODUCE",
    },
    error=RunError,
    base="flashnas.report.section:Section",
)

MAX_FAILURES = 200


class EvaluationSection(Section):
    """Bits per byte and tasks of the networks in `RUN/trained`."""

    title = "Trained networks, evaluated"

    def html(self, run: RecordedRun) -> str:
        lines = [
            (entry.name, folder.parent.name, *figure)
            for entry, folder in trained_models(run)
            if (evaluation := ModelEvaluation.read(folder))
            for figure in evaluation.figures()
        ]
        return render("evaluation.html", lines=lines) if lines else ""


class SourcesSection(Section):
    """How much of each finalist's latency was measured, imported, derived or taken from a
    roofline.
    """

    title = "Where the latencies come from"

    def html(self, run: RecordedRun) -> str:
        shown = [finalist for finalist in run.front if finalist.sources]
        if not shown:
            return ""
        names = ordered_sources(name for finalist in shown for name in finalist.sources)
        return render(
            "sources.html",
            names=names,
            lines=[
                (
                    finalist.name,
                    [
                        (SOURCES.get(name, (SOFT,))[0], finalist.sources.get(name, 0.0))
                        for name in names
                    ],
                )
                for finalist in shown
            ],
            meanings="; ".join(f"{name}: {SOURCES[name][2]}" for name in names if name in SOURCES),
        )


class FailuresSection(Section):
    """Failed trials by reason and one by one; infeasible ones by reason."""

    title = "What failed"

    def html(self, run: RecordedRun) -> str:
        failed, outside = run.failed, run.trials[run.trials["state"] == "infeasible"]
        return render(
            "failures.html",
            reasons=list(failed["reason"].value_counts().items()),
            failed=[
                (row.number, row.reason, compressed(row.notation))
                for row in rows(failed.head(MAX_FAILURES))
            ],
            more=max(0, len(failed) - MAX_FAILURES),
            outside=list(outside["reason"].value_counts().items()),
        )


class ReproduceSection(Section):
    """The command, and everything in run.yaml that fixes the result."""

    title = "How to reproduce"

    def html(self, run: RecordedRun) -> str:
        return render(
            "reproduce.html",
            command=run.entry("command"),
            entries=[
                (name, MISSING if value in (None, {}) else str(value))
                for name, value in flat(run.config)
                if name != "command" and not name.startswith(("question.", "answer."))
            ],
        )


EVALUATED, ORIGINS = EvaluationSection(), SourcesSection()
FAILURES, REPRODUCE = FailuresSection(), ReproduceSection()
