"""What one architecture costs by a latency table, and the loss to expect by the evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

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
    to give.

    sequences, block_tokens and turn2_ttft_ms: of a server, as LatencyModel.serving has them.
    train_tokens and what follows are those of flashnas.loss.load.Expected. loads_in: programs; None
    where the sizes alone were read.
    """

    sequences: float | None
    block_tokens: float | None
    turn2_ttft_ms: float | None
    train_tokens: float
    full_loss: float
    full_loss_difference: float
    full_loss_sd: float
    full_loss_of_shape: float
    recall: float
    recall_sd: float
    outside: tuple[str, ...]
    loads_in: tuple[str, ...] | None
    context: tuple[Any, ...] = field(repr=False, compare=False)  # architecture, model, workload

    def to_dict(self) -> dict[str, Any]:
        values = {**super().to_dict(), "outside": list(self.outside)}
        del values["context"]
        return values

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
    from flashnas.families.programs import loading
    from flashnas.latency.memory import check_fits
    from flashnas.latency.prediction import model_of
    from flashnas.latency.workload import load_workload
    from flashnas.loss.load import expected

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
    check_fits(architecture, workload, model.table.device, model.dtype)
    figures: dict[str, Any] = {
        **vars(model.estimate(architecture)),
        **model.serving(architecture),
        **vars(expected(architecture, tokens_of(options.train_tokens), options.evidence)),
    }
    return ArchitectureEstimate(
        **figures,
        loads_in=tuple(loading(architecture)) if whole else None,
        context=(architecture, model, workload),
    )
