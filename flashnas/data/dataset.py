"""Dataset: one corpus as two memory-mapped token arrays, prepared once and opened by every
worker.
"""

import contextlib
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np

from flashnas.base.errors import CorpusError
from flashnas.base.foreign import check_inside, check_regular, read_json, read_text
from flashnas.base.system import atomic_folder
from flashnas.base.text import first_line, without_folders
from flashnas.data.corpus import read_corpus
from flashnas.data.split import split_documents
from flashnas.data.tokenizer import (
    SpecialTokens,
    Tokenizer,
    cache_folder,
    cached_tokenizer,
    front_ids,
    library_errors,
    load_tokenizer,
    usual_end,
    vocab_size,
    writing_cache,
)

MAX_EPOCHS = 4  # up to here repeated text is nearly worth new text (arXiv 2305.16264)
# part of the cache key: raise it when splitting, encoding or the files change
_VERSION = "dataset-2"
_ENCODE_TOGETHER = 256


class BatchShape(Protocol):
    """The fields of a training recipe that a dataset reads."""

    @property
    def name(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def validation_tokens(self) -> int: ...
    @property
    def short_text(self) -> bool: ...
    @property
    def sequence_tokens(self) -> int: ...
    @property
    def batch_sequences(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Token ids of both parts; documents are separated by `SpecialTokens.end_of_document`. Each
    document begins with what the tokenizer puts in `front`, and so does each sequence of a batch, in
    place of its first tokens.

    folder: its name is the digest. source: the corpus, as the user names it. vocab: rows that an
    embedding needs. validation_bytes: UTF-8 bytes without separators. notes: what a reader of the
    results must know.
    """

    folder: Path
    source: str
    vocab: int
    train: np.ndarray
    validation: np.ndarray
    validation_bytes: int
    notes: tuple[str, ...]
    front: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a prepared folder without reading the corpus; raises CorpusError if it is missing or
        damaged."""
        folder = Path(folder)
        try:
            check_inside(folder, folder.iterdir(), CorpusError)
            meta = read_json(folder / "meta.json", CorpusError)
            train, validation = (
                np.load(
                    check_regular(folder / f"{part}.npy", CorpusError),
                    mmap_mode="r",
                    allow_pickle=False,
                )
                for part in ("train", "validation")
            )
            if (len(train), len(validation)) != (meta["train_tokens"], meta["validation_tokens"]):
                raise ValueError("token arrays are cut short")
            return cls(
                folder=folder,
                source=meta["source"],
                vocab=meta["vocab"],
                train=train,
                validation=validation,
                validation_bytes=meta["validation_bytes"],
                notes=tuple(meta["notes"]),
                front=tuple(meta.get("front", ())),
            )
        except (CorpusError, OSError, ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{folder}: not a prepared dataset: {first_line(error)}") from None

    @classmethod
    def find(cls, folder: str | Path) -> Self:
        """`open`, at the path that another machine names or, by its digest, in this machine's
        cache.
        """
        try:
            return cls.open(folder)
        except CorpusError:
            return cls.open(cached_dataset(Path(folder).name))

    @property
    def digest(self) -> str:
        """A hash of source, tokenizer and text: equal digests give the same batches."""
        return self.folder.name

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer that encoded the text; raises CorpusError if it cannot be read."""
        return read_text(self.folder / "tokenizer.json", CorpusError)

    def bits_per_byte(self, loss_nats: float) -> float:
        """loss x tokens / (bytes x ln 2) over the validation part; comparable between
        tokenizers.
        """
        return loss_nats * len(self.validation) / (self.validation_bytes * math.log(2))

    def check_length(self, recipe: BatchShape) -> None:
        """Raises CorpusError unless there is text for one training batch and one validation
        sequence, and, for a recipe without `short_text`, for its tokens in MAX_EPOCHS and for its
        validation."""
        needs = (
            ("training", self.train, recipe.batch_tokens + 1),
            ("validation", self.validation, recipe.sequence_tokens + 1),
        )
        for part, tokens, least in needs:
            if len(tokens) < least:
                raise CorpusError(
                    f"corpus {self.source!r} is too short: its {part} part has {len(tokens)}"
                    f" tokens, one batch needs {least}"
                )
        if recipe.short_text:
            return
        short = []
        if recipe.tokens > MAX_EPOCHS * len(self.train):
            short.append(
                f"its {recipe.tokens:,} training tokens are {recipe.tokens / len(self.train):.1f}"
                f" epochs of {len(self.train):,}, and beyond {MAX_EPOCHS} a network learns the text"
                " by heart"
            )
        if recipe.validation_tokens > len(self.validation):
            short.append(
                f"its {recipe.validation_tokens:,} validation tokens are more than the"
                f" {len(self.validation):,} that are held out"
            )
        if short:
            raise CorpusError(
                f"corpus {self.source!r} is too short for recipe {recipe.name!r}:"
                f" {'; '.join(short)}; take more text, such as --data hf:NAME, or"
                " short_text: true in the recipe (--short-text of flashnas train)"
            )

    def batches(self, recipe: BatchShape, seed: int, skip: int = 0) -> Iterator[np.ndarray]:
        """Training batches without end. Their order depends on the seed only. One epoch visits
        disjoint windows from a random offset, in random order; the next epoch draws both again.

        Args:
            skip: leave out this many batches; drawing their order takes under 1 us a sequence.

        Yields:
            int64 token ids [batch_sequences, sequence_tokens + 1]; neighbouring columns are inputs
            and targets.
        """
        length = recipe.sequence_tokens
        rng = np.random.default_rng([seed, 0xDA7A])
        order = np.empty(0, dtype=np.int64)
        position = skip * recipe.batch_sequences
        while True:
            while position + recipe.batch_sequences > len(order):
                slack = len(self.train) - 1 - (len(self.train) - 1) // length * length
                windows = np.arange(rng.integers(slack + 1), len(self.train) - length, length)
                rest = order[position:]
                position = max(0, position - len(order))
                order = np.concatenate([rest, rng.permutation(windows)])
            starts = order[position : position + recipe.batch_sequences]
            yield self._windows(self.train, starts, length)
            position += recipe.batch_sequences

    def validation_slice(self, recipe: BatchShape, tokens: int) -> np.ndarray:
        """About `tokens` validation tokens, spread evenly over the part and the same for every
        seed: int64 token ids [sequences, sequence_tokens + 1]."""
        length = recipe.sequence_tokens
        available = (len(self.validation) - 1) // length
        count = min(available, max(1, tokens // length))
        return self._windows(
            self.validation, [i * available // count * length for i in range(count)], length
        )

    def _windows(
        self, tokens: np.ndarray, starts: Sequence[int] | np.ndarray, length: int
    ) -> np.ndarray:
        rows = np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64)
        rows[:, : len(self.front)] = self.front
        return rows


def cached_dataset(digest: str, cache: Path | None = None) -> Path:
    """Where the cache, by default this machine's, has the dataset of a digest, or will have it."""
    return (cache or cache_folder()) / "datasets" / digest


@contextlib.contextmanager
def dataset_in_cache(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` unless another process has made a whole
    dataset there by then."""
    with writing_cache(folder.parent), atomic_folder(folder, existing="keep") as fresh:
        yield fresh
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _whole(folder: Path) -> bool:
    try:
        Dataset.open(folder)
    except CorpusError:
        return False
    return True


def prepare_dataset(
    source: str, recipe: BatchShape, tokenizer: str | Path | None = None, cache: Path | None = None
) -> Dataset:
    """Read, split, tokenize and cache a corpus, or open it where an earlier call has cached it.

    Args:
        recipe: its vocabulary, and the lengths for which the text must suffice.
        tokenizer: a tokenizer.json; None: one of `recipe.vocab` tokens is trained on the training
            part.
        cache: None: `cache_folder()`.

    Raises:
        CorpusError: for text that cannot be read or is too short, and for a full disk.
    """
    cache = cache or cache_folder()
    if not (cache / "datasets").is_dir():  # said before the text is read, which may take a minute
        with writing_cache(cache / "tokenizers"):
            pass
    corpus = read_corpus(source)
    split = split_documents(corpus.documents)
    notes = list(corpus.notes)
    if split.duplicates:
        notes.append(f"corpus {source}: {split.duplicates} exact duplicates left out")
    if not split.train or not split.validation:
        raise CorpusError(
            f"corpus {source!r} is too short to hold out a tenth of it for validation"
        )
    encoder = (
        load_tokenizer(tokenizer)
        if tokenizer
        else cached_tokenizer(split.train, recipe.vocab, cache)
    )

    front, end = front_ids(encoder), SpecialTokens.beside(tokenizer).end_of_document(encoder)
    said = "" if end == usual_end(encoder) else f" {end}"  # by the files beside the tokenizer
    digest = hashlib.sha256(f"{_VERSION}{front or ''}{said}".encode())
    for part in (without_folders(source), encoder.to_str(), split.train, "", split.validation):
        digest.update(
            hashlib.sha256(part.encode()).digest() if isinstance(part, str) else part.digests
        )
    folder = cached_dataset(digest.hexdigest()[:24], cache)
    if not _whole(folder):
        with dataset_in_cache(folder) as temporary:
            meta = {
                "source": source,
                "vocab": vocab_size(encoder),
                "notes": notes,
                "front": front,
                "validation_bytes": split.validation.size,
                "train_tokens": _encode(encoder, end, split.train, temporary / "train.npy"),
                "validation_tokens": _encode(
                    encoder, end, split.validation, temporary / "validation.npy"
                ),
            }
            (temporary / "tokenizer.json").write_text(encoder.to_str(), encoding="utf-8")
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    dataset = Dataset.open(folder)
    dataset.check_length(recipe)
    return dataset


def _encode(tokenizer: Tokenizer, end: int | None, documents: Iterable[str], path: Path) -> int:
    """Write the ids of all documents as one array, some documents at a time; returns their
    number.
    """
    front = front_ids(tokenizer)
    dtype = np.dtype(np.uint16 if vocab_size(tokenizer) <= 1 << 16 else np.uint32)
    count, rest = 0, iter(documents)
    # np.save raises an OSError without an errno on a full disk
    with path.open("wb") as file:
        _write_header(file, dtype, count)
        while together := list(itertools.islice(rest, _ENCODE_TOGETHER)):
            with library_errors("the tokenizer cannot encode the corpus"):
                encodings = tokenizer.encode_batch_fast(together, add_special_tokens=False)
            for encoding in encodings:
                ids = [*front, *encoding.ids, *([] if end is None else [end])]
                file.write(np.array(ids, dtype=dtype).tobytes())
                count += len(ids)
        file.seek(0)
        # as long as before: numpy leaves room for the length to grow
        _write_header(file, dtype, count)
    return count


def _write_header(file: BinaryIO, dtype: np.dtype[Any], count: int) -> None:
    np.lib.format.write_array_header_1_0(
        file,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)},
    )
