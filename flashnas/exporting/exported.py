"""Networks of folders that `flashnas train` did not write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from flashnas.base.errors import WeightsError
from flashnas.base.foreign import read_json
from flashnas.base.text import first_line
from flashnas.conversion.weights import is_pretrained, load_pretrained
from flashnas.network.model import HybridLM
from flashnas.network.weights import MODEL, network_of, read_tensors

CONFIG = "config.json"


@dataclass(frozen=True)
class Foreign:
    """origin: in one line. tokenizer: where the reader knows more of it than tokenizer.json says.
    sequence_tokens: of its training, where that is recorded."""

    network: HybridLM
    origin: str
    tokenizer: Tokenizer | None = None
    sequence_tokens: int | None = None


def read_foreign(folder: Path) -> Foreign | None:
    """An export with `--to hf`, or a pretrained model of transformers or llama.cpp; None for
    something else."""
    if is_pretrained(folder):
        model = load_pretrained(folder)
        origin = f"the pretrained model {folder.name}"
        return Foreign(model.network, origin, model.tokenizer, model.sequence_tokens)
    path = folder / CONFIG
    if not path.exists():
        return None
    data = read_json(path, WeightsError)
    try:
        from flashnas.exporting.transformers import FlashnasConfig

        architecture = FlashnasConfig.from_dict(data).to_architecture()
    except Exception as error:  # transformers raises anything from TypeError to errors of its own
        raise WeightsError(
            f"{path}: not the configuration of an export: {first_line(error)}"
        ) from None
    tensors = read_tensors(folder / MODEL)
    network = network_of(
        architecture,
        {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        folder / MODEL,
    ).float()
    tokens = data.get("sequence_tokens")
    known = isinstance(tokens, int) and tokens > 0
    return Foreign(network, f"the export {folder.name}", None, tokens if known else None)
