"""A tokenizer.json as the keys of a GGUF file, so that llama.cpp turns a text into the same ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from flashnas.base.errors import ExportError
from flashnas.base.text import shortened
from flashnas.data.tokenizer import SpecialTokens, front_ids

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
END_TOKEN = "<|end|>"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA.replace("{1,3}", "")
QWEN35 = QWEN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
# llama.cpp's name -> the expressions by which a text is split in turn, and whether a word that is a
# token stays whole whatever the merges are
PRE_TOKENIZERS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": ((GPT2,), False),
    "smollm": ((r"\p{N}", GPT2), False),
    "qwen2": ((QWEN,), False),
    "qwen35": ((QWEN35,), False),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "lfm2"), ((LLAMA,), True)),
    **dict.fromkeys(("smaug-bpe", "dbrx"), ((LLAMA,), False)),
}
# tokens that end a text in llama.cpp because of their names
ENDS = ("<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a file by id: those of the network, then `added` ones, which are never generated.

    first: the id in front of a text; None: nothing. ends: ids that end a text. pre: llama.cpp's name
    of the pre-tokenizer. special: further ids, by the name of their key.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    added: int
    first: int | None
    ends: tuple[int, ...]
    pre: str = "gpt-2"
    special: Mapping[str, int] = field(default_factory=dict)
    chat_template: str = ""

    @property
    def added_ids(self) -> range:
        return range(len(self.tokens) - self.added, len(self.tokens))

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that do not continue a text: those that end it and the added ones."""
        return tuple({*self.ends, *self.added_ids})

    @property
    def plain(self) -> int:
        """A token of whole characters; ExportError where there is none."""
        ends = {*self.ends}
        for token, text in enumerate(self.tokens):
            if text.isascii() and self.types[token] == NORMAL and token not in ends:
                return token
        raise ExportError("--to gguf needs a token of whole characters that does not end a text")

    def write_keys(self, writer: GGUFWriter) -> None:
        writer.add_vocab_size(len(self.tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        writer.add_token_merges(list(self.merges))
        writer.add_add_bos_token(self.first is not None)
        end, *others = self.ends
        first = {} if self.first is None else {"bos": self.first}
        unnamed = [token for token in others if self.tokens[token] not in ENDS]
        ids = {"bos": end, "pad": end, **self.special, **first, "eos": end}
        for name, token in {**ids, **dict(zip(("eot", "eom"), unnamed, strict=False))}.items():
            getattr(writer, f"add_{name}_token_id")(token)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
        if self.added:
            writer.add_array("tokenizer.ggml.suppress_tokens", list(self.added_ids))


def vocabulary(
    tokenizer: Tokenizer | None,
    vocab: int,
    said: SpecialTokens = SpecialTokens(),  # noqa: B008 - it is frozen
) -> Vocabulary:
    """The tokens of a network with `vocab` rows in its embedding; ExportError if llama.cpp would
    cut a text otherwise.

    A tokenizer
    without a token that ends a document gets one. Without a tokenizer the tokens have names that no
    text contains.
    """
    tokens = [f"[unused {n}]" for n in range(vocab)]
    types = [UNUSED] * vocab
    merges: list[str] = []
    pre, ends, front, special = "gpt-2", [0], [], {}
    if tokenizer is None:
        types = [NORMAL] * vocab
    else:
        described = json.loads(tokenizer.to_str())
        pre = _pre_tokenizer(described)
        pairs = described["model"]["merges"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
        is_special = {token["id"]: token["special"] for token in described["added_tokens"]}
        for text, token in tokenizer.get_vocab(with_added_tokens=True).items():
            tokens[token] = text
            types[token] = (
                NORMAL
                if token not in is_special
                else CONTROL
                if is_special[token]
                else USER_DEFINED
            )
        ends, front = said.ids(tokenizer, "eos"), front_ids(tokenizer)
        special = {kind: ids[0] for kind in ("bos", "pad") if (ids := said.ids(tokenizer, kind))}
    if len(front) > 1:
        raise ExportError(f"llama.cpp puts at most one token in front of a text; got {len(front)}")
    if not ends:
        ends = [len(tokens)]
        tokens.append(END_TOKEN)
    types += [CONTROL] * (len(tokens) - vocab)
    return Vocabulary(
        tuple(tokens),
        tuple(types),
        # llama.cpp does not load a list without merges; one without a token as its result is nothing
        tuple(merges or ["! !"]),
        len(tokens) - vocab,
        next(iter(front), None),
        tuple(ends),
        pre,
        special,
        said.chat_template,
    )


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    """The name of the pre-tokenizer in llama.cpp. It does not compose characters, as NFC does, which
    hardly any text needs."""
    model, normalizer = described["model"], described["normalizer"]
    splits = [*_splits(described["pre_tokenizer"] or {})]
    for name, (expressions, whole_words) in PRE_TOKENIZERS.items():
        if (
            splits == [*expressions, "ByteLevel"]
            and model["type"] == "BPE"
            and whole_words == bool(model.get("ignore_merges"))
            and normalizer in (None, {"type": "NFC"})
        ):
            return name
    kind = f"{model['type']} with {' and '.join(splits) or 'no'} pre-tokenizer"
    kind += f" and {normalizer['type']} normalizer" if normalizer else ""
    raise ExportError(
        "--to gguf writes tokenizers that llama.cpp has, byte-level BPE with the pre-tokenizer of"
        f" {', '.join(PRE_TOKENIZERS)}; got {shortened(kind, 300)}"
    )


def _splits(part: Mapping[str, Any]) -> Iterator[str]:
    """The expressions by which a pre-tokenizer splits a text in turn, then "ByteLevel"."""
    match part:
        case {"pretokenizers": parts}:
            for each in parts:
                yield from _splits(each)
        case {"type": "Digits", "individual_digits": True}:
            yield r"\p{N}"
        case {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}:
            yield expression
        case {"type": "ByteLevel", "add_prefix_space": False}:
            if part.get("use_regex", True):
                yield GPT2
            yield "ByteLevel"
        case {"type": kind}:
            yield kind
