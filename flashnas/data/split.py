"""Training and validation text without overlap. Pure functions over lists of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HELD_OUT_EVERY = 10  # every tenth document, or the last tenth of a text of fewer than ten


@dataclass(frozen=True, kw_only=True)
class Split:
    """Both parts; `duplicates`: copies, equal but for outer white space, that were left out before splitting."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    duplicates: int


def split_documents(documents: Sequence[str]) -> Split:
    """Hold out every tenth distinct document; with fewer than ten, the contiguous last tenth of the text.

    No document is in both parts. A part is empty if the text is very short.
    """
    by_text: dict[str, str] = {}
    for document in documents:
        by_text.setdefault(document.strip(), document)
    blank = sum(not document.strip() for document in documents)
    by_text.pop("", None)
    distinct = list(by_text.values())
    duplicates = len(documents) - blank - len(distinct)
    if len(distinct) >= HELD_OUT_EVERY:
        validation = distinct[HELD_OUT_EVERY - 1::HELD_OUT_EVERY]
        train = [document for i, document in enumerate(distinct) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    else:
        train, validation = _cut_tail(distinct)
    return Split(train=tuple(train), validation=tuple(validation), duplicates=duplicates)


def _cut_tail(documents: list[str]) -> tuple[list[str], list[str]]:
    """The last tenth of all characters, cut at white space if the 200 characters before the cut have some."""
    wanted = sum(map(len, documents)) // HELD_OUT_EVERY
    train, validation = list(documents), list[str]()
    while train and wanted > 0:
        document = train.pop()
        if len(document) > wanted:
            cut = len(document) - wanted
            space = max(document.rfind(mark, max(cut - 200, 1), cut) for mark in ("\n", " "))
            cut = space + 1 if space > 0 else cut
            train.append(document[:cut])
            document = document[cut:]
        validation.insert(0, document)
        wanted -= len(document)
    held_out = {document.strip() for document in validation}
    return [d for d in train if d.strip() and d.strip() not in held_out], [d for d in validation if d.strip()]
