"""The network to export and its tokenizer."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError, WeightsError
from flashnas.base.foreign import check_inside
from flashnas.data.tokenizer import KINDS, SpecialTokens, load_tokenizer, vocab_size
from flashnas.exporting.exported import MODEL_CONFIG, read_export
from flashnas.network.model import HybridLM
from flashnas.network.weights import (
    ARCHITECTURE,
    TOKENIZER,
    digest_of,
    load_model,
    read_architecture,
)
from flashnas.run_folder.recorded_run import chosen_weights
from flashnas.training.checkpoint import checkpoints
from flashnas.training.folder import CHECKPOINTS, CONFIG, FINAL, TrainingRecord


@dataclass(frozen=True)
class Source:
    """A network to train further, to export or to evaluate.

    network: in evaluation mode. origin: where the weights are from, in one line. folder: of the
    weights; None if they were drawn. sequence_tokens: of its training; None: not recorded.
    tokenizer_file: None: there is none. special: what the files beside it say of special tokens.
    """

    network: HybridLM
    tokenizer: Tokenizer | None
    origin: str
    folder: Path | None = None
    sequence_tokens: int | None = None
    tokenizer_file: Path | None = None
    special: SpecialTokens = field(default_factory=SpecialTokens)

    @property
    def architecture(self) -> Architecture:
        return self.network.architecture

    @property
    def sha256(self) -> str:
        """Of the files that hold the weights, also of shards."""
        assert self.folder is not None
        return digest_of(*sorted(self.folder.glob("*.safetensors")))


def load_source(text: str, *, init_seed: int | None = None, tokenizer: str | None = None) -> Source:
    """Read a network with its weights, or draw these: for training further, evaluation and export.

    Args:
        text: a folder that `flashnas train` or `flashnas export --to hf` wrote, the `final/` or a
            checkpoint of a training, or a run whose chosen network was trained; with `init_seed`,
            anything that `load_architecture` takes.
        init_seed: seed of the weights to draw for an architecture without weights.
        tokenizer: a tokenizer.json; None: that of the trained weights.

    Raises:
        ExportError: an architecture without weights.
        WeightsError: weights of others, or damaged ones.
        RunError: a run whose chosen network has not been trained.
    """
    folder, sequence_tokens = weights_folder(text), None
    if init_seed is not None and folder is not None:
        raise ExportError(f"{folder}: holds trained weights; leave out --init-seed")
    if folder is None:
        if init_seed is None:
            raise ExportError(
                f"{text!r} is no folder of weights: name one that flashnas train wrote, or an"
                " architecture with --init-seed N, which draws them (to time it, not to use it)"
            )
        architecture = load_architecture(text, whole=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            network = HybridLM(architecture)
        origin = f"untrained weights, drawn with seed {init_seed}"
    elif (folder / ARCHITECTURE).exists():
        check_inside(text, [folder], WeightsError)  # `flashnas eval` writes there
        network = load_model(folder)
        recorded = str(read_architecture(folder)[1].get("sha256", ""))
        origin = f"trained weights{f', sha256 {recorded[:16]}..' if recorded else ''}"
        sequence_tokens = TrainingRecord.of(folder).sequence_tokens
    else:
        network, sequence_tokens = read_export(folder)
        origin = f"the export {folder.name}"
    words, special, file = None, SpecialTokens(), None
    if tokenizer is not None:
        file = Path(tokenizer)
    elif folder is not None and os.path.lexists(folder / TOKENIZER):
        file = folder / TOKENIZER
    if file is not None:
        words = read_tokenizer(str(file), network.architecture.vocab)
        special = SpecialTokens.beside(file)
    return Source(network.eval(), words, origin, folder, sequence_tokens, file, special)


def weights_folder(text: str | Path) -> Path | None:
    """The weights that a text names: a folder of weights or of an export, that of a finished
    training, or the chosen network of a run; None for something else."""
    if not os.path.lexists(text):  # a long notation is no path
        return None
    path = Path(text)
    if path.suffix == ".gguf":
        raise WeightsError(
            f"{path}: GGUF files are written and not read; name the folder that it was exported"
            " from (0.2.0 reads GGUF files)"
        )
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
    if (path / MODEL_CONFIG).exists() and any(path.glob("*.safetensors")):
        return path
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


def write_tokenizer(folder: Path, tokenizer: Tokenizer, special: SpecialTokens) -> None:
    """Write the files of transformers into a folder, those that are known as they are; padding on the
    left, as generation needs it."""
    from transformers import PreTrainedTokenizerFast

    names = {
        f"{kind}_token": tokenizer.id_to_token(ids[0])
        for kind in KINDS
        if (ids := special.ids(tokenizer, kind))
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **names
    ).save_pretrained(folder)
    for name, text in special.files.items():
        (folder / name).write_text(text, encoding="utf-8")
