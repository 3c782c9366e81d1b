"""Fronts of several runs over each other: their hypervolume, what differs in their questions, one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.errors import RunError
from flashnas.base.hints import shown
from flashnas.report.marks import Key, Line, Mark, Panel, Picture, PlotAxis, Points
from flashnas.report.palette import SERIES
from flashnas.report.plot_data import latency_unit, objective_points, reference_point, staircase
from flashnas.report.text import MISSING, columns, number, shortened
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import title_of
from flashnas.search.pareto import hypervolume, non_dominated

MAX_VALUE = 40            # characters of a value that differs


@dataclass(frozen=True, eq=False)
class Side:
    """One run of a comparison.

    trained: the networks that have all objectives; points: these objectives, minimised. front, joint: those
    that no other one of the run, or of any run, beats. volume: hypervolume; share: of that of all together.
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
            Side(run, str(run.path) if names.count(run.name) > 1 else run.name, SERIES[place % len(SERIES)],
                 trained, part, non_dominated(part), joint[place],
                 volume := hypervolume(part, self.reference), volume / together if together else 0.0)
            for place, (run, (trained, part)) in enumerate(zip(runs, parts, strict=True))]
        self.differs = differences([run.entry("question") or {} for run in runs])

    def to_dict(self) -> dict[str, Any]:
        return {"objectives": self.objectives, "reference": self.reference, "differs": self.differs,
                "runs": [side.to_dict(self.objectives) for side in self.sides]}

    def picture(self) -> Picture:
        """Latency and the first quality. A network of several fronts shows all their colours."""
        factor, unit = latency_unit(value for side in self.sides for value in side.trained["latency_ms"])
        quality = next(name for name in self.objectives if name != "latency_ms")
        right = max(float(side.trained["latency_ms"].max()) for side in self.sides)
        marks: list[Mark] = []
        for place, side in enumerate(self.sides):
            front = side.trained[side.front].sort_values("latency_ms")
            if len(self.objectives) == 2:
                xs, ys = staircase(front.assign(loss=front[quality]), right)
                marks.append(Line(x=[x * factor for x in xs], y=ys, colour=side.colour))
            for drawn, size, opacity in ((side.trained[~side.front], 6.0, 0.4),
                                         (front, max(15.0 - 3.0 * place, 8.0), 1.0)):
                marks.append(Points(
                    x=drawn["latency_ms"] * factor, y=drawn[quality], fill=side.colour, size=size,
                    opacity=opacity, group=side.name,
                    hover=[f"{side.name} · trial {row.number}\n{row.notation}" for row in rows(drawn)]))
        words = {"loss": "validation loss after short training (nats per token)",
                 "full_loss": "expected full loss (nats per token, up to a constant)"}
        return Picture(
            title="Fronts over each other", subtitle="large: the front of a run; small: its other networks",
            panels=[Panel(x=PlotAxis(title=f"latency of one request ({unit})"), height=430.0, marks=marks,
                          y=PlotAxis(title=words.get(quality, title_of(quality))))],
            keys=[Key(text=side.name, shape="circle", colour=side.colour, group=side.name)
                  for side in self.sides])


def comparison_text(compared: dict[str, Any], names: Sequence[str]) -> str:
    """A line for each run, and a line for each entry that differs; found: as of to_dict."""
    header = ("run", "networks", "front", "of joint front", "hypervolume", "share",
              *(f"best {title_of(name)}" for name in compared["objectives"]))
    lines = [(name, *(str(entry[key]) for key in ("networks", "front", "joint_front")),
              number(entry["hypervolume"]), number(entry["share"], 3),
              *(number(value, 5) for value in entry["best"].values()))
             for name, entry in zip(names, compared["runs"], strict=True)]
    corner = ", ".join(f"{name} {value:.5g}" for name, value in
                       zip(compared["objectives"], compared["reference"], strict=True))
    differs = [(key, *(MISSING if value is None else shortened(
        value if isinstance(value, str) else shown(value), MAX_VALUE) for value in values))
               for key, values in compared["differs"].items()]
    return "\n".join([
        *columns([header, *lines], left=(0,)),
        f"hypervolume: up to {corner}; share: of that of all runs together", "",
        *(columns([("differs", *names), *differs], left=range(len(names) + 1)) if differs else
          ["the runs answer the same question"])])


def differences(values: Sequence[Any], name: str = "") -> dict[str, list[Any]]:
    """Entries that are not the same everywhere, by their names with dots."""
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {place: entries for key in keys for place, entries in differences(
            [value.get(key) for value in values], f"{name}.{key}" if name else str(key)).items()}
    if all(value == values[0] for value in values):
        return {}
    return {name: [value.get("name", "given") if isinstance(value, dict) else value for value in values]}

