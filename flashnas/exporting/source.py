"""The network to export and its tokenizer."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, processors

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError
from flashnas.data.tokenizer import end_of_document_id, load_tokenizer, vocab_size
from flashnas.exporting.exported import read_foreign
from flashnas.network.model import HybridLM
from flashnas.network.weights import ARCHITECTURE, TOKENIZER, load_model, read_architecture
from flashnas.run_folder.trained import chosen_weights
from flashnas.training.checkpoint import checkpoints
from flashnas.training.folder import CHECKPOINTS, CONFIG, FINAL, TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Source:
    """A network to export or to evaluate.

    network: in evaluation mode. origin: where the weights are from, in one line. folder: of the
    weights; None if they were drawn. sequence_tokens: of its training; None: not recorded.
    """

    network: HybridLM
    tokenizer: Tokenizer | None
    origin: str
    folder: Path | None = None
    sequence_tokens: int | None = None

    @property
    def architecture(self) -> Architecture:
        return self.network.architecture


def load_source(text: str, *, init_seed: int | None = None, tokenizer: str | None = None) -> Source:
    """Read or draw the network to export.

    Args:
        text: a folder that `flashnas train` or `flashnas export --to hf` wrote, the `final/` or a
            checkpoint of a training, a run whose chosen network was trained, or a pretrained model
            that `load_pretrained` reads; with `init_seed`, anything that `load_architecture` takes.
        init_seed: seed of the weights to draw for an architecture without weights.
        tokenizer: a tokenizer.json; None: that of the trained weights.

    Raises:
        ExportError: an architecture without weights.
        RunError: a run whose chosen network has not been trained.
    """
    folder, foreign, sequence_tokens = None, None, None
    if os.path.lexists(text):  # a long notation is no path
        folder = weights_folder(Path(text))
        if folder is None and (foreign := read_foreign(Path(text))):
            folder = Path(text)
    if folder is not None:
        if init_seed is not None:
            raise ExportError(f"{folder}: holds trained weights; leave out --init-seed")
        if foreign is not None:
            folder = folder if folder.is_dir() else None  # a GGUF file has none
            network, origin = foreign.network, foreign.origin
            sequence_tokens = foreign.sequence_tokens
        else:
            network = load_model(folder)
            recorded = str(read_architecture(folder)[1].get("sha256", ""))
            origin = f"trained weights{f', sha256 {recorded[:16]}..' if recorded else ''}"
            sequence_tokens = TrainingRecord.of(folder).sequence_tokens
        if tokenizer is None and folder is not None and os.path.lexists(folder / TOKENIZER):
            tokenizer = str(folder / TOKENIZER)
    else:
        architecture = load_architecture(text)
        if init_seed is None:
            raise ExportError(
                f"{text!r} is an architecture without weights: name a folder that flashnas"
                " train wrote, or draw weights with --init-seed N (to time it, not to use it)"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            network = HybridLM(architecture)
        origin = f"untrained weights, drawn with seed {init_seed}"
    read = foreign.tokenizer if foreign is not None else None
    if tokenizer is not None:
        read = read_tokenizer(tokenizer, network.architecture.vocab)
    return Source(network.eval(), read, origin, folder, sequence_tokens)


def weights_folder(path: Path) -> Path | None:
    """The weights in a folder: its own, those of its finished training, or those of the chosen
    network of a run."""
    for folder in (path, path / FINAL):
        if (folder / ARCHITECTURE).exists():
            return folder
    if (path / CONFIG).exists():
        newest = next(iter(checkpoints(path / CHECKPOINTS)), None)
        raise ExportError(
            f"{path}: is a training that has not finished; finish it with flashnas train"
            f" --resume" + (f", or name its newest checkpoint, {newest}" if newest else "")
        )
    if (path / "run.yaml").exists():
        return chosen_weights(path)
    return None


def read_tokenizer(path: str, vocab: int) -> Tokenizer:
    """Read a tokenizer.json; CorpusError if it is not one, ExportError if its ids exceed the
    vocabulary.
    """
    tokenizer = load_tokenizer(path)
    if (needed := vocab_size(tokenizer)) > vocab:
        raise ExportError(
            f"tokenizer {path}: its ids go up to {needed - 1}; the architecture's vocabulary"
            f" ends at {vocab - 1}"
        )
    return tokenizer


def special_ids(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """The ids of special tokens: the token that separates documents begins, ends and pads a
    sequence.
    """
    end = None if tokenizer is None else end_of_document_id(tokenizer)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither progress bars nor warnings."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """That of transformers; padding on the left, as generation needs it."""
    from transformers import PreTrainedTokenizerFast

    end = end_of_document_id(tokenizer)
    names = (
        {}
        if end is None
        else dict.fromkeys(("bos_token", "eos_token", "pad_token"), tokenizer.id_to_token(end))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **names
    )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, meta: list[int]) -> None:
    """Write its files into a folder; meta: ids of the meta tokens, which it puts in front of a
    text.
    """
    fast_tokenizer(_with_meta_tokens(tokenizer, meta)).save_pretrained(folder)


def _with_meta_tokens(tokenizer: Tokenizer, meta: list[int]) -> Tokenizer:
    """The tokenizer with tokens of these ids, which it puts in front of a text."""
    if not meta:
        return tokenizer
    described, names = json.loads(tokenizer.to_str()), [f"<|meta_{n}|>" for n in range(len(meta))]
    for name, token in zip(names, meta, strict=True):
        described["model"]["vocab"][name] = token
        described["added_tokens"].append(
            {
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "id": token,
                "content": name,
                "special": True,
            }
        )
    extended = Tokenizer.from_str(json.dumps(described))
    template = processors.TemplateProcessing(
        single=f"{names[0]} $A",
        pair=f"{names[0]} $A $B",
        special_tokens=[{"id": names[0], "ids": meta, "tokens": names}],
    )
    before = extended.post_processor
    extended.post_processor = (
        template if before is None else processors.Sequence([before, template])
    )
    return extended
