"""A byte-level BPE tokenizer, trained once on the training part and cached, or a given
tokenizer.json with what stands beside it; and the folder of tokenizers and token arrays, which
several processes may fill at once.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from flashnas.base.errors import CorpusError
from flashnas.base.foreign import read_json, read_text
from flashnas.base.system import disk_errors, write_atomic
from flashnas.base.text import first_line, shortened
from flashnas.data.split import TextPart

END_OF_DOCUMENT = "<|endoftext|>"
MAX_ID = 2**24  # far above any vocabulary; an embedding needs a row for each id
# of text that a tokenizer is trained on; more of it would hardly change 100,000 words
MAX_BYTES = 2**30
FILES = ("tokenizer_config.json", "generation_config.json")  # beside tokenizer.json
RUNS_CODE = ("auto_map", "custom_generate")  # keys of these that name files of Python
KINDS = ("bos", "eos", "pad")  # of special tokens
MAX_GROWTH = 64  # of a text; a table of compatibility characters alone may make 18 of one
MAX_PUT_IN = 1000  # tokens around a text that count as no growth
SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")  # of parts of a tokenizer
_VERSION = "bpe-2"  # part of the cache key: raise it when training changes
_MAX_WORD = 4096  # characters; BPE training takes time quadratic in the length of a word
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{_MAX_WORD}}}|(?<!\s)\s{{{_MAX_WORD}}}")


def cache_folder() -> Path:
    """FLASHNAS_CACHE if it is set, else ~/.cache/flashnas."""
    return Path(os.environ.get("FLASHNAS_CACHE") or Path.home() / ".cache" / "flashnas")


@contextlib.contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """Create `folder` for the block to write into; raises CorpusError naming it if the disk is full
    or read-only."""
    with disk_errors(
        f"cannot cache data in {folder}",
        CorpusError,
        "; free some space or name another folder with FLASHNAS_CACHE",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def train_tokenizer(documents: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE; id 0 ends a document.

    Words of more than 4096 characters, as in base64 text or in a line of dashes, are cut for the
    training only.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_DOCUMENT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    pieces = (piece for document in documents for piece in _with_short_words(document))
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def _with_short_words(document: str) -> list[str]:
    """The document, cut within words that are too long."""
    if not _LONG_RUN.search(document):
        return [document]
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(document)
    cuts = [cut for _, (start, end) in words for cut in range(start + _MAX_WORD, end, _MAX_WORD)]
    return [
        document[start:end] for start, end in zip([0, *cuts], [*cuts, len(document)], strict=True)
    ]


def cached_tokenizer(documents: TextPart, vocab: int, cache: Path) -> Tokenizer:
    """`train_tokenizer`, with its result kept under `cache` by the hash of the text and the
    vocabulary size.

    Of more text than MAX_BYTES it sees every second document, or every third, and so on.
    """
    digest = hashlib.sha256(f"{_VERSION} {vocab}".encode())
    digest.update(documents.digests)
    path = cache / "tokenizers" / f"{digest.hexdigest()[:24]}.json"
    if path.is_file():
        with contextlib.suppress(CorpusError):  # a damaged file is trained again
            return load_tokenizer(path)
    step = max(1, -(-documents.size // MAX_BYTES))
    tokenizer = train_tokenizer(itertools.islice(documents, 0, None, step), vocab)
    with writing_cache(path.parent):
        write_atomic(path, tokenizer.to_str())
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer.json; raises CorpusError if it is missing or is not one. Its truncation,
    padding and dropout are left out: every text is encoded as a whole, and always alike."""
    content = read_json(path, CorpusError)
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # which the library refuses
        # it is used while the file is read, for added tokens
        _check_growth(path, "normalizer", content.get("normalizer"))
    if (largest := _largest_id(content)) > MAX_ID:
        raise CorpusError(f"tokenizer {path}: ids must be at most {MAX_ID:,}; got {largest}")
    with library_errors(f"tokenizer {path}: not a tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(path))
    return checked_tokenizer(tokenizer, path)


def checked_tokenizer(tokenizer: Tokenizer, path: str | Path) -> Tokenizer:
    """A tokenizer of a stranger without truncation, padding and dropout; CorpusError if it has no
    tokens, makes texts so long that they fill the memory, or puts in what is no token."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = None
    if not tokenizer.get_vocab(with_added_tokens=True):
        raise CorpusError(f"tokenizer {path}: has no tokens")
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (part := getattr(tokenizer, name)) is not None:
            state = json.loads(part.__getstate__())
            _check_growth(path, name, state)
            if (largest := max(_ids(state), default=0)) >= vocab_size(tokenizer):
                raise CorpusError(
                    f"tokenizer {path}: its {name} puts in the id {largest}; the largest one of a"
                    f" token is {vocab_size(tokenizer) - 1}"
                )
    return tokenizer


def _check_growth(path: str | Path, name: str, part: Mapping[str, Any] | None) -> None:
    if part is not None and (growth := _growth(part)) > MAX_GROWTH:
        raise CorpusError(
            f"tokenizer {path}: may make a text at most {MAX_GROWTH} times as long; its"
            f" {name} makes it {growth:.3g} times as long"
        )


def _parts(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a sequence."""
    return [each for name in SEQUENCES for each in part.get(name) or []]


def _ids(part: Mapping[str, Any]) -> Iterator[int]:
    """What a post-processor puts around a text."""
    for each in _parts(part):
        yield from _ids(each)
    for token in (part.get("special_tokens") or {}).values():
        yield from token["ids"]
    yield from (part[name][1] for name in ("cls", "sep") if name in part)


def _growth(part: Mapping[str, Any]) -> float:
    """How many times longer a part may make a text. Compatibility forms of Unicode count in what is
    put in, since they make no text longer twice."""
    growth = math.prod(map(_growth, _parts(part)))
    if part.get("type") == "ByteLevel":  # a byte may become a letter of two
        growth *= 2
    if template := part.get("single"):
        tokens = part.get("special_tokens") or {}
        put_in = sum(
            len(tokens[piece["SpecialToken"]["id"]]["ids"])
            for piece in template
            if "SpecialToken" in piece
        )
        growth *= max(1, sum("Sequence" in piece for piece in template), put_in / MAX_PUT_IN)
    if text := part.get("content") or part.get("prepend"):
        pattern = part.get("pattern", {}).get("String", "")
        longer = 1 + len(unicodedata.normalize("NFKD", text))
        growth *= max(1.0, longer / max(1, len(pattern)))
    if table := part.get("precompiled_charsmap"):
        data = base64.b64decode(table)
        texts = data[4 + int.from_bytes(data[:4], "little") :].decode(errors="replace")
        growth *= float(max(map(len, texts.split("\0"))))
    return growth


@contextlib.contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """A context for calls of the library: what it raises is a CorpusError of one line after
    `problem`.

    The library raises bare Exception, and for a panic of its Rust code, which it also reports on the
    standard error, a BaseException.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CorpusError(f"{problem}: {shortened(first_line(error), 500)}") from None


def _largest_id(content: Any) -> int:
    """The largest id, 0 for another file. The library aborts the process where one is huge."""
    try:
        vocab = content["model"]["vocab"]
        added = content.get("added_tokens") or []
        ids = [
            *(vocab.values() if isinstance(vocab, dict) else [len(vocab)]),
            *(token["id"] for token in added),
        ]
        return max((value for value in ids if isinstance(value, int)), default=0)
    except (KeyError, TypeError, AttributeError):
        return 0


def usual_end(tokenizer: Tokenizer) -> int | None:
    """The id of END_OF_DOCUMENT, or of a usual name for it; None if the tokenizer has none."""
    for name in (END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]"):
        if (token := tokenizer.token_to_id(name)) is not None:
            return token
    return None


def vocab_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id plus one (added tokens may leave gaps)."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


@dataclass(frozen=True)
class SpecialTokens:
    """What begins, ends and pads a text, and how a chat is written.

    config: tokenizer_config.json, with the chat template. generation: generation_config.json.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(cls, tokenizer: str | Path | None) -> Self:
        """Read what stands beside a tokenizer.json, without keys that run code; CorpusError for a
        damaged file."""
        contents: list[dict[str, Any]] = []
        folder = Path(tokenizer or "").parent
        for path in [folder / name for name in FILES] if tokenizer else []:
            content = read_json(path, CorpusError) if path.exists() else {}
            if not isinstance(content, dict):
                raise CorpusError(f"{path}: must be a mapping; got {type(content).__name__}")
            contents.append({key: content[key] for key in content if key not in RUNS_CODE})
        if tokenizer and (template := folder / "chat_template.jinja").exists():
            contents[0]["chat_template"] = read_text(template, CorpusError)
        return cls(*contents)

    @property
    def files(self) -> dict[str, str]:
        """The texts of the files, by name."""
        pairs = zip(FILES, (self.config, self.generation), strict=True)
        return {name: json.dumps(content, indent=2) for name, content in pairs if content}

    @property
    def chat_template(self) -> str:
        """In Jinja; "": there is none, or there are several."""
        found = self.config.get("chat_template")
        return found if isinstance(found, str) else ""

    def ids(self, tokenizer: Tokenizer, kind: str) -> list[int]:
        """The tokens of a kind, `bos`, `eos` or `pad`: that of tokenizer_config.json first, then those
        of generation_config.json. Where no file says more, it is `usual_end`."""
        name, said = self.config.get(f"{kind}_token"), self.generation.get(f"{kind}_token_id")
        name = name.get("content") if isinstance(name, dict) else name
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        found = [vocabulary.get(str(name)), *(said if isinstance(said, list) else [said])]
        words = {*vocabulary.values()}
        ids = [token for token in found if type(token) is int and token in words]
        if not ids and (kind == "eos" or not self.config):
            ids = [token for token in [usual_end(tokenizer)] if token is not None]
        return [*dict.fromkeys(ids)]

    def end_of_document(self, tokenizer: Tokenizer) -> int | None:
        """The first token that ends a text, which separates documents wherever text is trained on or
        scored; None if there is none."""
        return next(iter(self.ids(tokenizer, "eos")), None)

    def keys(self, tokenizer: Tokenizer | None) -> dict[str, Any]:
        """The entries of config.json."""
        found = {kind: self.ids(tokenizer, kind) if tokenizer else [] for kind in KINDS}
        keys: dict[str, Any] = {
            f"{kind}_token_id": next(iter(ids), None) for kind, ids in found.items()
        }
        return keys | ({"eos_token_id": found["eos"]} if found["eos"][1:] else {})


def front_ids(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts in front of a text, such as the beginning token of Llama 3."""
    with library_errors("the tokenizer cannot encode a letter"):
        encoding = tokenizer.encode("a")
    return encoding.ids[: [*encoding.special_tokens_mask, 0].index(0)]
