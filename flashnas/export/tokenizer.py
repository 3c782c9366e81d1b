"""The tokenizer of an exported network, as AutoTokenizer reads it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from flashnas.base.errors import ExportError
from flashnas.data.tokenizer import end_of_document_id, load_tokenizer, vocab_size


def read_tokenizer(path: str, vocab: int) -> Tokenizer:
    """Read a tokenizer.json; raises CorpusError if it is not one, ExportError if its ids exceed the vocabulary."""
    tokenizer = load_tokenizer(path)
    if (needed := vocab_size(tokenizer)) > vocab:
        raise ExportError(f"tokenizer {path}: its ids go up to {needed - 1}; the architecture's vocabulary ends at"
                          f" {vocab - 1}")
    return tokenizer


def special_ids(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """The ids of special tokens: the token that separates documents begins, ends and pads a sequence."""
    end = None if tokenizer is None else end_of_document_id(tokenizer)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """tokenizer.json and tokenizer_config.json; padding on the left, as generation needs it."""
    from transformers import PreTrainedTokenizerFast

    end = end_of_document_id(tokenizer)
    names = {} if end is None else dict.fromkeys(("bos_token", "eos_token", "pad_token"), tokenizer.id_to_token(end))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False,
                            **names).save_pretrained(folder)
