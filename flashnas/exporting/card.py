"""The model card: README.md of an export, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flashnas
from flashnas.training.folder import TrainingRecord

if TYPE_CHECKING:
    from flashnas.exporting.source import Source

TRAINED = """
Validation loss: {loss:.4f} nats per token, {bits_per_byte:.4f} bits per byte, after
{tokens:,} training tokens.
"""


def model_card(report: Mapping[str, Any], loading: str, library: str, source: Source) -> str:
    """Markdown of an export.

    Args:
        report: of `export_network`.
        loading: Markdown on how to load it.
        library: what hubs call the program that loads it.
    """
    parity = "".join(
        f"- {key.replace('_', ' ')}: {value:.1e}\n" for key, value in report["parity"].items()
    )
    notes = "".join(f"- {note}\n" for note in report["notes"])
    score = None if source.folder is None else TrainingRecord.of(source.folder).score
    trained = "" if score is None else TRAINED.format(**score)
    return f"""\
---
library_name: {library}
pipeline_tag: text-generation
tags:
- flashnas
---

# {report["hash"]}

    {report["notation"]}

{report["params"]:,} parameters, {report["dtype"]}, {report["source"]}.
Written by flashnas {flashnas.__version__}.
{trained}
## Load

{loading}
## Checked when written

Largest differences from the original network with the weights as written, relative to its largest logit:

{parity}{f"{chr(10)}## Notes{chr(10)}{chr(10)}{notes}" if notes else ""}"""
