"""The command that writes the report of a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.api.calling import takes
from flashnas.api.run import Run
from flashnas.base.settings import REQUIRED, Settings, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Settings, where="report"):
    run: str = option(
        REQUIRED, "run folder, such as experiments/runs/first_search", positional=True, yaml=False
    )


@dataclass(frozen=True)
class Report:
    """The files of a report: html and png. run: what they show."""

    run: Run = field(repr=False)
    html: Path
    png: Path

    def to_dict(self) -> dict[str, Any]:
        answer = {} if self.run.answer is None else {"answer": self.run.answer.to_dict()}
        return {"run": str(self.run.path), "html": str(self.html), "png": str(self.png), **answer}

    def __str__(self) -> str:
        return f"{self.run.table()}\nreport  {self.html}\nplot    {self.png}"


@takes(ReportOptions)
def report(options: ReportOptions) -> Report:
    """Write report.html and pareto.png into a run folder. Nothing is trained or timed.

    Returns:
        A Report: `html` and `png`, the files, and `run`.

    Raises:
        RunError: the folder is not a run, is damaged, or cannot be written to.

    Example:
        >>> import flashnas as fn
        >>> fn.report("my_run").html.name
        'report.html'
    """
    from flashnas.reporting.page import write_report

    html, png = write_report(options.run)
    return Report(Run.load(options.run), html, png)
