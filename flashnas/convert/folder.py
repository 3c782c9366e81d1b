"""The folder of a conversion, which `flashnas report` and `export` read as that of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import flashnas
from flashnas.base.errors import RunError
from flashnas.base.system import atomic_file, disk_errors, write_atomic
from flashnas.convert.answer import MODELS, ConversionResult
from flashnas.convert.choices import Layout, converted
from flashnas.network.weights import save_model
from flashnas.runs.front import write_front
from flashnas.runs.layout import CONFIG, FORMAT, FRONT, TRIALS, TrialsTable, yaml_text
from flashnas.search.trial import Trial


def write_conversion(
    out: Path, answer: ConversionResult, network: Callable[[Layout], Any], command: str
) -> None:
    """Write the folder as that of a run, and the weights of each budget's layout.

    Args:
        network: a layout -> its HybridLM.

    Raises:
        RunError: the disk is full.
    """
    config, times = answer.config, answer.times
    front = [
        Trial.of(
            architecture,
            number=number,
            label=finalist.key,
            state="complete",
            source="evaluator",
            params=architecture.params,
            latency_ms=finalist.ms,
            loss=float(np.mean(finalist.measured.loss)),
            scores={
                "kl": finalist.kl,
                "kl_predicted": finalist.predicted.kl,
                "recall_kept": finalist.recall,
            },
        )
        for number, finalist in enumerate(answer.finalists)
        for architecture in [converted(answer.teacher, finalist.layout)]
    ]
    head = {
        "format": FORMAT,
        "flashnas": flashnas.__version__,
        "command": command,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "objectives": ["loss", "latency_ms"],
        "space": {"name": f"layers of {Path(config.model).name}"},
        "table": {"name": times.source.partition(",")[0], "calibration": next(iter(times.by))},
        "workload": {"name": config.workload},
        "options": {key: value for key, value in vars(config).items() if key != "out"},
        "conversion": answer.to_dict(),
    }
    words = None if answer.tokenizer is None else answer.tokenizer.to_str()
    with disk_errors(f"{out}: cannot be written", RunError):
        with atomic_file(out / TRIALS) as part:
            TrialsTable().write(front, part)
        write_front(out / FRONT, front)
        write_atomic(out / CONFIG, yaml_text(head))
        for finalist in answer.answers:
            save_model(
                out / MODELS / answer.name_of(finalist),
                network(finalist.layout),
                tokenizer_json=words,
            )
