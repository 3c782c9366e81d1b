"""Fronts of several runs over each other: their hypervolume, what differs in their questions, one picture."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from flashnas.base.errors import RunError
from flashnas.base.hints import shown
from flashnas.report.plot_data import latency_unit, objective_points, reference_point, staircase
from flashnas.report.still_figures import COLOURS, framed, still
from flashnas.report.text import MISSING, columns, number
from flashnas.report.theme import hover, new_figure
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import title_of
from flashnas.search.pareto import hypervolume, non_dominated

TITLE, WORDS = "Fronts over each other", "large: the front of a run; small: its other networks"
MAX_VALUE = 40            # characters of a value that differs


@dataclass(frozen=True, eq=False)
class Side:
    """One run of a comparison.

    name: of the run, or its path. trained: the networks that have all objectives; points: these objectives,
    minimised. front: those that no other one of the run beats. joint: those that no other one of any run
    beats. volume: hypervolume, and share: of that of all runs together.
    """

    run: RecordedRun
    name: str
    colour: str
    trained: pd.DataFrame
    points: np.ndarray
    front: np.ndarray
    joint: np.ndarray
    volume: float
    share: float

    def to_dict(self, objectives: Sequence[str]) -> dict[str, Any]:
        """JSON-ready."""
        return {"run": str(self.run.path), "networks": len(self.trained), "front": int(self.front.sum()),
                "joint_front": int(self.joint.sum()), "hypervolume": self.volume, "share": self.share,
                "best": {name: float(self.trained[name].iloc[int(values.argmin())])
                         for name, values in zip(objectives, self.points.T, strict=True)}}


class FrontComparison:
    """Runs side by side.

    objectives: those that all runs have, latency_ms first. reference: the corner up to which the volume is
    measured, everything minimised. differs: entry of the question -> its value in each run.

    Raises RunError where the runs have fewer than two objectives in common, or one has no network with them.
    """

    def __init__(self, runs: Sequence[RecordedRun]) -> None:
        shared = [name for name in runs[0].objectives if all(name in run.objectives for run in runs)]
        if len(shared) < 2:
            raise RunError("the runs must have two objectives in common; got " + " and ".join(
                f"{','.join(run.objectives)} in {run.path}" for run in runs))
        self.objectives = sorted(shared, key=lambda name: name != "latency_ms")
        parts = [objective_points(run, shared) for run in runs]
        for run, (trained, _) in zip(runs, parts, strict=True):
            if trained.empty:
                raise RunError(f"{run.path}: has no network yet that has {' and '.join(shared)}")
        points, names = np.concatenate([part for _, part in parts]), [run.name for run in runs]
        budget_ms = max(run.budget_ms or np.inf for run in runs)
        self.reference = reference_point(points, budget_ms if np.isfinite(budget_ms)
                                         and "latency_ms" in shared else None).tolist()
        joint = np.split(non_dominated(points), np.cumsum([len(part) for _, part in parts])[:-1])
        together = hypervolume(points, self.reference)
        self.sides = [
            Side(run, str(run.path) if names.count(run.name) > 1 else run.name, COLOURS[place % len(COLOURS)],
                 trained, part, non_dominated(part), joint[place],
                 volume := hypervolume(part, self.reference), volume / together if together else 0.0)
            for place, (run, (trained, part)) in enumerate(zip(runs, parts, strict=True))]
        self.differs = differences([run.entry("question") or {} for run in runs])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"objectives": self.objectives, "reference": self.reference, "differs": self.differs,
                "runs": [side.to_dict(self.objectives) for side in self.sides]}

    # -- the picture: latency and the first quality ----------------------------------------------------------

    @property
    def _axes(self) -> tuple[str, float, str, str]:
        """The quality, the factor of latencies, and the titles of both axes."""
        factor, unit = latency_unit(value for side in self.sides for value in side.trained["latency_ms"])
        quality = next(name for name in self.objectives if name != "latency_ms")
        words = {"loss": "validation loss after short training (nats per token)",
                 "full_loss": "expected full loss (nats per token, up to a constant)"}
        return quality, factor, f"latency of one request ({unit})", words.get(quality, title_of(quality))

    def _steps(self, side: Side, quality: str) -> tuple[np.ndarray, list[float]]:
        """The corners of a front; none in more than two dimensions."""
        front = side.trained[side.front].sort_values("latency_ms")
        right = max(float(other.trained["latency_ms"].max()) for other in self.sides)
        if len(self.objectives) > 2:
            return np.empty(0), []
        xs, ys = staircase(front.assign(loss=front[quality]), right)
        return np.array(xs), ys

    def png(self) -> Figure:
        """As a still picture. A network of several fronts shows all their colours."""
        quality, factor, below, left = self._axes
        with still((9.0, 5.6), TITLE, WORDS) as figure:
            axes = framed(figure, (0.095, 0.115, 0.875, 0.735))
            for place, side in enumerate(self.sides):
                xs, ys = self._steps(side, quality)
                axes.plot(xs * factor, ys, color=side.colour, linewidth=1.6)
                for some, size, alpha, label in (
                        (side.trained[~side.front], 3.5, 0.4, None),
                        (side.trained[side.front], max(10.0 - 2.0 * place, 5.5), 1.0,
                         side.name.replace("$", r"\$"))):
                    axes.plot(some["latency_ms"] * factor, some[quality], "o", color=side.colour,
                              markersize=size, alpha=alpha, label=label)
            axes.set(xlabel=below, ylabel=left)
            axes.legend(frameon=False, loc="upper right")
        return figure

    def page(self) -> go.Figure:
        """As a Plotly figure."""
        quality, factor, below, left = self._axes
        figure = new_figure(TITLE, WORDS, height=620, hovermode="closest")
        for place, side in enumerate(self.sides):
            xs, ys = self._steps(side, quality)
            figure.add_scatter(x=xs * factor, y=ys, mode="lines", line={"color": side.colour, "width": 1.6},
                               hoverinfo="skip", legendgroup=place, showlegend=False)
            for some, size, alpha in ((side.trained[~side.front], 6, 0.4),
                                      (side.trained[side.front], max(15 - 3 * place, 8), 1.0)):
                figure.add_scatter(
                    x=some["latency_ms"] * factor, y=some[quality], mode="markers", legendgroup=place,
                    name=html.escape(side.name), showlegend=alpha == 1.0,
                    hovertemplate="%{text}<extra></extra>",
                    marker={"size": size, "color": side.colour, "opacity": alpha},
                    text=[hover(f"{side.name} · trial {row.number}", row) for row in rows(some)])
        figure.update_xaxes(title_text=below)
        figure.update_yaxes(title_text=html.escape(left))
        return figure


def comparison_text(found: dict[str, Any], names: Sequence[str]) -> str:
    """A line for each run, and a line for each entry that differs; found: as of to_dict."""
    header = ("run", "networks", "front", "of joint front", "hypervolume", "share",
              *(f"best {title_of(name)}" for name in found["objectives"]))
    lines = [(name, *(str(entry[key]) for key in ("networks", "front", "joint_front")),
              number(entry["hypervolume"]), number(entry["share"], 3),
              *(number(value, 5) for value in entry["best"].values()))
             for name, entry in zip(names, found["runs"], strict=True)]
    corner = ", ".join(f"{name} {value:.5g}" for name, value in zip(found["objectives"], found["reference"],
                                                                    strict=True))
    differs = [(key, *map(_short, values)) for key, values in found["differs"].items()]
    return "\n".join([
        *columns([header, *lines], left=(0,)),
        f"hypervolume: up to {corner}; share: of that of all runs together", "",
        *(columns([("differs", *names), *differs], left=range(len(names) + 1)) if differs else
          ["the runs answer the same question"])])


def differences(values: Sequence[Any], name: str = "") -> dict[str, list[Any]]:
    """Entries that are not the same everywhere, by their names with dots; of a mapping that only some have,
    its own name."""
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {place: entries for key in keys for place, entries in differences(
            [value.get(key) for value in values], f"{name}.{key}" if name else str(key)).items()}
    if all(value == values[0] for value in values):
        return {}
    return {name: [value.get("name", "given") if isinstance(value, dict) else value for value in values]}


def _short(value: Any) -> str:
    text = MISSING if value is None else value if isinstance(value, str) else shown(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}.."
