"""What one architecture costs by a latency table, and the loss to expect by the evidence."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from flashnas.api.calling import (
    ARCHITECTURE,
    TABLE,
    calibration_option,
    runtime_option,
    takes,
    workload_option,
)
from flashnas.architecture.source import load_known
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.base.text import EVIDENCE_HELP, TIMES_HELP, TRAIN_TOKENS_HELP, tokens_of
from flashnas.latency.metrics import Estimate
from flashnas.latency.workload import MODE_GONE, WEIGHTS_GONE

if TYPE_CHECKING:
    from flashnas.loss.load import Expected


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(Settings, where="estimate"):
    gone: ClassVar[dict[str, str]] = {"mode": MODE_GONE, "weights": WEIGHTS_GONE}

    arch: str = option(
        REQUIRED,
        "preset, pareto/NN.yaml, Hugging Face config.json or notation such as '2048: 3x(d f m2 f)'",
        positional=True,
        instance=ARCHITECTURE,
    )
    table: str = option("h100_sxm", "shipped latency table or folder", instance=TABLE)
    workload: str = workload_option("decode-8k")
    calibration: str = calibration_option()
    runtime: tuple[str, ...] = runtime_option()
    train_tokens: str = option("100B", TRAIN_TOKENS_HELP, metavar="TOKENS")
    evidence: str | None = option(None, EVIDENCE_HELP, metavar="FILE")
    times: tuple[str, ...] = option((), TIMES_HELP, metavar="PATH")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            tokens_of(self.train_tokens)
        except ValueError as error:
            self.wrong("train_tokens", str(error))


@dataclass(frozen=True, kw_only=True)
class ArchitectureEstimate(Estimate):
    """An Estimate that prints as the command line shows it, with what a full training is expected
    to give, which the evidence answers when it is first read.

    sequences, block_tokens and turn2_ttft_ms: of a server, by `serving`. train_tokens and what
    follows are those of flashnas.loss.load.Expected.
    """

    asked: tuple[float, str | None] = field(repr=False)  # tokens, and a file of own trainings
    # architecture, model, workload, and whether more than its sizes was read
    context: tuple[Any, ...] = field(repr=False, compare=False)

    @functools.cached_property
    def expected(self) -> Expected:
        from flashnas.loss.load import expected

        return expected(self.context[0], *self.asked)

    @functools.cached_property
    def serving(self) -> dict[str, float | None]:
        """Of a server, by name: LatencyModel.serving."""
        architecture, model, *_ = self.context
        return dict(model.serving(architecture))

    sequences = property(lambda self: self.serving["sequences"])
    block_tokens = property(lambda self: self.serving["block_tokens"])
    turn2_ttft_ms = property(lambda self: self.serving["turn2_ttft_ms"])
    train_tokens = property(attrgetter("expected.train_tokens"))
    full_loss = property(attrgetter("expected.full_loss"))
    full_loss_difference = property(attrgetter("expected.full_loss_difference"))
    full_loss_sd = property(attrgetter("expected.full_loss_sd"))
    full_loss_of_shape = property(attrgetter("expected.full_loss_of_shape"))
    recall = property(attrgetter("expected.recall"))
    recall_sd = property(attrgetter("expected.recall_sd"))
    outside = property(attrgetter("expected.outside"))

    @property
    def loads_in(self) -> tuple[str, ...] | None:
        from flashnas.families.programs import loading

        architecture, *_, whole = self.context
        return tuple(loading(architecture)) if whole else None

    def to_dict(self) -> dict[str, Any]:
        own = ("asked", "context", "expected", "serving")
        return {
            **{name: value for name, value in super().to_dict().items() if name not in own},
            **self.serving,
            **vars(self.expected),
            "outside": list(self.outside),
            "loads_in": self.loads_in,
        }

    def __str__(self) -> str:
        from flashnas.reporting.results import estimate_text

        return estimate_text(self, *self.context)


@takes(EstimateOptions)
def estimate(options: EstimateOptions) -> ArchitectureEstimate:
    """Latency, memory and size of one architecture for one workload, and the loss to expect of a
    full training. Nothing is trained or timed.

    Returns:
        An Estimate: `latency_ms`, `ttft_ms` and `tpot_ms` in milliseconds, `throughput_tok_s` in
            tokens per second, `memory_gb` in 10^9 bytes, `params` and `active_params`; `lower_ms` and
            `upper_ms` are the interval that holds `latency_ms` with a probability of 90 %;
            `sequences`, requests that fit at once, `block_tokens`, tokens of a page, and
            `turn2_ttft_ms`, of a second turn; `calibration` names whose whole models it is of;
            `breakdown` holds the time of each
            kernel and `sources` the share of the time by where it is known from; `observed`, what
            the file of `times` corrected. From what others have trained in full:
            `full_loss` in nats per token after `train_tokens`, up to a constant;
            `full_loss_difference` and its standard deviation `full_loss_sd`, less the
            transformer with QK-norm of as many active parameters without embeddings, at its best shape;
            `full_loss_of_shape`, what of it width against depth makes; `recall` and `recall_sd`, of
            full marks, less that transformer; `outside`, what of the network no two publications
            have. `loads_in` names the programs that load it without flashnas; None of a
            config.json of which the sizes alone are read. `print` shows all of it.

    Raises:
        ArchitectureError: for text that does not describe an architecture.
        TableError: for a table that is missing or damaged, or that lacks rows (MissingRowsError).
        WorkloadError: for an unknown workload, or one that does not fit the device's memory.
        ConfigError: the file of own trainings or of observed times is wrong; with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> found = fn.estimate("2048: 6x(d f m2 f)", table="h100_sxm", workload="decode-8k")
        >>> 1000 < found.latency_ms < 100_000, found.lower_ms < found.latency_ms < found.upper_ms
        (True, True)
        >>> found.full_loss_difference < found.full_loss_sd < 0.2
        True
    """
    from flashnas.latency.memory import check_fits
    from flashnas.latency.prediction import model_of
    from flashnas.latency.workload import load_workload

    architecture, whole = (
        load_known(options.arch) if isinstance(options.arch, str) else (options.arch, True)
    )
    workload = load_workload(options.workload)
    model = model_of(
        options.table, workload, calibration=options.calibration, programs=options.runtime
    )
    if options.times:
        from flashnas.observations.correction import corrected

        model = corrected(model, *options.times)
    check_fits(architecture, workload, model.table.device, model.dtype, model.cache_type)
    if options.evidence is not None:  # a wrong file is said now
        from flashnas.loss.own import own_rows

        own_rows(options.evidence)
    return ArchitectureEstimate(
        **vars(model.estimate(architecture)),
        asked=(tokens_of(options.train_tokens), options.evidence),
        context=(architecture, model, workload, whole),
    )
