"""Training and validation text without overlap, found in one pass over documents that need not be
in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flashnas.base.errors import CorpusError

HELD_OUT_EVERY = 10  # every tenth document, or the last tenth of a text of fewer than ten
CHANGED = "the corpus changed while it was read; start again"
LEFT_OUT, TRAIN, VALIDATION = range(3)


@dataclass(frozen=True)
class TextPart:
    """The documents of a stream that belong to one part, read anew at each pass. marks: of each
    document, its part. digests: the SHA-256 of each text of the part, in order. size: bytes in
    UTF-8."""

    documents: Iterable[str]
    marks: bytearray
    part: int
    digests: bytes
    size: int

    def __iter__(self) -> Iterator[str]:
        marks = iter(self.marks)
        for document in self.documents:
            if (mark := next(marks, None)) is None:
                raise CorpusError(CHANGED)
            if mark == self.part:
                yield document
        if next(marks, None) is not None:
            raise CorpusError(CHANGED)

    def __len__(self) -> int:
        return self.marks.count(self.part)

    @classmethod
    def of(cls, documents: Sequence[str]) -> TextPart:
        """All of some documents."""
        texts = [text.encode() for text in documents]
        return cls(
            documents,
            bytearray([TRAIN]) * len(documents),
            TRAIN,
            b"".join(hashlib.sha256(text).digest() for text in texts),
            sum(map(len, texts)),
        )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Both parts; `duplicates`: copies, equal but for outer white space, that were left out before
    splitting."""

    train: TextPart
    validation: TextPart
    duplicates: int


def split_documents(documents: Iterable[str]) -> Split:
    """Hold out every tenth distinct document; with fewer than ten, the contiguous last tenth of the
    text. No document is in both parts. The pass keeps 50 bytes of each; the parts read the
    documents, which stay the same, again."""
    marks = bytearray()
    seen = set[bytes]()
    blank = 0
    digests: dict[int, bytearray] = {TRAIN: bytearray(), VALIDATION: bytearray()}
    sizes = {TRAIN: 0, VALIDATION: 0}
    few: list[str] = []
    for document in documents:
        bare = document.strip()
        key = hashlib.blake2b(bare.encode(), digest_size=16).digest()
        if not bare or key in seen:
            blank += not bare
            marks.append(LEFT_OUT)
            continue
        seen.add(key)
        if len(seen) < HELD_OUT_EVERY:
            few.append(document)
        part = TRAIN if len(seen) % HELD_OUT_EVERY else VALIDATION
        marks.append(part)
        text = document.encode()
        digests[part] += hashlib.sha256(text).digest()
        sizes[part] += len(text)
    duplicates = len(marks) - blank - len(seen)
    if len(seen) < HELD_OUT_EVERY:
        train, validation = _cut_tail(few)
        return Split(
            train=TextPart.of(train), validation=TextPart.of(validation), duplicates=duplicates
        )
    train_part, validation_part = (
        TextPart(documents, marks, part, bytes(digests[part]), sizes[part])
        for part in (TRAIN, VALIDATION)
    )
    return Split(train=train_part, validation=validation_part, duplicates=duplicates)


def _cut_tail(documents: list[str]) -> tuple[list[str], list[str]]:
    """The last tenth of all characters, cut at white space if the 200 characters before the cut
    have some.
    """
    missing = sum(map(len, documents)) // HELD_OUT_EVERY
    train, validation = list(documents), list[str]()
    while train and missing > 0:
        document = train.pop()
        if len(document) > missing:
            cut = len(document) - missing
            space = max(document.rfind(mark, max(cut - 200, 1), cut) for mark in ("\n", " "))
            cut = space + 1 if space > 0 else cut
            train.append(document[:cut])
            document = document[cut:]
        validation.insert(0, document)
        missing -= len(document)
    held_out = {document.strip() for document in validation}
    return [d for d in train if d.strip() and d.strip() not in held_out], [
        d for d in validation if d.strip()
    ]
