"""Trial: one candidate of a search, from its proposal to its entry on the front; the objectives of a
search by name, the one definition of their directions; and which trials no other one beats in all.

All code that compares minimises. Recall and throughput are maximised, and are therefore compared by
their negative. Fronts are found here and not by moocore, whose fronts are wrong for infinite values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt

from flashnas.architecture.architecture import compressed
from flashnas.base.text import one_of
from flashnas.latency.metrics import LARGER_IS_BETTER, METRICS

DEFAULT = ("loss", "latency_ms")
FULL = "full_loss"  # the loss to expect of a full training; takes the place of `loss`
RECALL = "expected_recall"  # after a full training; known without any
# of which a search has one, known after training only; the others come exactly from the table or
# evidence
QUALITY = ("loss", FULL)
OBJECTIVES = (*QUALITY, RECALL, *METRICS)
MAX_OBJECTIVES = 4  # with more, nearly every network is on the front
_MAXIMISED = (RECALL, *LARGER_IS_BETTER)
Points = npt.ArrayLike  # [number of points, number of objectives]

RUN = "run"  # source of a score that an earlier run computed

State = Literal["proposed", "complete", "failed", "infeasible", "reused", "expected"]
# of recorded trials, in the order of totals
STATES = ("complete", "failed", "reused", "infeasible", "expected")
Origin = Literal["baseline", "run", "search"]
METRICS_ON_FRONT = (
    "loss",
    "bits_per_byte",
    "latency_ms",
    "lower_ms",
    "upper_ms",
    "ttft_ms",
    "tpot_ms",
    "throughput_tok_s",
    "memory_gb",
    "params",
    "active_params",
)
EXPECTED_FIGURES = (
    "value",
    "full_loss",
    "full_loss_sd",
    "silence",
    "expected_recall",
    "expected_recall_sd",
)
FRONT_FIGURES = (  # which only trials of a front have
    "measured_ms",
    "measured_ttft_ms",
    "measured_tpot_ms",
    "full_loss_difference",
    "full_loss_difference_sd",
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a search, and what came of it.

    A search proposes a genotype; the space and the budgets make it an architecture; a job evaluates
    that; the trial records the result. Figures that do not exist are None.

    Attributes:
        number: place in the trajectory; -1 before the trial has one.
        cycle: in which it was proposed; 0 for a baseline and for what an earlier run has.
        origin: `baseline`, `run` (an earlier one that the search starts from), `search`.
        label: of a baseline, such as "pure 7x(d f)", or of the earlier run.
        state: `complete`: evaluated in this run, or known from an earlier one
            (`source`). `reused`: the same network was evaluated before; its figures are repeated.
            `infeasible`: outside a budget at every width, never evaluated. `failed`: the evaluation
            ended with `reason`. `expected`: scored by published trainings alone. `proposed`: not
            yet recorded.
        genotype: as the space encodes it; None for a baseline.
        notation, hash: of the network at full width.
        loss: validation loss in nats per token, or what the user's evaluator returned.
        full_loss: the loss to expect of a full training, up to a constant, in nats per token;
            `full_loss_sd`: standard deviation of its difference to the plain transformer of its
            size; `silence`: standard deviation of what no observation vouches for.
        value: by which the scorer ranks, in nats per token; lower is better.
        expected_recall: after a full training, less that of the transformer of the same training,
            of full marks.
        outside: what of the network no publication has, in words.
        curve: pairs of tokens seen and validation loss.
        scores: further numbers that the user's evaluator returned.
        backends: what computed each kind of operator in training.
        source: of the loss: `training`, `run` (an earlier one) or `evaluator`; empty without one.
        architecture: the network; None where no width meets the budgets.
        values: the objectives of the search, all minimised; None where one does not exist.
        front_number: 1 for the fastest network of the front; None for what is not on a front.
        measured_ms, measured_ttft_ms, measured_tpot_ms: as timed on the device;
            full_loss_difference: to the recommended network, with its standard deviation.
        operators_ms: kind of operator -> source -> milliseconds of the request; empty without a
            latency table. sources: source of the latency -> share of it.
        missed: figures that exceed their budget as measured on the device; None if not timed.
        runs_in: programs that run the network without flashnas -> the `--to` of its export; None
            where that is not known.

    Example:
        >>> import flashnas as fn
        >>> trial = fn.load_run("my_run").front[0]
        >>> trial.name, trial.state
        ('P1', 'complete')
    """

    number: int = -1
    cycle: int = 0
    origin: Origin = "search"
    label: str = ""
    state: State = "proposed"
    reason: str = ""
    genotype: Any = None
    notation: str = ""
    hash: str = ""
    hidden: int | None = None
    params: int | None = None
    active_params: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    latency_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    throughput_tok_s: float | None = None
    memory_gb: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    value: float | None = None
    full_loss: float | None = None
    full_loss_sd: float | None = None
    silence: float | None = None
    expected_recall: float | None = None
    expected_recall_sd: float | None = None
    outside: str = ""
    curve: list[tuple[float, float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    proxy_params: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    train_seconds: float | None = None
    seed: int | None = None
    backends: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    # not in trials.parquet
    architecture: Any = None
    values: tuple[float, ...] | None = None
    front_number: int | None = None
    measured_ms: float | None = None
    measured_ttft_ms: float | None = None
    measured_tpot_ms: float | None = None
    full_loss_difference: float | None = None
    full_loss_difference_sd: float | None = None
    operators_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: dict[str, float] = field(default_factory=dict)
    missed: tuple[str, ...] | None = None
    runs_in: dict[str, str] | None = None

    @classmethod
    def of(cls, architecture: Any, **proposal: Any) -> Self:
        """A proposal of a network, or of None where no width meets the budgets."""
        if architecture is None:
            reason = "no width of the space meets the budgets"
            return cls(state="infeasible", reason=reason, **proposal)
        return cls(
            architecture=architecture,
            notation=architecture.notation,
            hash=architecture.hash,
            hidden=getattr(architecture, "hidden", None),
            **proposal,
        )

    @property
    def feasible(self) -> bool:
        """True if some width meets the budgets."""
        return self.state != "infeasible"

    @property
    def complete(self) -> bool:
        """True if all objectives have a finite value."""
        return self.values is not None and all(math.isfinite(value) for value in self.values)

    @property
    def point(self) -> tuple[float, ...]:
        """The values of a complete trial."""
        assert self.values is not None
        return self.values

    @property
    def computed_elsewhere(self) -> bool:
        """True if an earlier run had its score."""
        return self.source == RUN

    @property
    def name(self) -> str:
        """`P3`: the name of a network of the front in all figures and tables; `R` of a recommended
        one that is not on the front."""
        return "R" if self.front_number is None else f"P{self.front_number}"

    def __str__(self) -> str:
        """`P3 2560: 5x(m2 f) a f`."""
        return f"{self.name} {compressed(self.notation)}"

    @property
    def figures(self) -> dict[str, float | None]:
        """The numbers that a front shows, by name."""
        expected = EXPECTED_FIGURES if self.full_loss is not None else ()
        further = [name for name in FRONT_FIGURES if getattr(self, name) is not None]
        return {
            **{name: getattr(self, name) for name in METRICS_ON_FRONT},
            **self.scores,
            **{name: getattr(self, name) for name in (*expected, *further)},
        }


NAMES = [column.name for column in fields(Trial)]
COLUMNS = NAMES[: NAMES.index("architecture")]  # of trials.parquet


def check_objectives(names: Sequence[str], refuse: Callable[[str], NoReturn]) -> tuple[str, ...]:
    """The names, the quality first. refuse: raises an error for a rule, such as `must be 2 to 4
    names; got loss`."""
    for name in names:
        if name not in OBJECTIVES:
            refuse(one_of("", name, OBJECTIVES).strip())
        if list(names).count(name) > 1:
            refuse(f"names {name!r} twice")
    if not 2 <= len(names) <= MAX_OBJECTIVES:
        refuse(
            f"must be 2 to {MAX_OBJECTIVES} names, such as loss,latency_ms; got"
            f" {','.join(names) or 'none'}"
        )
    if not any(name in QUALITY for name in names):
        refuse(f"needs a trained quality ({', '.join(QUALITY)}); got {','.join(names)}")
    return tuple(sorted(names, key=lambda name: name not in QUALITY))


def title_of(name: str) -> str:
    """`expected recall`, `memory (GB)`: an objective in a heading."""
    if name in METRICS:
        words = (
            name.removesuffix("_ms").removesuffix("_gb").removesuffix("_tok_s").replace("_", " ")
        )
        return words if name.endswith("params") else f"{words} ({METRICS[name]})"
    return name.replace("_", " ")


def larger_is_better(name: str) -> bool:
    return name in _MAXIMISED


def minimised(name: str, value: Any) -> Any:
    """A number, or an array, as it is compared."""
    return -value if larger_is_better(name) else value


def ranking(name: str) -> str:
    """The field of a trial by which an objective is compared."""
    return "value" if name == FULL else name


def point(names: Sequence[str], figures: Mapping[str, Any]) -> tuple[float, ...] | None:
    """All objectives as they are compared; None if one does not exist."""
    values = []
    for name in names:
        value = figures.get(ranking(name))
        if value is None or value != value:
            return None
        values.append(minimised(name, float(value)))
    return tuple(values)


def pareto(trials: Mapping[str, npt.ArrayLike], objectives: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mask of the trials that no other one dominates in these objectives, bool [N]; those that lack
    one are on no front. trials: columns [N] by name, those of `Trial`; the full loss is compared by
    the `value` that ranks."""
    columns = [
        minimised(name, np.asarray(trials[ranking(name)], dtype=np.float64)) for name in objectives
    ]
    points = np.column_stack(columns)
    mask = ~np.isnan(points).any(axis=1)
    mask[mask] = non_dominated(points[mask])
    return mask


def non_dominated(points: Points) -> npt.NDArray[np.bool_]:
    """Mask of the points that no other point dominates, bool [N]: none is nowhere worse and
    somewhere better. Of equal points all are kept. Raises ValueError for NaN or a wrong shape."""
    values = _checked(points)
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    # in lexicographic order a point is on the front if it has the lowest second value so far
    if unique.shape[1] == 2:
        mask = np.ones(len(unique), dtype=bool)
        mask[1:] = unique[1:, 1] < np.minimum.accumulate(unique[:, 1])[:-1]
        return mask[inverse.reshape(-1)]
    front = np.empty_like(unique)
    size = 0
    mask = np.zeros(len(unique), dtype=bool)
    for i, point in enumerate(unique):  # in lexicographic order: only an earlier point can dominate
        if not (front[:size] <= point).all(axis=1).any():
            front[size] = point
            size += 1
            mask[i] = True
    return mask[inverse.reshape(-1)]


def standings(points: Points) -> npt.NDArray[np.int_]:
    """Place of each point, 0 the best, int [N]: by front (the first is non-dominated, the next once
    that is taken away, ..), within a front by room to its neighbours, which favours its ends
    (NSGA-II, Deb et al. 2002)."""
    values = _checked(points)
    front = np.zeros(len(values), dtype=int)
    room = np.zeros(len(values))
    left, number = np.arange(len(values)), 0
    while len(left):
        best = non_dominated(values[left])
        members = left[best]
        front[members], room[members] = number, _room(values[members])
        left, number = left[~best], number + 1
    ranks = np.empty(len(values), dtype=int)
    ranks[np.lexsort((-room, front))] = np.arange(len(values))
    return ranks


def _room(front: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Crowding distance [N]: the sum over objectives of the gap between both neighbours; infinite
    at the ends."""
    total = np.zeros(len(front))
    for column in front.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        total[order[[0, -1]]] = np.inf
        if len(front) > 2 and span > 0:
            total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return total


def _checked(points: Points) -> npt.NDArray[np.float64]:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"points must have the shape [N, M]; got {list(values.shape)}")
    if np.isnan(values).any():
        raise ValueError("points must not be NaN")
    return values
