"""flashnas: latency-aware neural architecture search for hybrid small language models.

    import flashnas as fn
    run = fn.search(table="h100_sxm", budgets={"latency_ms": 20_000}, out="runs/a")
    run.recommended.architecture, run.trials, run.plot_front(), run.report("report.html")

Names are loaded when they are used, so that `import flashnas` costs milliseconds; `help(fn.search)`
explains one.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.3.0"

# name -> module that defines it
_PUBLIC = {
    "search": "flashnas.api.search",
    "estimate": "flashnas.api.estimate",
    "compare": "flashnas.api.compare",
    "profile": "flashnas.api.measure",
    "validate": "flashnas.api.validate",
    "train": "flashnas.api.train",
    "export": "flashnas.api.export",
    "evaluate": "flashnas.api.evaluate",
    "report": "flashnas.api.run",
    "evidence": "flashnas.api.evidence",
    "loss_model": "flashnas.loss.load",
    "load_run": "flashnas.api.run",
    "load_architecture": "flashnas.architecture.source",
    "load_space": "flashnas.space.load",
    "list_names": "flashnas.api.listing",
    "doctor": "flashnas.api.doctor",
    "Answer": "flashnas.run_folder.recorded_answer",
    "Architecture": "flashnas.architecture.architecture",
    "Budget": "flashnas.latency.metrics",
    "FlashnasError": "flashnas.base.errors",
    "HybridLM": "flashnas.network.model",
    "LatencyTable": "flashnas.latency.table",
    "Observation": "flashnas.observations.observation",
    "ObservedLoss": "flashnas.observations.losses",
    "ObservedTime": "flashnas.observations.times",
    "Prediction": "flashnas.loss.prediction",
    "Recipe": "flashnas.training.recipe",
    "Run": "flashnas.api.run",
    "Scorer": "flashnas.study.scorer",
    "SearchSpace": "flashnas.space.base",
    "Trial": "flashnas.trials.trial",
    "Workload": "flashnas.latency.workload",
}

# commands and functions of 0.2.0 that went -> what serves instead
GONE = {
    "convert": "it cost too much of a model to be worth its time, and tools with GPUs do this; 0.2.0"
    " keeps it",
    "load_evidence": "its tables are the CSV files of flashnas/observations/data",
    "runs": "`flashnas report RUN` writes the page of one run",
}

__all__ = [
    "Answer",
    "Architecture",
    "Budget",
    "FlashnasError",
    "HybridLM",
    "LatencyTable",
    "Observation",
    "ObservedLoss",
    "ObservedTime",
    "Prediction",
    "Recipe",
    "Run",
    "Scorer",
    "SearchSpace",
    "Trial",
    "Workload",
    "__version__",
    "compare",
    "doctor",
    "estimate",
    "evaluate",
    "evidence",
    "export",
    "list_names",
    "load_architecture",
    "load_run",
    "load_space",
    "loss_model",
    "profile",
    "report",
    "search",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in GONE:
        raise AttributeError(f"flashnas.{name} of 0.2.0 is gone; {GONE[name]}")
    raise AttributeError(f"module 'flashnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
