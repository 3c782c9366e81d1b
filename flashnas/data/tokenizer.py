"""A byte-level BPE tokenizer, trained once on the training part and cached; or any given tokenizer.json."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from flashnas.base.errors import CorpusError
from flashnas.data.cache import file_in_cache

END_OF_DOCUMENT = "<|endoftext|>"
_VERSION = "bpe-1"  # part of the cache key: raise it when training changes


def train_tokenizer(documents: Sequence[str], vocab: int) -> Tokenizer:
    """Byte-level BPE of at most `vocab` tokens (fewer if the text is small); id 0 ends a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[END_OF_DOCUMENT], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer, length=len(documents))
    return tokenizer


def cached_tokenizer(documents: Sequence[str], vocab: int, cache: Path) -> Tokenizer:
    """`train_tokenizer`, remembered under `cache` by the text's hash and the vocabulary size."""
    digest = hashlib.sha256(f"{_VERSION} {vocab}".encode())
    for document in documents:
        digest.update(hashlib.sha256(document.encode()).digest())
    path = cache / "tokenizers" / f"{digest.hexdigest()[:24]}.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception:  # tokenizers raises bare Exception; a damaged file is trained again
            pass
    tokenizer = train_tokenizer(documents, vocab)
    file_in_cache(path, tokenizer.to_str().encode())
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A given tokenizer.json; raises CorpusError if it is missing or not one."""
    if not Path(path).is_file():
        raise CorpusError(f"tokenizer {path}: no such file")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CorpusError(f"tokenizer {path}: not a tokenizer.json: {str(error).splitlines()[0]}") from None


def end_of_document_id(tokenizer: Tokenizer) -> int | None:
    """The id that separates documents: that of END_OF_DOCUMENT or a usual name for it; None if there is none."""
    for name in (END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]"):
        if (token := tokenizer.token_to_id(name)) is not None:
            return token
    return None


def vocab_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id plus one (added tokens may leave gaps)."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
