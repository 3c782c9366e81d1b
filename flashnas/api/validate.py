"""Whole models on this device against a table's predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from flashnas.api.calling import (
    SPACE,
    TABLE,
    Result,
    calibration_option,
    silent,
    takes,
    vllm_python_option,
    workload_option,
)
from flashnas.base.settings import MAX_SEED, REQUIRED, Settings, option
from flashnas.study.config import params_option, vocab_option


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(Settings, where="validate"):
    gone: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("runtime", "mode", "backend"), "it is that of the table"),
        "allow_other_stack": "profile this machine into a table of its own",
    }

    table: str = option(
        REQUIRED, "latency table that was measured on this machine", instance=TABLE, yaml=False
    )
    space: str = option(
        REQUIRED,
        "shipped search space or YAML file whose architectures are built and timed",
        instance=SPACE,
    )
    params: str | None = params_option()
    vocab: int | None = vocab_option()
    count: int = option(20, "architectures", flag="-n --count", min=1, max=100_000)
    workload: str = workload_option("decode-1k")
    seed: int = option(0, "fixes the architectures", min=0, max=MAX_SEED)
    vllm_python: str | None = vllm_python_option()
    calibration: str = calibration_option()


@dataclass(frozen=True)
class ValidationResult(Result):
    """A table's predictions against timed models."""

    table: str
    mode: str
    architectures: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    left_out: list[list[str]]
    disturbed: int = 0
    kept: bool = True

    def __str__(self) -> str:
        from flashnas.reporting.results import validation_text

        return validation_text(self.to_dict())


@takes(ValidateOptions)
def validate(
    options: ValidateOptions, *, progress: Callable[[int, int], None] = silent
) -> ValidationResult:
    """Build sampled architectures of a space, time them end to end, and compare with a table's
    predictions.

    The residuals are kept in the table, whose 90 % interval follows from them, unless more than a
    tenth of the architectures were disturbed by something else that ran.

    Further:
        progress (Callable): called with what is done and with all that is to do.

    Returns:
        A ValidationResult: `architectures`, each predicted and measured, and `metrics` (errors,
            bias and rank correlation).

    Raises:
        TableError: the table is of another device, or stack.
        SpaceError: the space has too few architectures.

    Example:
        >>> import flashnas as fn
        >>> found = fn.validate(table="my_table", space="tiny", count=2, workload="chat")
        >>> len(found.architectures)
        2
    """
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.validation import store
    from flashnas.latency.validation import validate as compare
    from flashnas.latency.workload import timed_workload
    from flashnas.profiling.table_target import target_like
    from flashnas.space.load import load_operator_space

    table = LatencyTable.load(options.table)
    space = load_operator_space(
        options.space, "flashnas validate", params=options.params, vocab=options.vocab
    )
    workload = timed_workload(options.workload)
    model = LatencyModel(table, workload, calibration=options.calibration)
    target = target_like(table, dtype=model.dtype, vllm_python=options.vllm_python)
    for hidden in space.hidden_sizes:
        model.estimate(
            space.build(space.kinds_at(hidden), hidden)
        )  # what the table lacks is said first
    result = compare(
        model,
        space,
        lambda a: target.time_request(a, workload, model.batch(a)),
        count=options.count,
        seed=options.seed,
        rounds=target.rounds,
        progress=progress,
    )
    found = ValidationResult(**result)
    if found.kept:
        store(result, model, space, seed=options.seed)
    return found
