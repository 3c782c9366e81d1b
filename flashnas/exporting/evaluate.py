"""What a trained network is worth: bits per byte of a text."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from flashnas.base.errors import ConfigError, CorpusError, DeviceError, WeightsError
from flashnas.base.system import disk_errors
from flashnas.data.corpus import read_corpus
from flashnas.data.tokenizer import front_ids, library_errors
from flashnas.exporting.source import Source, load_source
from flashnas.run_folder.recorded_run import EVALUATION, ModelEvaluation, TextResult

DEFAULT_WINDOW = 1024  # tokens, where the length of the training's sequences is not recorded
TOGETHER = 8  # windows in one pass


def load_trained(model: str, device: str) -> Source:
    """A trained network with its tokenizer, in float32 on a device; WeightsError if it has no
    tokenizer.
    """
    if not Path(model).is_dir():
        raise ConfigError(
            f"{model}: no such folder; name one of flashnas train, an export or a run"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch finds no CUDA device")
    source = load_source(model)
    if source.tokenizer is None or source.folder is None:
        raise WeightsError(f"{model}: has no tokenizer, so that it cannot read a text")
    ModelEvaluation.read(source.folder)  # damage is found before the work
    if not os.access(source.folder, os.W_OK):
        raise WeightsError(f"{source.folder}: cannot be written, so that the results have no place")
    source.network.float().to(device)
    return source


def write_results(source: Source, text: TextResult) -> None:
    """Add a result to eval.json beside the weights, and drop those of other weights."""
    assert source.folder is not None  # of load_trained
    new = ModelEvaluation(weights_sha256=source.sha256, texts={text.sha256: text})
    before = ModelEvaluation.read(source.folder)
    if before is None or before.weights_sha256 != new.weights_sha256:
        before = new
    with disk_errors(f"{source.folder / EVALUATION}: the results cannot be written", WeightsError):
        replace(before, texts={**before.texts, **new.texts}).write(source.folder)


@torch.no_grad()
def bits_per_byte(
    source: Source, corpus: str, window: int, progress: Callable[[int, int], None]
) -> TextResult:
    """Score a text as `flashnas.evaluate` describes it, with the network and tokenizer of
    `load_trained`.

    Args:
        window: tokens that the network sees at once.
        progress: called with windows done and all.
    """
    network, tokenizer = source.network, source.tokenizer
    assert tokenizer is not None  # of load_trained
    device = network.embedding.weight.device
    end = source.special.end_of_document(tokenizer)
    front = front_ids(tokenizer) or ([] if end is None else [end])
    pieces: list[tuple[Sequence[int], int]] = []
    digest = hashlib.sha256()
    tokens = size = documents = lossy = 0
    for text in read_corpus(corpus).documents:
        with library_errors(f"the tokenizer cannot encode {corpus!r}"):
            encoding = tokenizer.encode(text, add_special_tokens=False)
            decoded = tokenizer.decode(encoding.ids, skip_special_tokens=False)
        ids = [*front, *encoding.ids]
        unpredicted = 0 if front or not ids else encoding.offsets[0][1]  # its first token
        given = len(front) or 1
        pieces += windows(ids, window, given)
        tokens += max(0, len(ids) - given)
        size += len(text[unpredicted:].encode())
        documents += 1
        digest.update(hashlib.sha256(text.encode()).digest())
        lossy += decoded != text
    if not tokens:
        raise CorpusError(f"corpus {corpus!r} has no token to predict")
    nats = 0.0
    progress(0, len(pieces))
    for begin in range(0, len(pieces), TOGETHER):
        part = pieces[begin : begin + TOGETHER]
        read = [torch.tensor(ids, device=device) for ids, _ in part]
        padded_BT = pad_sequence(read, batch_first=True)
        targets_BT = pad_sequence(read, batch_first=True, padding_value=-100)
        for row, (_, first) in enumerate(part):
            targets_BT[row, :first] = -100
        predicted = sum(len(ids) - first for ids, first in part)
        nats += float(network.loss(padded_BT[:, :-1], targets_BT[:, 1:])) * predicted
        progress(begin + len(part), len(pieces))
    return TextResult(
        name=Path(corpus).name,
        sha256=digest.hexdigest(),
        window=window,
        bits_per_byte=nats / (size * math.log(2)),
        nats_per_token=nats / tokens,
        bytes=size,
        tokens=tokens,
        documents=documents,
        lossy=lossy,
    )


def windows(ids: Sequence[int], window: int, given: int = 1) -> Iterator[tuple[Sequence[int], int]]:
    """(tokens, place of the first that is predicted) of each window, which moves by half of its tokens:
    each token but the first `given` ones is predicted once."""
    done, stride = given, max(1, window // 2)
    while done < len(ids):
        end = min(len(ids), max(window + 1, done + 1) if done == given else done + stride)
        first = max(0, end - 1 - window)
        yield ids[first:end], done - first
        done = end
