"""Write a network for another tool: aside, checked against the original, then renamed into place."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from flashnas.base.errors import ExportError
from flashnas.base.files import atomic_folder, write_synced
from flashnas.base.hints import one_of
from flashnas.export.card import model_card
from flashnas.export.source import Source
from flashnas.export.tokenizer import write_tokenizer

TARGETS = ("hf", "nemotron-flash")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_network(source: Source, target: str, out: str | Path, *, dtype: str = "float32",
                   raw_logits: bool = False) -> dict[str, Any]:
    """Write the folder `out`, which must not hold anything yet; returns the report that `--json` prints.

    The network of `source` is cast on the way and not to be used afterwards. `raw_logits`: see write_nemotron_flash.
    Raises ExportError if the target cannot hold the network or computes something else; `out` is then not written.
    """
    out = Path(out)
    if target not in TARGETS:
        raise ExportError(one_of("--to", target, TARGETS))
    if dtype not in DTYPES:
        raise ExportError(one_of("--dtype", dtype, DTYPES))
    if raw_logits and target != "nemotron-flash":
        raise ExportError("--raw-logits is for --to nemotron-flash")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out}: exists and is not empty; choose another folder")
    if importlib.util.find_spec("transformers") is None:
        raise ExportError("export needs transformers: pip install 'flashnas[export]'")
    architecture = source.architecture
    with atomic_folder(out) as fresh:
        notes: list[str] = []
        if target == "hf":
            from flashnas.export.transformers.write import LOADING, write_hf
            parity = write_hf(fresh, source, DTYPES[dtype])
        else:
            from flashnas.export.nemotron_flash.write import LOADING, write_nemotron_flash
            parity, notes = write_nemotron_flash(fresh, source, DTYPES[dtype], raw_logits=raw_logits)
        if source.tokenizer is None:
            notes.append("no tokenizer written: the source has none; --tokenizer FILE adds one")
        else:
            write_tokenizer(fresh, source.tokenizer)
        report = {"out": str(out), "to": target, "notation": architecture.notation, "hash": architecture.hash,
                  "params": architecture.params, "dtype": dtype, "source": source.origin, "parity": parity,
                  "notes": notes}
        write_synced(fresh / "README.md", model_card(report, LOADING.replace("{name}", out.name)))
    return report
