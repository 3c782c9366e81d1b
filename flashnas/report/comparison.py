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

TITLE = "Fronts over each other"
MAX_VALUE = 40            # characters of a value that differs


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: what is compared.
        names: of the runs, each once.
        objectives: those that all runs have, latency_ms first.
        reference: the corner up to which the volume is measured, everything minimised.
        trained: of each run, the networks that have all objectives. fronts: which of these no other one of
            the run beats. joint: which of these no other one of any run beats.
        volumes: hypervolume of each run. together: that of all runs.
        differs: entry of the question -> its value in each run; None where it has none.
    """

    runs: tuple[RecordedRun, ...]
    names: tuple[str, ...]
    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    trained: tuple[pd.DataFrame, ...]
    fronts: tuple[np.ndarray, ...]
    joint: tuple[np.ndarray, ...]
    volumes: tuple[float, ...]
    together: float
    differs: dict[str, list[Any]]

    @classmethod
    def of(cls, runs: Sequence[RecordedRun]) -> Comparison:
        """Raises RunError where the runs have fewer than two objectives in common, or nothing to compare."""
        names = [run.name for run in runs]
        shared = [name for name in runs[0].objectives if all(name in run.objectives for run in runs)]
        if len(shared) < 2:
            raise RunError("compare: runs must have two objectives in common; got " + " and ".join(
                f"{','.join(run.objectives)} in {run.path}" for run in runs))
        found = [objective_points(run, shared) for run in runs]
        for run, (trained, _) in zip(runs, found, strict=True):
            if trained.empty:
                raise RunError(f"{run.path}: has no network yet that has {' and '.join(shared)}")
        points = [values for _, values in found]
        everything = np.concatenate(points)
        budgets = [run.budget_ms for run in runs]
        reference = reference_point(everything, max(b for b in budgets if b) if all(budgets) and
                                    "latency_ms" in shared else None)
        best = np.split(non_dominated(everything), np.cumsum([len(some) for some in points])[:-1])
        return cls(tuple(runs), tuple(str(run.path) if names.count(name) > 1 else name
                                      for run, name in zip(runs, names, strict=True)),
                   tuple(sorted(shared, key=lambda name: name != "latency_ms")), tuple(map(float, reference)),
                   tuple(trained for trained, _ in found), tuple(map(non_dominated, points)), tuple(best),
                   tuple(hypervolume(some, reference) for some in points),
                   hypervolume(everything, reference), _differences(runs))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"objectives": list(self.objectives), "reference": list(self.reference),
                "hypervolume": self.together, "differs": self.differs, "runs": [
            {"run": str(run.path), "networks": len(trained), "front": int(front.sum()),
             "joint_front": int(joint.sum()), "hypervolume": volume, "share": self._share(volume),
             "networks_of_front": [{"number": int(row["number"]), "notation": row["notation"],
                                    **{name: float(row[name]) for name in self.objectives}}
                                   for row in trained[front].to_dict("records")]}
            for run, trained, front, joint, volume in zip(
                self.runs, self.trained, self.fronts, self.joint, self.volumes, strict=True)]}

    def _share(self, volume: float) -> float | None:
        return volume / self.together if self.together else None

    def text(self) -> str:
        """A line for each run, and a line for each entry that differs."""
        header = ("run", "networks", "front", "of the joint front", "hypervolume", "share",
                  *(f"best {title_of(name)}" for name in self.objectives))
        lines = [(name, str(len(trained)), str(int(front.sum())), str(int(joint.sum())), number(volume),
                  number(self._share(volume), 3),
                  *(number(trained[objective].iloc[int(values.argmin())], 5)
                    for objective, values in zip(self.objectives, objective_points(run, self.objectives)[1].T,
                                                 strict=True)))
                 for run, name, trained, front, joint, volume in zip(
                     self.runs, self.names, self.trained, self.fronts, self.joint, self.volumes, strict=True)]
        corner = ", ".join(f"{name} {value:.5g}" for name, value in zip(self.objectives, self.reference,
                                                                        strict=True))
        below = ["the runs answer the same question"] if not self.differs else columns(
            [("differs", *self.names), *((key, *map(_short, values)) for key, values in self.differs.items())],
            left=range(len(self.names) + 1))
        return "\n".join([*columns([header, *lines], left=(0,)),
                          f"hypervolume up to {corner}; share: of that of all runs together", "", *below])

    # -- the picture -----------------------------------------------------------------------------------------

    @property
    def _quality(self) -> str:
        return next(name for name in self.objectives if name != "latency_ms")

    def _steps(self, place: int, factor: float) -> tuple[list[float], list[float]]:
        """The corners of a front in the plane of latency and the first quality."""
        on = self.trained[place][self.fronts[place]].sort_values("latency_ms")
        right = max(float(trained["latency_ms"].max()) for trained in self.trained)
        if len(self.objectives) > 2:  # a front in more dimensions has no line
            return [], []
        xs, ys = staircase(on.assign(loss=on[self._quality]), right)
        return [x * factor for x in xs], ys

    def png(self) -> Figure:
        """As a still picture."""
        factor, unit = latency_unit(value for trained in self.trained for value in trained["latency_ms"])
        with still((9.0, 5.6), TITLE, "large: the front of a run; small: its other networks") as figure:
            axes = framed(figure, (0.095, 0.115, 0.875, 0.735))
            for place, (name, trained, front) in enumerate(zip(self.names, self.trained, self.fronts,
                                                               strict=True)):
                colour = COLOURS[place % len(COLOURS)]
                axes.plot(*self._steps(place, factor), color=colour, linewidth=1.6)
                for some, size in ((trained[~front], 3.5), (trained[front], 7.5)):
                    axes.plot(some["latency_ms"] * factor, some[self._quality], "o", color=colour,
                              markersize=size, alpha=0.4 if size < 5 else 1.0,
                              label=name.replace("$", r"\$") if size > 5 else None)
            axes.set(xlabel=f"latency of one request ({unit})", ylabel=_axis(self._quality))
            axes.legend(frameon=False, loc="upper right")
        return figure

    def page(self) -> go.Figure:
        """As a Plotly figure."""
        factor, unit = latency_unit(value for trained in self.trained for value in trained["latency_ms"])
        figure = new_figure(TITLE, "large: the front of a run; small: its other networks", height=620,
                            hovermode="closest")
        for place, (name, trained, front) in enumerate(zip(self.names, self.trained, self.fronts, strict=True)):
            colour, (xs, ys) = COLOURS[place % len(COLOURS)], self._steps(place, factor)
            figure.add_scatter(x=xs, y=ys, mode="lines", line={"color": colour, "width": 1.6},
                               hoverinfo="skip", legendgroup=name, showlegend=False)
            for some, size in ((trained[~front], 6), (trained[front], 12)):
                figure.add_scatter(
                    x=some["latency_ms"] * factor, y=some[self._quality], mode="markers",
                    name=html.escape(name), legendgroup=name, showlegend=size > 6,
                    marker={"size": size, "color": colour, "opacity": 1.0 if size > 6 else 0.4},
                    text=[hover(f"{name} · trial {row.number}", row) for row in rows(some)],
                    hovertemplate="%{text}<extra></extra>")
        figure.update_xaxes(title_text=f"latency of one request ({unit})")
        figure.update_yaxes(title_text=html.escape(_axis(self._quality)))
        return figure


def _axis(quality: str) -> str:
    words = {"loss": "validation loss after short training (nats per token)",
             "full_loss": "expected full loss (nats per token, up to a constant)"}
    return words.get(quality, title_of(quality))


def _differences(runs: Sequence[RecordedRun]) -> dict[str, list[Any]]:
    """Entries of the questions that are not the same in all runs, by their names with dots."""
    flat = [_flat(run.entry("question")) for run in runs]
    keys = dict.fromkeys(key for entries in flat for key in entries)
    table = {key: [entries.get(key) for entries in flat] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value} if name else {}
    return {key: entry for part, some in value.items()
            for key, entry in _flat(some, f"{name}.{part}" if name else str(part)).items()}


def _short(value: Any) -> str:
    text = MISSING if value is None else value if isinstance(value, str) else shown(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}.."
