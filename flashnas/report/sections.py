"""The registry of the sections of report.html, and the plain ones: sources, failures, the command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.errors import RunError
from flashnas.base.registry import Registry
from flashnas.report.palette import SOFT, SOURCE_MEANING
from flashnas.report.section import Section, render
from flashnas.report.text import MISSING
from flashnas.runs.run import RecordedRun, rows

SECTIONS: Registry[Section] = Registry("report section", "flashnas.report_sections", {
    "header": "flashnas.report.header_section:HEADER",
    "finalists": "flashnas.report.finalists_section:FINALISTS",
    "figures": "flashnas.report.page_figures:FIGURES_SECTION",
    "trust": "flashnas.report.trust_section:TRUST",
    "published": "flashnas.report.published_section:PUBLISHED",
    "sources": "flashnas.report.sections:SOURCES",
    "failures": "flashnas.report.sections:FAILURES",
    "reproduce": "flashnas.report.sections:REPRODUCE"}, error=RunError,
    base="flashnas.report.section:Section")

SOURCE_COLOURS = {"measured": "#2B2D5B", "imported": "#55578F", "derived": "#ABADD0", "roofline": "#E69F00"}
MAX_FAILURES = 200


class SourcesSection(Section):
    """How much of each finalist's latency was measured, imported, derived or taken from a roofline."""

    title = "Where the latencies come from"

    def html(self, run: RecordedRun) -> str:
        shown = [finalist for finalist in run.front if finalist.sources]
        if not shown:
            return ""
        names = [*(name for name in SOURCE_MEANING if any(name in f.sources for f in shown)),
                 *sorted({name for f in shown for name in f.sources} - set(SOURCE_MEANING))]
        return render("sources.html", names=names, lines=[
            (finalist.name, [(SOURCE_COLOURS.get(name, SOFT), finalist.sources.get(name, 0.0))
                             for name in names])
            for finalist in shown],
            meanings="; ".join(f"{name}: {SOURCE_MEANING[name]}" for name in names if name in SOURCE_MEANING))


class FailuresSection(Section):
    """Failed trials by reason and one by one; infeasible ones by reason."""

    title = "What failed"

    def html(self, run: RecordedRun) -> str:
        failed, outside = run.failed, run.trials[run.trials["state"] == "infeasible"]
        return render("failures.html", reasons=list(failed["reason"].value_counts().items()),
                      failed=[(row.number, row.reason, compressed(row.notation))
                              for row in rows(failed.head(MAX_FAILURES))],
                      more=max(0, len(failed) - MAX_FAILURES),
                      outside=list(outside["reason"].value_counts().items()))


class ReproduceSection(Section):
    """The command, and everything in run.yaml that fixes the result."""

    title = "How to reproduce"

    def html(self, run: RecordedRun) -> str:
        return render("reproduce.html", command=run.entry("command"), entries=[
            (name, value) for name, value in _flat(run.config)
            if name != "command" and not name.startswith("question.")])


def _flat(data: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, MISSING if data is None or data == {} else str(data)


SOURCES, FAILURES, REPRODUCE = SourcesSection(), FailuresSection(), ReproduceSection()
