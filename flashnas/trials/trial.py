"""Trial: one candidate of a search, from its proposal to its entry on the front."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from flashnas.architecture.architecture import compressed
from flashnas.latency.metrics import SERVING

RUN = "run"  # source of a score that an earlier run computed

State = Literal["proposed", "complete", "failed", "infeasible", "expected"]
# of recorded trials, in the order of totals
STATES = ("complete", "failed", "expected")
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
FRONT_FIGURES = (  # which trials of a front have where they were asked for or timed
    *SERVING,
    "ttft_upper_ms",
    "tpot_upper_ms",
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
            (`source`). `failed`: the evaluation ended with `reason`. `expected`: scored alone.
            `infeasible`: outside a budget at every width, and told to its sampler alone. `proposed`:
            not yet recorded.
        genotype: as the space encodes it; None for a baseline.
        notation, hash: of the network at full width.
        loss: validation loss in nats per token, or what the user's evaluator returned.
        full_loss: the loss to expect of a full training, up to a constant, in nats per token;
            `full_loss_sd`: standard deviation of its difference to the transformer with QK-norm of its
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
    ttft_upper_ms: float | None = None
    tpot_upper_ms: float | None = None
    throughput_tok_s: float | None = None
    memory_gb: float | None = None
    sequences: float | None = None
    block_tokens: float | None = None
    turn2_ttft_ms: float | None = None
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
