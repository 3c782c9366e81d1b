"""Parsing that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.latency.metrics import make_budgets


def parse_pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        raise ConfigError(f"{flag} must read KEY=VALUE; got {text!r}")
    return key, value


def parse_budgets(budget_ms: float | None, budgets: Sequence[str] | None) -> dict[str, float]:
    """The budgets of --budget-ms and --budget, figure -> limit; raises BudgetError, also for a figure given twice."""
    return {budget.figure: budget.limit for budget in make_budgets(budget_ms, budgets or ())}


def parse_options(pairs: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """KEY=VALUE pairs with numbers, true and false read as such."""
    result: dict[str, Any] = {}
    for key, value in (parse_pair(text, flag) for text in pairs or ()):
        result[key] = value
        if value in ("true", "false"):
            result[key] = value == "true"
            continue
        for number in (int, float):
            try:
                result[key] = number(value)
                break
            except ValueError:
                continue
    return result
