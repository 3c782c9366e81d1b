"""config.json of a family, how its folder loads, and `--no-weights`: a folder without weights, for
which torch is not loaded.
"""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import flashnas
from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError
from flashnas.base.system import atomic_folder, disk_errors, write_synced
from flashnas.data.tokenizer import SpecialTokens
from flashnas.families.family import Family, needed_family

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

flashnas is not needed. Names and keys are those of released checkpoints.
"""
CARD = "README.md"
TIMING = """\
    vllm bench latency --model {name} --load-format dummy --skip-tokenizer-init
    python -m sglang.benchmark.one_batch --model-path {name} --load-format dummy  # needs a tokenizer
"""


def write_configuration(
    folder: Path,
    family: Family,
    architecture: Architecture,
    dtype: str,
    tokenizer: Tokenizer | None,
    special: SpecialTokens,
    **more: Any,
) -> None:
    """Write config.json and generation_config.json.

    Args:
        special: what is known of special tokens.
        more: further entries of config.json.

    """
    ids = special.keys(tokenizer)
    generation: dict[str, Any] = {**(special.generation or {"_from_model_config": True}), **ids}
    config = {**family.configuration(architecture), "torch_dtype": dtype, **ids, **more}
    for name, content in (("config", config), ("generation_config", generation)):
        write_synced(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")


def programs_text(family: Family, architecture: Architecture) -> str:
    """Which programs load the folder, for its README."""
    text = (
        f"The class is {family.config['architectures'][0]}. Programs that load it (llama.cpp: a file"
        " of `flashnas export --to gguf`):\n\n"
    )
    for name, program in family.loading(architecture).items():
        text += f"- {name} {program.version}{'' if program.run else ', by its source, not tried'}"
        if program.model_type:
            text += f"; change model_type in config.json to {program.model_type}"
        text += "\n"
    return text


def export_configuration(
    text: str, out: Path, *, dtype: str, tokenizer: str | None
) -> Architecture:
    """Write the folder of `--no-weights`; no network is built.

    Args:
        text: anything that `load_architecture` takes, or a folder of weights.
        tokenizer: a tokenizer.json to include.

    Returns:
        What `load_architecture` read.

    Raises:
        ExportError: no family holds the network, or the disk is full.
    """
    path = Path(text)
    if os.path.isdir(text) and not (path / "config.json").exists():
        from flashnas.exporting.source import ARCHITECTURE, weights_folder

        path = (weights_folder(path) or path) / ARCHITECTURE
        text = str(path) if path.exists() else text
    architecture = load_architecture(text, whole=True)
    family = needed_family(architecture, "a plain checkpoint")
    card = f"""\
# {architecture.hash}

    {architecture.notation}

{architecture.params:,} parameters. Configuration without weights: to time the network in the program
that will serve it. Written by flashnas {flashnas.__version__}.

{programs_text(family, architecture)}
{TIMING.replace("{name}", out.name)}"""
    with (
        disk_errors(f"--out {out}: cannot be written", ExportError),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        words, special = None, SpecialTokens.beside(tokenizer)
        if tokenizer is not None:
            from flashnas.exporting.source import read_tokenizer, write_tokenizer

            words = read_tokenizer(tokenizer, architecture.vocab)
            write_tokenizer(fresh, words, special)
        write_configuration(fresh, family, architecture, dtype, words, special)
        write_synced(fresh / CARD, card)
    return architecture
