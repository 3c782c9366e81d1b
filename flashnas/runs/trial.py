"""Trial: one row of a run; and Outcome, the part that an evaluation adds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from flashnas.bench.answers import SOURCE

RUN = "run"  # source of a score that another run computed
KNOWN = (SOURCE, RUN)  # sources of scores that were not computed for a run

State = Literal["complete", "failed", "infeasible", "reused", "expected"]
# in the order of totals
STATES = ("complete", "failed", "reused", "infeasible", "expected")
# bench: of a bench or an earlier run, which the search starts from
Origin = Literal["baseline", "bench", "search"]
# fields of a score that a trial takes over by the same name; `seconds` becomes `train_seconds`
SCORED = (
    "loss",
    "bits_per_byte",
    "curve",
    "scores",
    "proxy_params",
    "tokens",
    "tokens_per_s",
    "seed",
    "backends",
    "source",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one evaluation ended with, before it has its place in the trajectory; the database keeps
    it by the network's hash. score: the dictionary of `executors.job.run_job`, or None with the
    `reason` of the failure."""

    hash: str
    notation: str
    score: dict[str, Any] | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.score is None:
            return
        for name in ("loss", "seconds"):
            value = self.score.get(name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not math.isfinite(value)
            ):
                raise ValueError(f"outcome.score.{name} must be a number; got {value!r:.60}")

    def fields(self) -> dict[str, Any]:
        """The fields of a Trial that the evaluation fills."""
        if self.score is None:
            return {}
        score = self.score
        return {
            "source": "training",
            **score.get("metrics", {}),
            **{name: score[name] for name in SCORED if name in score},
            "train_seconds": score["seconds"],
        }

    @property
    def from_bench(self) -> bool:
        """True if the score was not computed for this run."""
        return self.score is not None and self.score.get("source") in KNOWN


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a run, in the order of the trajectory (`number`).

    complete: evaluated in this run, or known from a bench or an earlier run (`source`). reused: the
    same network was already evaluated; its figures are repeated. infeasible: outside a budget at
    every width, never evaluated. failed: the evaluation ended with `reason`. expected: scored by
    published trainings alone. Figures that do not exist are None. `loss` is the validation loss in
    nats per token; `full_loss` is the loss to expect of a full training, up to a constant, and
    `full_loss_sd` the standard deviation of its difference to the plain transformer of its size;
    `silence` is the standard deviation of what no publication vouches for, in nats, by which the
    network is charged where it is ranked;
    `expected_recall` is that after a full training less that of the transformer of the same
    training, of full marks; `curve` holds [tokens seen, validation loss] pairs; `scores` are
    further numbers that the user's evaluator returned.
    """

    number: int
    cycle: int
    origin: Origin
    # of a baseline, such as "pure 7x(d f)", or of a network that a bench knows
    label: str = ""
    state: State
    reason: str = ""
    genotype: dict[str, Any]  # the space's encoding (Optuna parameters)
    notation: str = ""  # at full width, as searched
    hash: str = ""
    hidden: int | None = None
    params: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    latency_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    throughput_tok_s: float | None = None
    memory_gb: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    full_loss: float | None = None
    full_loss_sd: float | None = None
    silence: float | None = None
    expected_recall: float | None = None
    expected_recall_sd: float | None = None
    outside: str = ""  # what of it no publication has, in words
    curve: list[tuple[float, float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    proxy_params: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    train_seconds: float | None = None
    seed: int | None = None
    backends: dict[str, Any] = field(
        default_factory=dict
    )  # what computed each kind of operator in training
    # of the loss: `training`, `bench`, `run` or `evaluator`; empty without one
    source: str = ""

    @property
    def from_bench(self) -> bool:
        """True if its first evaluation was not made in this run."""
        return self.source in KNOWN
