"""The text that a conversion is scored on: contexts of the user's documents, and recall probes.

A recall probe asks for a value that the context has stated once: lines `key = value` stand between
the filler text at evenly spaced distances, and the end of the context asks for each of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from flashnas.base.errors import CorpusError
from flashnas.base.system import write_atomic
from flashnas.data.corpus import read_corpus
from flashnas.data.dataset import Dataset
from flashnas.data.tokenizer import (
    end_of_document_id,
    front_ids,
    library_errors,
    load_tokenizer,
)

MAX_DOCUMENTS = 20_000  # that are read of a corpus
WORD = re.compile(r"[^\W\d_]{4,10}")
WORDS = 600  # of which keys and values are drawn
CONSIDERED = 20 * WORDS
KEYS = 8  # of a prompt
HELD_OUT = 4  # contexts of a training
NO_TABLE = 2  # the least vocabulary, of a network whose token table is not used


@dataclass(frozen=True)
class Probe:
    """A value that is asked for. positions: of its tokens in the context."""

    prompt: int
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Draw:
    """Text of one purpose; documents of different draws do not overlap.

    documents: token ids [N, context], each row of documents of its own. prompts: [P, context].
    """

    documents: np.ndarray
    prompts: np.ndarray
    probes: tuple[Probe, ...]


class ContextReader:
    """Contexts of a corpus in random order, each of documents of its own: they begin with a
    document, short documents follow each other, and the rest of a long one is left out.

    source: as `read_corpus` takes it. context: tokens of each.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, context: int, seed: int) -> None:
        texts = list(itertools.islice(read_corpus(source).documents, MAX_DOCUMENTS))
        self.source, self.tokenizer, self.context = source, tokenizer, context
        self.generator = np.random.default_rng(seed)
        self.texts = [texts[number] for number in self.generator.permutation(len(texts))]
        self._contexts = self._read()

    def take(self, count: int, needed: int, use: str) -> np.ndarray:
        """The next contexts [R, T], at most `count`; raises CorpusError, which names their use,
        where there are fewer than needed."""
        rows = list(itertools.islice(self._contexts, count))
        if len(rows) < needed:
            raise CorpusError(
                f"corpus {self.source!r} gives {len(rows)} contexts of {self.context:,} tokens with"
                f" documents of their own; {needed} are needed ({use}): give more text, or a"
                " shorter context"
            )
        return np.array(rows)

    def draws(self, documents: int, prompts: int, count: int) -> list[Draw]:
        """The next contexts as draws of so many documents and prompts each."""
        needed = count * (documents + prompts)
        use = f"{count} draws of {documents} documents and {prompts} prompts"
        rows = self.take(needed, needed, use).reshape(count, -1, self.context)
        writer = ProbeWriter(self.texts, self.tokenizer, self.generator)
        return [writer.draw(own, documents) for own in rows]

    def training_text(self, folder: Path, tokens: int) -> Dataset:
        """About the next so many tokens, or all there are, with HELD_OUT contexts for validation,
        for a network of NO_TABLE tokens, which reads hidden states. folder: of the dataset; its
        tokenizer is written there."""
        # one context is lost where the others are cut into windows
        count = HELD_OUT + 1 - (-tokens // self.context)
        use = f"a training beyond those that are scored, {HELD_OUT} held out"
        rows = self.take(count, min(count, 2 * HELD_OUT), use)
        folder.mkdir(exist_ok=True)
        write_atomic(folder / "tokenizer.json", self.tokenizer.to_str())
        held_out = rows[:HELD_OUT].ravel()
        return Dataset(
            folder=folder,
            source=self.source,
            vocab=NO_TABLE,
            train=rows[HELD_OUT:].ravel(),
            validation=held_out,
            validation_bytes=len(self.tokenizer.decode(held_out.tolist()).encode()),
            notes=(),
            front=tuple(front_ids(self.tokenizer)),
        )

    def _read(self) -> Iterator[list[int]]:
        front, end = front_ids(self.tokenizer), end_of_document_id(self.tokenizer)
        row: list[int] = []
        for text in self.texts:
            row += front + _encoded(self.tokenizer, [text])[0]
            if len(row) >= self.context:
                yield row[: self.context]
                row = []
            elif end is not None:
                row.append(end)


def held_out_draw(dataset: Dataset, *, context: int, documents: int, prompts: int) -> Draw:
    """A draw of the validation text of a dataset, spread evenly over it. context: tokens of each of
    its documents and prompts. Raises CorpusError where the text is too short."""
    tokens = dataset.validation
    tokenizer = load_tokenizer(dataset.folder / "tokenizer.json")
    count = documents + prompts
    if len(tokens) < count * context:
        raise CorpusError(
            f"the held-out text has {len(tokens):,} tokens; {count * context:,} are needed ({count}"
            f" contexts of {context:,}): give more text"
        )
    starts = np.linspace(0, len(tokens) - context, count).astype(int)
    generator = np.random.default_rng(0)
    rows = np.array([tokens[start : start + context] for start in generator.permutation(starts)])
    rows[:, : len(dataset.front)] = dataset.front
    texts = [tokenizer.decode(row.tolist()) for row in rows]
    return ProbeWriter(texts, tokenizer, generator).draw(rows.astype(np.int64), documents)


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    with library_errors("the tokenizer cannot encode the text"):
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


class ProbeWriter:
    """Writes recall probes into contexts. Keys and values are words in lower case of a text, each
    with a space before it: those of the fewest tokens."""

    def __init__(
        self, texts: Sequence[str], tokenizer: Tokenizer, generator: np.random.Generator
    ) -> None:
        self.generator = generator
        found: dict[str, None] = {}
        for text in texts[:200]:
            if len(found) < CONSIDERED:
                found |= dict.fromkeys(filter(str.islower, WORD.findall(text[:20_000])))
        if len(found) < 4 * KEYS:
            raise CorpusError(
                f"recall probes need {4 * KEYS} different words in lower case; the text has"
                f" {len(found)}"
            )
        words = [f" {word}" for word in itertools.islice(found, CONSIDERED)]
        self.words = sorted(_encoded(tokenizer, words), key=len)[:WORDS]
        self.line, self.equals = _encoded(tokenizer, ["\n", " ="])
        self.front = front_ids(tokenizer)

    def draw(self, rows: np.ndarray, documents: int) -> Draw:
        """So many of the rows as documents, the others with probes in them."""
        probes: list[Probe] = []
        prompts = [self._prompt(row.tolist(), probes, n) for n, row in enumerate(rows[documents:])]
        return Draw(rows[:documents], np.array(prompts), tuple(probes))

    def _prompt(self, filler: list[int], probes: list[Probe], number: int) -> list[int]:
        """A context as long as its filler, with KEYS probes in random order, which are added to
        `probes`."""
        line, equals = self.line, self.equals
        drawn = self.generator.choice(len(self.words), 2 * KEYS, replace=False)
        pairs = [(self.words[drawn[n]], self.words[drawn[KEYS + n]]) for n in range(KEYS)]
        lines = [[*line, *key, *equals, *value, *line] for key, value in pairs]
        context, filler = len(filler), filler[len(self.front) :]
        room = len(filler) - 2 * sum(map(len, lines))
        if room < KEYS:
            raise CorpusError(f"recall probes need a context of more than {context} tokens")
        tokens = [*self.front]
        for at, stated in enumerate(lines):
            tokens += filler[room * at // KEYS : room * (at + 1) // KEYS] if at else []
            tokens += stated
        tokens += filler[: context - len(tokens) - sum(map(len, lines))]
        for at in self.generator.permutation(KEYS):
            end = len(tokens) + len(lines[at]) - len(line)
            probes.append(Probe(number, tuple(range(end - len(pairs[at][1]), end))))
            tokens += lines[at]
        return tokens
