"""Runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import Figures, takes
from flashnas.base.errors import RunError
from flashnas.base.settings import REQUIRED, Settings, option

SUFFIXES = (".png", ".html")
# buttons by name: Plotly's default set includes one that uploads the chart
PLOTLY = {"displaylogo": False, "plotlyServerURL": "",
          "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Settings, where="compare"):
    runs: tuple[str, ...] = option(REQUIRED, "two or more run folders, finished or not", metavar="RUN",
                                   positional=True)
    out: Path | None = option(None, "picture to write: a file that ends in .png or .html", metavar="FILE",
                              shown="no picture")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({Path(run).resolve() for run in self.runs}) < max(2, len(self.runs)):
            self.wrong("runs", f"must name two or more run folders, each once; got"
                               f" {' '.join(self.runs) or 'none'}")
        if self.out is not None and self.out.suffix not in SUFFIXES:
            self.wrong("out", f"must end in {' or '.join(SUFFIXES)}; got {self.out}")


@takes(CompareOptions)
def compare(options: CompareOptions) -> Figures:
    """The fronts of runs over each other. Nothing is trained or timed, and no figure is estimated anew: see
    `pareto` for one question to several runs.

    Returns:
        Figures: `objectives`, those that all runs have; `runs`, one mapping for each, with its `hypervolume`
        up to `reference` and the `share` of that of all runs together; `differs`, what is not the same in the
        questions of the runs; `out`, the picture. `print` shows it.

    Raises:
        RunError: a folder is not a run, holds no trained network yet, or has other objectives.

    Example:
        >>> import flashnas as fn, shutil
        >>> again = shutil.copytree("my_run", "again")
        >>> found = fn.compare(["my_run", "again"], out="fronts.png")
        >>> found.differs, [entry["share"] for entry in found.runs]
        ({}, [1.0, 1.0])
    """
    from flashnas.base.files import atomic_file, disk_errors
    from flashnas.report.comparison import FrontComparison, comparison_text
    from flashnas.report.draw_matplotlib import draw_matplotlib
    from flashnas.report.draw_plotly import draw_plotly
    from flashnas.reuse.known import difference, training_of
    from flashnas.runs.run import RecordedRun

    both = FrontComparison([RecordedRun.load(run) for run in options.runs])
    warnings, first = [], both.sides[0].run
    for run in (side.run for side in both.sides[1:]):
        reason = difference(training_of(first), training_of(run), f"in {first.path}", f"in {run.path}")
        if "full_loss" in both.objectives and not reason and "foresight" in both.differs:
            reason = "they are foretold from other evidence"
        if reason:
            warnings.append(f"{run.path}: its losses do not compare with those of {first.path}: {reason}")
    if (out := options.out) is not None:
        with disk_errors(f"{out}: cannot be written", RunError), atomic_file(out) as part:
            if out.suffix == ".png":
                draw_matplotlib(both.picture()).savefig(part, format="png")
            else:
                part.write_text(draw_plotly(both.picture()).to_html(config=PLOTLY), encoding="utf-8")

    def text(values: dict[str, Any]) -> str:
        picture = "" if out is None else f"\npicture {out}"
        return comparison_text(values, [side.name for side in both.sides]) + picture

    return Figures({**both.to_dict(), "out": None if out is None else str(out)}, text, tuple(warnings))
