"""The text that a conversion is scored on: contexts of the user's documents, and recall probes.

A recall probe asks for a value that the context has stated once: lines `key = value` stand between
the filler text at evenly spaced distances, and the end of the context asks for each of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from flashnas.base.errors import CorpusError
from flashnas.data.corpus import read_corpus
from flashnas.data.dataset import Dataset
from flashnas.data.tokenizer import end_of_document_id, library_errors, load_tokenizer

MAX_DOCUMENTS = 20_000  # that are read of a corpus
WORD = re.compile(r"[^\W\d_]{4,10}")
WORDS = 600  # of which keys and values are drawn
CONSIDERED = 20 * WORDS
KEYS = 8  # of a prompt
HELD_OUT = 4  # contexts of a training


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


def draws(
    source: str,
    tokenizer: Tokenizer,
    *,
    context: int,
    documents: int,
    prompts: int,
    count: int,
    seed: int,
) -> list[Draw]:
    """Cut a corpus into draws.

    Args:
        source: as `read_corpus` takes it.
        context: tokens of each row.
        documents, prompts: rows of each draw.
        count: of draws.

    Raises:
        CorpusError: the text is too short, or cannot be read.
    """
    texts, generator = _shuffled(source, seed)
    needed = count * (documents + prompts)
    rows = list(itertools.islice(_rows(texts, tokenizer, context), needed))
    if len(rows) < needed:
        raise CorpusError(
            f"corpus {source!r} gives {len(rows)} contexts of {context:,} tokens with documents of"
            f" their own; {needed} are needed ({count} draws of {documents} documents and {prompts}"
            " prompts): give more text, or lower --documents or --context"
        )
    writer = ProbeWriter(texts, tokenizer, generator)
    return [writer.draw(own, documents) for own in np.array(rows).reshape(count, -1, context)]


def training_rows(
    source: str,
    tokenizer: Tokenizer,
    *,
    context: int,
    skip: int,
    tokens: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts [R, context] behind the first `skip` ones, of which `draws` of the same seed are
    made: HELD_OUT ones, and others with about so many tokens, or with all there are. CorpusError
    where these are fewer than HELD_OUT."""
    texts, _ = _shuffled(source, seed)
    count = HELD_OUT + -(-tokens // context)
    found = np.array(list(itertools.islice(_rows(texts, tokenizer, context), skip, skip + count)))
    if len(found) < min(count, 2 * HELD_OUT):
        raise CorpusError(
            f"corpus {source!r} has {len(found)} contexts of {context:,} tokens beyond the {skip}"
            f" that are scored, and a training needs {2 * HELD_OUT}: give more text"
        )
    return found[:HELD_OUT], found[HELD_OUT:]


def held_out_draw(dataset: Dataset, *, context: int, documents: int, prompts: int) -> Draw:
    """A draw of the validation text of a dataset, spread evenly over it; arguments as in `draws`."""
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
    texts = [tokenizer.decode(row.tolist()) for row in rows]
    return ProbeWriter(texts, tokenizer, generator).draw(rows.astype(np.int64), documents)


def _shuffled(source: str, seed: int) -> tuple[list[str], np.random.Generator]:
    texts = list(itertools.islice(read_corpus(source).documents, MAX_DOCUMENTS))
    generator = np.random.default_rng(seed)
    return [texts[number] for number in generator.permutation(len(texts))], generator


def _rows(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> Iterator[list[int]]:
    """Contexts that begin with a document; short documents follow each other, the rest of a long
    one is left out."""
    end = end_of_document_id(tokenizer)
    row: list[int] = []
    for text in texts:
        row += _encoded(tokenizer, [text])[0]
        if len(row) >= context:
            yield row[:context]
            row = []
        elif end is not None:
            row.append(end)


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
        room = len(filler) - 2 * sum(map(len, lines))
        if room < KEYS:
            raise CorpusError(f"recall probes need a context of more than {len(filler)} tokens")
        tokens: list[int] = []
        for at, stated in enumerate(lines):
            tokens += filler[room * at // KEYS : room * (at + 1) // KEYS] if at else []
            tokens += stated
        tokens += filler[: len(filler) - len(tokens) - sum(map(len, lines))]
        for at in self.generator.permutation(KEYS):
            end = len(tokens) + len(lines[at]) - len(line)
            probes.append(Probe(number, tuple(range(end - len(pairs[at][1]), end))))
            tokens += lines[at]
        return tokens
