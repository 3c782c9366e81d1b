"""What a latency table offers besides estimates: a certificate, and times from its device."""

from __future__ import annotations

from typing import Any

from flashnas.base.errors import ConfigError, TableError
from flashnas.latency.certificate import TIMES, Certificate
from flashnas.latency.metrics import LARGER_IS_BETTER
from flashnas.latency.prediction import LatencyModel
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig


def load_certificate(config: SearchConfig, space: SearchSpace[Any],
                     model: LatencyModel) -> Certificate | None:
    """What the table's validation says of its predictions, if a confidence is asked for. Raises TableError
    without a validation, ConfigError without a budget that the confidence could hold."""
    if config.confidence is None:
        return None
    if not any(metric in (*TIMES, *LARGER_IS_BETTER) for metric in config.budgets):
        raise ConfigError("--confidence needs a budget on a time, such as --budget-ms")
    return Certificate.of(model.table, model.workload, space_name=config.space, space_hash=space.hash,
                          confidence=config.confidence)


def load_timing(config: SearchConfig, model: LatencyModel) -> Any:
    """How networks are timed (`flashnas.profiling`); None where the table's device is not at hand, or nothing
    is trained. Raises TableError with `strict` or `measure_every`."""
    if not config.measure or not config.trials:
        return None
    if config.measure_every is not None and not model.table.has_whole:
        raise TableError(f"{model.table.path}: --measure-every corrects rows of whole operators, which table"
                         f" {model.table.name} does not have; measure them with flashnas profile")
    from flashnas.profiling.finalists import setup_here  # loads torch

    try:
        return setup_here(model)
    except TableError as error:
        if config.strict or config.measure_every is not None:
            why = "--strict measures the finalists" if config.strict else "--measure-every times networks"
            raise TableError(f"{why}: {error}") from None
        return None
