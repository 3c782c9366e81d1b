"""The README of an exported folder: the network, where its weights are from, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flashnas


def model_card(report: Mapping[str, Any], loading: str, library: str) -> str:
    """Markdown with the header that model hubs read, from the report of `export_network`, a text on loading, and what
    hubs call the program that loads it."""
    found = "".join(f"- {name.replace('_', ' ')}: {value:.1e}\n" for name, value in report["parity"].items())
    notes = "".join(f"- {note}\n" for note in report["notes"])
    return f"""\
---
library_name: {library}
pipeline_tag: text-generation
tags: [flashnas]
---

# {report["hash"]}

    {report["notation"]}

{report["params"]:,} parameters, {report["dtype"]}, {report["source"]}. Written by flashnas {flashnas.__version__}.

## Load

{loading}
## Checked when written

Largest differences from the original network with the weights as written, relative to its largest logit:

{found}{f"{chr(10)}## Notes{chr(10)}{chr(10)}{notes}" if notes else ""}"""
