"""A run folder for people: its front, its trials, its figures and its report; and the command that
writes the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.api.calling import takes
from flashnas.base.errors import RunError
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.base.system import disk_errors, write_atomic
from flashnas.run_folder.recorded_run import RecordedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Run(RecordedRun):
    """A finished or running search, read from its folder.

    path: the folder. config: run.yaml. trials: a DataFrame with one row per trial, in the order of
    the search; `loss` is in nats per token, times are in milliseconds, memory in 10^9 bytes. front:
    the networks that no other one beats in all objectives, fastest first, each with `architecture`,
    `notation`, `figures` and `path`.
    summary: what the search returned, where this run was just searched. answer: which network is
    recommended, which are tied with it, and why; None where an evaluator's losses rank.

    Example:
        >>> import flashnas as fn
        >>> run = fn.Run.load("my_run")
        >>> run.front[0].architecture.notation == run.front[0].notation
        True
        >>> list(run.trials[["number", "loss", "latency_ms"]].columns), len(run.trials) >= len(run.front)
        (['number', 'loss', 'latency_ms'], True)
        >>> run.report("my_report.html").name
        'my_report.html'
    """

    summary: dict[str, Any] = field(default_factory=dict)

    def plot_front(self) -> Figure:
        """All networks in the objectives of the search, with the front and 90 % intervals, as a
        figure of matplotlib, which a notebook shows; `savefig` writes it."""
        from flashnas.reporting.plot import pareto_plot

        return pareto_plot(self)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report as one HTML page.

        Args:
            path: the file; None: `report.html` in the run folder, with `pareto.png` beside it.

        Returns:
            The file.

        Raises:
            RunError: it cannot be written.
        """
        if path is None:
            from flashnas.reporting.page import write_report

            return write_report(self)[0]
        from flashnas.reporting.page import render_html

        target = Path(path)
        with disk_errors(f"{target}: the report cannot be written", RunError):
            write_atomic(target, render_html(self))
        return target

    def table(self) -> str:
        """The front as text, one network a line, and the answer below it."""
        from flashnas.reporting.table import front_table

        return front_table(self)

    def to_dict(self) -> dict[str, Any]:
        """The object of `search --json`; empty where the run was not just searched."""
        return self.summary

    def __str__(self) -> str:
        from flashnas.reporting.words import tokens_words

        files = f"report  {self.path / 'report.html'}; beside it pareto.png and pareto/"
        return "\n".join(filter(None, [self.table(), tokens_words(self), files]))

    def _repr_html_(self) -> str:
        from flashnas.reporting.table import front_html

        return front_html(self)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {len(self.trials)} trials, {len(self.front)} on the front)"


def load_run(folder: str | Path) -> Run:
    """Read a run folder.

    Args:
        folder (str | Path): a folder that a search wrote, such as `experiments/runs/first_search`.

    Returns:
        The Run.

    Raises:
        RunError: the folder is not a run, is damaged, or holds no trial yet.

    Example:
        >>> import flashnas as fn
        >>> run = fn.load_run("my_run")
        >>> best = run.trained.sort_values("loss").iloc[0]
        >>> 0 < float(best.loss) < 10
        True
    """
    return Run.load(folder)


# -- the command that writes the report ------------------------------------------------------------


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

    run = Run.load(options.run)
    return Report(run, *write_report(run))
