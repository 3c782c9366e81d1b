"""The network to export and its tokenizer."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, processors

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError, WeightsError
from flashnas.base.foreign import check_inside, read_json
from flashnas.base.text import first_line
from flashnas.data.tokenizer import KINDS, SpecialTokens, load_tokenizer, vocab_size
from flashnas.families.load_pretrained import CONFIG as MODEL_CONFIG
from flashnas.families.load_pretrained import (
    Pretrained,
    is_pretrained,
    load_pretrained,
    trained_length,
)
from flashnas.network.model import HybridLM
from flashnas.network.weights import (
    ARCHITECTURE,
    MODEL,
    TOKENIZER,
    load_model,
    network_of,
    read_architecture,
    read_tensors,
)
from flashnas.run_folder.trained import chosen_weights
from flashnas.training.checkpoint import checkpoints
from flashnas.training.folder import CHECKPOINTS, CONFIG, FINAL, TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Source:
    """A network to export or to evaluate.

    network: in evaluation mode. origin: where the weights are from, in one line. folder: of the
    weights; None if they were drawn. sequence_tokens: of its training; None: not recorded. special:
    what its files say of special tokens.
    """

    network: HybridLM
    tokenizer: Tokenizer | None
    origin: str
    folder: Path | None = None
    sequence_tokens: int | None = None
    special: SpecialTokens = field(default_factory=SpecialTokens)

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
    path = Path(text) if os.path.lexists(text) else None  # a long notation is no path
    folder = None if path is None else weights_folder(path)
    foreign = None if path is None or folder is not None else read_foreign(path)
    words, sequence_tokens, special = None, None, SpecialTokens()
    if init_seed is not None and (folder is not None or foreign is not None):
        raise ExportError(f"{folder or path}: holds trained weights; leave out --init-seed")
    if path is not None and folder is not None:
        check_inside(path, [folder], WeightsError)  # `flashnas eval` writes there
        network = load_model(folder)
        recorded = str(read_architecture(folder)[1].get("sha256", ""))
        origin = f"trained weights{f', sha256 {recorded[:16]}..' if recorded else ''}"
        sequence_tokens = TrainingRecord.of(folder).sequence_tokens
    elif path is not None and foreign is not None:
        model, origin = foreign
        folder = path if path.is_dir() else None  # a GGUF file has none
        network = model.network
        words = model.tokenizer
        sequence_tokens, special = model.sequence_tokens, model.special
    else:
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
    if tokenizer is None and folder is not None and os.path.lexists(folder / TOKENIZER):
        tokenizer = str(folder / TOKENIZER)
    if tokenizer is not None:
        words = read_tokenizer(tokenizer, network.architecture.vocab)
        special = SpecialTokens.beside(tokenizer)
    return Source(network.eval(), words, origin, folder, sequence_tokens, special)


def read_foreign(path: Path) -> tuple[Pretrained, str] | None:
    """A model that `flashnas train` did not write, and its origin in one line: an export with
    `--to hf`, or a pretrained model of transformers or llama.cpp; None for something else."""
    if is_pretrained(path):
        return load_pretrained(path), f"the pretrained model {path.name}"
    config, weights = path / MODEL_CONFIG, path / MODEL
    if not config.exists():
        return None
    data = read_json(config, WeightsError)
    try:
        from flashnas.exporting.transformers import FlashnasConfig

        architecture = FlashnasConfig.from_dict(data).to_architecture()
    except Exception as error:  # transformers raises anything from TypeError to errors of its own
        raise WeightsError(
            f"{config}: not the configuration of an export: {first_line(error)}"
        ) from None
    tensors = {
        name.removeprefix("model."): tensor for name, tensor in read_tensors(weights).items()
    }
    network = network_of(architecture, tensors, weights).float()
    model = Pretrained(architecture, lambda: network, None, trained_length(data))
    return model, f"the export {path.name}"


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


def fast_tokenizer(tokenizer: Tokenizer, special: SpecialTokens) -> PreTrainedTokenizerFast:
    """That of transformers; padding on the left, as generation needs it."""
    from transformers import PreTrainedTokenizerFast

    names = {
        f"{kind}_token": tokenizer.id_to_token(ids[0])
        for kind in KINDS
        if (ids := special.ids(tokenizer, kind))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **names
    )


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, meta: list[int], special: SpecialTokens
) -> None:
    """Write its files into a folder, those that are known as they are; meta: ids of the meta tokens,
    which it puts in front of a text.
    """
    fast_tokenizer(_with_meta_tokens(tokenizer, meta), special).save_pretrained(folder)
    for name, text in special.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _with_meta_tokens(tokenizer: Tokenizer, meta: list[int]) -> Tokenizer:
    """The tokenizer with tokens of these ids, which it puts in front of a text."""
    if not meta:
        return tokenizer
    described = json.loads(tokenizer.to_str())
    names = [f"<|meta_{n}|>" for n in range(len(meta))]
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
