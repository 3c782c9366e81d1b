"""The report of a run, and how far the order of its networks is to be trusted."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.api.calling import takes
from flashnas.base.settings import MOST_THREADS, REQUIRED, Settings, option

if TYPE_CHECKING:
    from flashnas.api.run import Run
    from flashnas.trust.study import Progress


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Settings, where="report"):
    """What `flashnas report` takes."""

    run: str = option(REQUIRED, "run folder, such as experiments/runs/first_search", positional=True)


@dataclass(frozen=True)
class Report:
    """The files of a report: html and png. run: what they show."""

    run: Run = field(repr=False)
    html: Path
    png: Path

    def to_dict(self) -> dict[str, Any]:
        return {"run": str(self.run.path), "html": str(self.html), "png": str(self.png)}

    def __str__(self) -> str:
        return f"{self.run.table()}\nreport  {self.html}\npicture {self.png}"


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
    from flashnas.api.run import Run
    from flashnas.report import write_report

    html, png = write_report(options.run)
    return Report(Run.load(options.run), html, png)


@dataclass(frozen=True, kw_only=True)
class ProxyTrustOptions(Settings, where="proxy_trust"):
    """What `flashnas proxy-trust` takes."""

    run: str | None = option(None, "finished run folder, such as experiments/runs/first_search", positional=True)
    results: str | None = option(None, "analyse a table of trainings (CSV) and train nothing", metavar="FILE")
    architectures: int = option(24, "how many, the front first, then spread over the ranking", metavar="N", least=3,
                                most=1_000_000)
    seeds: int = option(2, "trainings of each kind, the run's own one included", metavar="N", least=1, most=10_000)
    longer: int = option(4, "tokens of a long training over those of the run", metavar="N", least=2, most=1_000_000)
    wider: int | None = option(None, "also train networks N times as wide", metavar="N", shown="no such trainings",
                               least=2, most=4096)
    workers: int = option(lambda: os.cpu_count() or 1, "worker processes, one thread each", metavar="N",
                          shown="all cores", least=1, most=MOST_THREADS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.run is None) == (self.results is None):
            self.wrong("run", "or --results FILE must be given, and only one of them")


@dataclass(frozen=True)
class ProxyTrust:
    """How far the order of a run is to be trusted.

    found: the agreements between short and longer trainings, the noise between seeds, and `verdict`, in words.
    """

    found: dict[str, Any] = field(repr=False)

    @property
    def verdict(self) -> list[str]:
        """What the figures mean, one sentence each."""
        return list(self.found["verdict"])

    def to_dict(self) -> dict[str, Any]:
        return self.found

    def __str__(self) -> str:
        from flashnas.report.terminal_trust import trust_text

        return f"{trust_text(self.found)}\n\ntrainings {self.found['results']}\npicture   {self.found['picture']}"


@takes(ProxyTrustOptions)
def proxy_trust(options: ProxyTrustOptions, *, progress: Progress | None = None) -> ProxyTrust:
    """Train some networks of a finished run longer and with more seeds, and say how far the run's order holds.

    Every training is kept in the run folder; an interrupted study continues where it stopped.

    Further:
        progress (Callable): called with the trainings that are done, all of them, and the seconds left.

    Returns:
        A ProxyTrust: `verdict`, in words, and `found`, all figures. `print` shows them.

    Raises:
        RunError: the run is not finished, holds too few networks, or its text has changed.
        ConfigError: an option does not fit the run.

    Example:
        >>> import flashnas as fn
        >>> trust = fn.proxy_trust("my_run", architectures=3, seeds=2, longer=2, workers=1)
        >>> trust.found["architectures"]
        3
    """
    from flashnas.base.files import write_atomic
    from flashnas.report.terminal_trust import headline, verdict
    from flashnas.report.trust_figure import write_trust_figure
    from flashnas.report.trust_section import FOUND, PICTURE
    from flashnas.study.run import Run
    from flashnas.trust.study import FILE, Plan, study, study_results

    if options.results is not None:
        results = Path(options.results)
        table, trust = study_results(results)
    else:
        assert options.run is not None
        plan = Plan(architectures=options.architectures, seeds=options.seeds, longer=options.longer,
                    wider=options.wider)
        searched = Run.load(options.run)
        results = searched.path / FILE
        table, trust = study(searched, plan, workers=options.workers, progress=progress or (lambda *_: None))
    picture = results.parent / PICTURE
    found = trust.to_dict()
    write_trust_figure(table, headline(found), picture)
    summary = {"run": options.run, "results": str(results), "picture": str(picture), "verdict": verdict(found),
               **found}
    if options.run is not None:
        write_atomic(results.parent / FOUND, json.dumps(summary))  # for flashnas report
    return ProxyTrust(summary)
