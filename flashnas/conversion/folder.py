"""The folder of a conversion, which `flashnas report` and `export` read as that of a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

import flashnas
from flashnas.algorithms.trial import Trial, non_dominated
from flashnas.architecture import Architecture
from flashnas.base.system import atomic_file, write_atomic
from flashnas.conversion.choices import Layout
from flashnas.conversion.found import MOST_CHARACTERS, ConversionFound
from flashnas.conversion.load import FRESH, SCORED, Conversion
from flashnas.network.weights import save_model
from flashnas.run_folder.folder import write_front
from flashnas.run_folder.layout import CONFIG, FORMAT, FRONT, TRIALS, TrialsTable, yaml_text
from flashnas.training.healing import MODELS

TEXTS, TEXT_TOKENS = 3, 48  # that are continued; tokens of what is given, and of what follows


def write_folder(conversion: Conversion, found: ConversionFound, command: str) -> None:
    """Write the folder as that of a run: the finalists, those on the front of KL and milliseconds,
    and the figures of the answer."""
    config = conversion.config
    trials = []
    for number, entry in enumerate(found.finalists):
        architecture = Architecture.parse(entry.notation)
        recall = {} if entry.recall is None else {"recall_kept": entry.recall}
        trials.append(
            Trial.of(
                architecture,
                number=number,
                label=entry.layout,
                state="complete",
                source="evaluator",
                params=architecture.params,
                latency_ms=entry.latency_ms,
                loss=entry.loss,
                scores={"kl": entry.kl, **recall},
            )
        )
    best = non_dominated([(entry.kl, entry.latency_ms) for entry in found.finalists])
    head = {
        "format": FORMAT,
        "flashnas": flashnas.__version__,
        "command": command,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "objectives": ["loss", "latency_ms"],
        "space": {"name": f"layers of {Path(config.model).name}"},
        "table": {"name": config.table, "calibration": config.calibration},
        "workload": {"name": config.workload},
        "options": {key: value for key, value in vars(config).items() if key != "out"},
        "conversion": asdict(found),
    }
    with atomic_file(config.out / TRIALS) as part:
        TrialsTable().write(trials, part)
    write_front(config.out / FRONT, list(itertools.compress(trials, best)))
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


def write_weights(
    conversion: Conversion, weights: Mapping[Layout, Path]
) -> tuple[dict[str, str], ...]:
    """Write the answers into their folders, and continue beginnings of the fresh text with each, as
    `ConversionFound.texts` has them."""
    tokenizer = conversion.text.tokenizer
    text = conversion.student(FRESH)
    given_BT = torch.from_numpy(text.draw.documents[:TEXTS, :TEXT_TOKENS]).long().to(text.device)
    model_BT = conversion.teacher.generate(given_BT, TEXT_TOKENS)
    tokens = {"beginning": given_BT, "model": model_BT}
    files = conversion.special.files
    for layout, folder in weights.items():
        network = conversion.student(SCORED).network(layout)
        save_model(folder, network, tokenizer_json=tokenizer.to_str(), files=files)
        tokens[folder.name] = network.generate(given_BT, TEXT_TOKENS)
    return tuple(
        {
            name: tokenizer.decode(tokens_BT[n].tolist())[:MOST_CHARACTERS]
            for name, tokens_BT in tokens.items()
        }
        for n in range(len(given_BT))
    )
