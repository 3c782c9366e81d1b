"""The folder of a conversion, which `flashnas report` and `export` read as that of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import flashnas
from flashnas.algorithms.trial import Trial, non_dominated
from flashnas.base.errors import RunError
from flashnas.base.system import atomic_file, disk_errors, write_atomic
from flashnas.conversion.choices import Layout, converted, key_of
from flashnas.conversion.found import MOST_CHARACTERS
from flashnas.conversion.load import FRESH, SCORED, Conversion
from flashnas.network.weights import save_model
from flashnas.run_folder.folder import write_front
from flashnas.run_folder.layout import CONFIG, FORMAT, FRONT, TRIALS, TrialsTable, yaml_text
from flashnas.training.healing import MODELS

TEXTS, TEXT_TOKENS = 3, 48  # that are continued; tokens of what is given, and of what follows


def write_folder(
    conversion: Conversion, draw: int, command: str, values: dict[str, Any] | None = None
) -> None:
    """Write the folder as that of a run: all layouts that were measured on a draw so far, those on
    the front of KL and milliseconds, and at the end the figures of the answer.

    Raises:
        RunError: the disk is full.
    """
    config, times = conversion.config, conversion.times
    trials = []
    for number, (layout, score) in enumerate(conversion.measured(draw)):
        architecture = converted(conversion.teacher.architecture, layout)
        figures = score.figures()
        trials.append(
            Trial.of(
                architecture,
                number=number,
                label=key_of(layout),
                state="complete",
                source="evaluator",
                params=architecture.params,
                latency_ms=conversion.milliseconds(layout),
                loss=figures["loss"],
                scores={"kl": figures["kl"]}
                | ({"recall_kept": figures["recall"]} if score.recalled else {}),
            )
        )
    points = [(trial.scores["kl"], trial.latency_ms or 0.0) for trial in trials]
    best = [trial for trial, on in zip(trials, non_dominated(points), strict=True) if on]
    head = {
        "format": FORMAT,
        "flashnas": flashnas.__version__,
        "command": command,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z") if values else None,
        "objectives": ["loss", "latency_ms"],
        "space": {"name": f"layers of {Path(config.model).name}"},
        "table": {"name": times.source.partition(",")[0], "calibration": next(iter(times.models))},
        "workload": {"name": config.workload},
        "options": {key: value for key, value in vars(config).items() if key != "out"},
        "conversion": values,
    }
    with disk_errors(f"{config.out}: cannot be written", RunError):
        with atomic_file(config.out / TRIALS) as part:
            TrialsTable().write(trials, part)
        write_front(config.out / FRONT, sorted(best, key=lambda trial: trial.latency_ms or 0.0))
        write_atomic(config.out / CONFIG, yaml_text(head))


def weights_of(conversion: Conversion, layouts: Sequence[Layout]) -> dict[Layout, Path]:
    """The folders of the weights of answers, named by their milliseconds."""
    folders: dict[Layout, Path] = {}
    for layout in dict.fromkeys(layouts):
        latency_ms = conversion.milliseconds(layout)
        digits = f"{latency_ms:.0f}" if latency_ms >= 10_000 else f"{latency_ms:.5g}"
        path = conversion.config.out / MODELS / f"{digits}ms"
        while path in folders.values():  # of an answer that takes nearly as long
            path = path.with_name(f"{path.name}-2")
        folders[layout] = path
    return folders


def write_weights(conversion: Conversion, layouts: Sequence[Layout]) -> tuple[dict[str, str], ...]:
    """Write the answers, and continue beginnings of the fresh text with each, as
    `ConversionFound.texts` has them.

    Raises:
        RunError: the disk is full.
    """
    tokenizer = conversion.text.tokenizer
    text = conversion.student(FRESH).text
    given_BT = torch.from_numpy(text.draw.documents[:TEXTS, :TEXT_TOKENS]).long().to(text.device)
    model_BT = conversion.teacher.generate(given_BT, TEXT_TOKENS)
    tokens = {"beginning": given_BT, "model": model_BT}
    with disk_errors(f"{conversion.config.out}: cannot be written", RunError):
        for layout, folder in weights_of(conversion, layouts).items():
            network = conversion.student(SCORED).network(layout)
            files = conversion.special.files
            save_model(folder, network, tokenizer_json=tokenizer.to_str(), files=files)
            tokens[folder.name] = network.generate(given_BT, TEXT_TOKENS)
    return tuple(
        {
            name: tokenizer.decode(tokens_BT[n].tolist())[:MOST_CHARACTERS]
            for name, tokens_BT in tokens.items()
        }
        for n in range(len(given_BT))
    )
