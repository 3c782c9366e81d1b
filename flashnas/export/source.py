"""What `flashnas export` takes: a folder of trained weights, or an architecture whose weights are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ExportError
from flashnas.export.tokenizer import read_tokenizer
from flashnas.network.model import HybridLM
from flashnas.network.weights import ARCHITECTURE, TOKENIZER, load_model, read_architecture


@dataclass(frozen=True)
class Source:
    """A network in evaluation mode, its tokenizer if it has one, and a line about where its weights are from."""

    network: HybridLM
    tokenizer: Tokenizer | None
    origin: str
    drawn: bool

    @property
    def architecture(self) -> Architecture:
        return self.network.architecture


def load_source(text: str, *, init_seed: int | None = None, tokenizer: str | None = None) -> Source:
    """`text`: a folder that `flashnas train` wrote or, with `init_seed`, whatever `load_architecture` takes.

    Raises ExportError for an architecture without weights, WeightsError, ArchitectureError or CorpusError for files
    that cannot be read.
    """
    folder = Path(text)
    trained = (folder / ARCHITECTURE).is_file()
    if trained and init_seed is not None:
        raise ExportError(f"{text}: holds trained weights; leave out --init-seed")
    if trained:
        network = load_model(folder)
        recorded = str(read_architecture(folder)[1].get("sha256", ""))
        origin = f"trained weights{f', sha256 {recorded[:16]}..' if recorded else ''}"
        if tokenizer is None and (folder / TOKENIZER).is_file():
            tokenizer = str(folder / TOKENIZER)
    else:
        architecture = load_architecture(text)
        if init_seed is None:
            raise ExportError(f"{text!r} is an architecture without weights: name a folder that flashnas train wrote,"
                              " or draw weights with --init-seed N (to time it, not to use it)")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            network = HybridLM(architecture)
        origin = f"untrained weights, drawn with seed {init_seed}"
    found = None if tokenizer is None else read_tokenizer(tokenizer, network.architecture.vocab)
    return Source(network.eval(), found, origin, drawn=not trained)
