"""Two networks or more beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.api.calling import ARCHITECTURE, Result, takes
from flashnas.api.estimate import ArchitectureEstimate, EstimateOptions, estimate
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.settings import REQUIRED, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EstimateOptions, where="compare"):
    arch: tuple[str, ...] = option(  # type: ignore[assignment]
        REQUIRED,
        "two networks or more, each as of `flashnas estimate`; the others are compared with the"
        " first one",
        metavar="ARCH",
        positional=True,
        instance=ARCHITECTURE,
    )


@dataclass(frozen=True)
class ComparedNetworks(Result):
    """Networks beside the first one. networks: for each, `name`, as it was given, the keys of
    `flashnas.run_folder.recorded_answer.Against`, and those of a server."""

    networks: list[dict[str, Any]]
    table: str
    workload: str
    train_tokens: float

    def __str__(self) -> str:
        from flashnas.reporting.results import comparison_text

        return comparison_text(self.to_dict())


@takes(CompareOptions)
def compare(options: CompareOptions) -> ComparedNetworks:
    """Compare networks: milliseconds, memory, the loss and the recall to expect of a full training,
    and the programs that load them. Nothing is trained or timed.

    Returns:
        ComparedNetworks: `networks`, one mapping for each: `name`, `notation`, `latency_ms` with
            `lower_ms` and `upper_ms`, `throughput_tok_s`, `memory_gb`, `params`, `active_params`,
            `sequences`, `block_tokens`, `turn2_ttft_ms`, `recall` and `recall_sd`, `loads_in` (None
            where a config.json is read for its sizes alone),
            `train_hours` of a full training; `difference`, the expected full loss less that of the
            first network, in nats per token, its standard deviation `sd`, and the `probability` of a
            loss that is no higher; `reasons`, which add up to the difference. `print` shows all of it.

    Raises:
        ConfigError: a network cannot be compared; with its name, and as of `estimate`.

    Example:
        >>> import flashnas as fn
        >>> found = fn.compare(["Qwen3-0.6B", "LFM2-700M"], table="h100_sxm", workload="decode-8k")
        >>> one, other = found.networks
        >>> one["difference"], other["latency_ms"] < one["latency_ms"], 0 < other["probability"] < 1
        (0.0, True, True)
    """
    from flashnas.latency.fitting import TableCosts
    from flashnas.latency.metrics import SERVING
    from flashnas.study.comparison import against
    from flashnas.study.scorer import FullTraining, load_scorer

    if len(options.arch) < 2:
        options.wrong("arch", f"must be two or more; got {len(options.arch)}")
    found = list[ArchitectureEstimate]()
    for number, arch in enumerate(options.arch, 1):
        try:
            found.append(estimate(EstimateOptions(**{**vars(options), "arch": arch})))
        except FlashnasError as error:
            raise ConfigError(f"network {number}: {error}") from None
    model = found[0].context[1]
    training = FullTraining(tokens=found[0].train_tokens).on(model.table.device)
    scorer = load_scorer(options.evidence, training)
    rows = against(TableCosts(model), scorer, training, [entry.context[0] for entry in found])
    named = [
        {
            **{"name": str(arch), **row, "loads_in": entry.loads_in},
            **{name: getattr(entry, name) for name in SERVING},
        }
        for arch, row, entry in zip(options.arch, rows, found, strict=True)
    ]
    return ComparedNetworks(named, model.table.name, model.workload.name, found[0].train_tokens)
