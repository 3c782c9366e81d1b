"""A tokenizer.json as the keys of a GGUF file, so that llama.cpp turns a text into the same ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from flashnas.base.errors import ExportError
from flashnas.data.tokenizer import end_of_document_id

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
META_TOKEN, END_TOKEN = "<|meta|>", "<|end|>"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a file by id: those of the network, then `added` ones, which are never generated.

    first: the id in front of a text; None: nothing. end: the id that ends a text.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    added: int
    first: int | None
    end: int

    @property
    def front(self) -> list[int]:
        """What stands in front of a text."""
        return [] if self.first is None else [self.first]

    @property
    def added_ids(self) -> range:
        return range(len(self.tokens) - self.added, len(self.tokens))

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that do not continue a text: the one that ends it and the added ones."""
        return tuple({self.end, *self.added_ids})

    @property
    def plain(self) -> int:
        """A token of whole characters."""
        return next(
            token
            for token, text in enumerate(self.tokens)
            if text.isascii() and self.types[token] == NORMAL and token != self.end
        )

    def write_keys(self, writer: GGUFWriter) -> None:
        writer.add_vocab_size(len(self.tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        writer.add_token_merges(list(self.merges))
        writer.add_bos_token_id(self.end if self.first is None else self.first)
        writer.add_add_bos_token(self.first is not None)
        writer.add_eos_token_id(self.end)
        writer.add_pad_token_id(self.end)
        if self.added:
            writer.add_array("tokenizer.ggml.suppress_tokens", list(self.added_ids))


def vocabulary(tokenizer: Tokenizer | None, vocab: int, meta_tokens: int) -> Vocabulary:
    """The tokens of a network with `vocab` rows in its embedding; ExportError if llama.cpp would
    cut a text otherwise.

    A meta token becomes a token after the vocabulary, which is put before every text. A tokenizer
    without a token that ends a document gets one. Without a tokenizer the tokens have names that no
    text contains.
    """
    tokens = [f"[unused {n}]" for n in range(vocab)]
    types = [UNUSED] * vocab
    merges: list[str] = []
    end: int | None = 0
    if tokenizer is None:
        types = [NORMAL] * vocab
    else:
        described = json.loads(tokenizer.to_str())
        merges = _checked_merges(described)
        special = {token["id"]: token["special"] for token in described["added_tokens"]}
        for text, token in tokenizer.get_vocab(with_added_tokens=True).items():
            tokens[token] = text
            types[token] = (
                NORMAL if token not in special else CONTROL if special[token] else USER_DEFINED
            )
        end = end_of_document_id(tokenizer)
    first = None
    if meta_tokens:
        first = len(tokens)
        tokens.append(META_TOKEN)
    if end is None:
        end = len(tokens)
        tokens.append(END_TOKEN)
    types += [CONTROL] * (len(tokens) - vocab)
    # llama.cpp does not load a list without merges; one whose result is not a token changes nothing
    return Vocabulary(
        tuple(tokens), tuple(types), tuple(merges or ["! !"]), len(tokens) - vocab, first, end
    )


def _checked_merges(described: dict[str, Any]) -> list[str]:
    """The merges, each as two tokens with a space between."""
    model = described["model"]
    splits = described["pre_tokenizer"] or {}
    byte_level = (
        splits.get("type") == "ByteLevel"
        and not splits.get("add_prefix_space")
        and splits.get("use_regex", True)
    )
    normalizer = described["normalizer"]
    if model["type"] != "BPE" or not byte_level or normalizer or model.get("ignore_merges"):
        kind = f"{model['type']} with {splits.get('type') or 'no'} pre-tokenizer"
        kind += f" and {normalizer['type']} normalizer" if normalizer else ""
        raise ExportError(
            "--to gguf writes tokenizers of the kind that flashnas trains, byte-level BPE with"
            f" the splits of GPT-2; got {kind}"
        )
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
