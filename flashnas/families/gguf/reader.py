"""Pretrained models in GGUF files, which strangers may have written."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.base.foreign import check_regular
from flashnas.base.text import first_line, one_of, shown
from flashnas.data.tokenizer import KINDS, SpecialTokens, checked_tokenizer, library_errors
from flashnas.families.gguf.families import FAMILIES
from flashnas.families.gguf.file import DESCRIPTION
from flashnas.families.gguf.pieces import ROPE
from flashnas.families.gguf.vocabulary import (
    CONTROL,
    ENDS,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
)
from flashnas.families.pretrained import check_kind

MAX_READS = 3_000_000  # each takes 0.6 kB in memory; the largest vocabularies need 2 million
# key of config.json -> key of a GGUF file, behind the name of its architecture
KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "conv_L_cache": "shortconv.l_cache",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
TYPES = {"rope_theta": float, "rms_norm_eps": float}  # the others are whole numbers
OPTIONAL = ("head_dim", "rope_theta", "conv_L_cache")
TOKENS = "tokenizer.ggml.tokens"
IDS = {**dict(zip(KINDS, ("bos", "eos", "padding"), strict=True)), "eot": "eot", "eom": "eom"}


class BoundedReader(gguf.GGUFReader):
    """Raises TypeError or ValueError for a length that exceeds the file. The class it is made of
    takes what lies behind the end for empty arrays, and goes through as many as the header says."""

    reads = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError(f"its header must hold at most {MAX_READS:,} values")
        in_order = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        return np.ndarray(int(count), in_order, self.data, offset)


class GgufFile:
    """A GGUF file: its keys by type, its tensors by name, with dimensions in torch's order. Raises
    WeightsError, in one line, for a damaged file."""

    def __init__(self, path: Path) -> None:
        check_regular(path, WeightsError)
        try:
            self._reader = BoundedReader(path)
        except Exception as error:  # ValueError, IndexError and others, by kind of damage
            raise WeightsError(f"{path}: not a readable GGUF file: {first_line(error)}") from None
        if sum(tensor.n_bytes for tensor in self._reader.tensors) > path.stat().st_size:
            raise WeightsError(f"{path}: not a readable GGUF file: its tensors overlap")
        self.path = path
        self.tensors = {
            tensor.name: tensor._replace(shape=tensor.shape[::-1].tolist())
            for tensor in self._reader.tensors
        }
        self.kind: str = self.value("general.architecture", str)

    def value(self, key: str, *types: type) -> Any:
        """The value of a key, of one of these types; NoneType: it may be missing."""
        field = self._reader.get_field(key)
        try:
            found = field and field.contents()
        except UnicodeDecodeError:
            raise WeightsError(f"{self.path}:{key}: must be UTF-8 text") from None
        if type(found) not in types:
            raise WeightsError(
                f"{self.path}:{key}: must be {types[0].__name__}; got {shown(found)}"
            )
        return found

    def own(self) -> Architecture | None:
        """The network of a file that flashnas wrote, as its description says; WeightsError where a
        key says something else. An added token counts as one of its vocabulary."""
        words = str(self.value("general.description", str, NoneType))
        if self.kind not in FAMILIES or not words.startswith(DESCRIPTION):
            return None
        network = Architecture.parse(words.removeprefix(DESCRIPTION))
        network = replace(network, vocab=len(self.value(TOKENS, list)), meta_tokens=0)
        writer = gguf.GGUFWriter(None, self.kind)
        FAMILIES[self.kind].write_keys(writer, network)
        for key, needed in writer.kv_data[0].items():
            found, expected = self.value(key, type(needed.value)), needed.value
            close = isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-6)
            if found != expected and not close:
                raise WeightsError(
                    f"{self.path}:{key}: must be {shown(expected)}, as general.description says;"
                    f" got {shown(found)}"
                )
        return network

    def config(self) -> dict[str, Any]:
        """What config.json would say."""
        kind, path = self.kind, self.path
        check_kind(kind, path)
        if self._reader.get_field(f"{kind}.attention.sliding_window"):
            raise WeightsError(
                f"{path}: its attention has windows (attention.sliding_window); convert from the"
                " folder of transformers"
            )
        types = {**TYPES, "num_key_value_heads": list if kind == "lfm2" else int}
        config = {
            name: self.value(f"{kind}.{key}", types.get(name, int))
            for name, key in KEYS.items()
            if name not in OPTIONAL or self._reader.get_field(f"{kind}.{key}")
        }
        scaling = self.value(f"{kind}.rope.scaling.type", str, NoneType) or "linear"
        for key in ("scaling.factor", "scale_linear"):
            factor = self.value(f"{kind}.rope.{key}", float, NoneType) or 1.0
            if scaling not in ("linear", "none") or (scaling == "linear" and factor != 1):
                config["rope_scaling"] = {"rope_type": scaling, "factor": factor}
        if ROPE in self.tensors:
            factors = torch.tensor(self.tensors[ROPE].data).flatten()
            slowest = factors[-1:]
            # `Rotary.frequencies` the other way round; `_filled` compares what it gives with these
            kept = (slowest / factors - 1) / (slowest - 1)
            share = torch.arange(len(factors)) / len(factors)
            tokens = 2 * math.pi * config.get("rope_theta", 1e4) ** share * (1 + 3 * kept)
            llama_3 = {
                "rope_type": "llama3",
                "factor": float(slowest.sum()),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": int(
                    tokens[kept % 1 > 0].mean().nan_to_num().round()
                ),
            }
            # beside linear scaling the tensor stays unread, which `_filled` refuses
            config.setdefault("rope_scaling", llama_3)
        if kind == "lfm2":  # key heads by layer, 0 for a convolution
            kv_heads = config["num_key_value_heads"]
            config["layer_types"] = ["full_attention" if count else "conv" for count in kv_heads]
            config["num_key_value_heads"] = max(kv_heads, default=0)
            config["block_auto_adjust_ff_dim"] = False
            config["norm_eps"] = config["rms_norm_eps"]
        return config | {
            "model_type": kind,
            "vocab_size": len(self.value(TOKENS, list)),
            "tie_word_embeddings": "output.weight" not in self.tensors,
        }

    def words(self) -> tuple[Tokenizer, SpecialTokens]:
        """The tokenizer, and what the file says of special tokens."""
        tokens: list[str] = self.value(TOKENS, list)
        said = {
            kind: self.value(f"tokenizer.ggml.{key}_token_id", int, NoneType)
            for kind, key in IDS.items()
        }
        ids = {kind: token for kind, token in said.items() if token in range(len(tokens))}
        ends = [ids[kind] for kind in ("eos", "eot", "eom") if kind in ids]
        ends += [tokens.index(name) for name in ENDS if name in tokens]
        config = {f"{kind}_token": tokens[ids[kind]] for kind in KINDS if kind in ids}
        if template := self.value("tokenizer.chat_template", str, NoneType):
            config["chat_template"] = template
        special = SpecialTokens(
            {**config, "tokenizer_class": "PreTrainedTokenizerFast"},
            {"eos_token_id": [*dict.fromkeys(ends)]},
        )
        with library_errors(f"{self.path}: its tokenizer cannot be read"):
            if self.value("tokenizer.ggml.model", str) != "gpt2":
                return checked_tokenizer(_by_transformers(self.path), self.path), special
            tokenizer, whole_words = self._byte_level(tokens)
            begins = self.value("tokenizer.ggml.add_bos_token", bool, NoneType)
            if "bos" in ids and (whole_words if begins is None else begins):
                tokenizer.post_processor = processors.TemplateProcessing(
                    single=[config["bos_token"], "$A"],
                    special_tokens=[(config["bos_token"], ids["bos"])],
                )
        return checked_tokenizer(tokenizer, self.path), special

    def _byte_level(self, tokens: list[str]) -> tuple[Tokenizer, bool]:
        """Byte-level BPE as llama.cpp reads it, and whether a word that is a token stays whole."""
        pre = self.value("tokenizer.ggml.pre", str, NoneType)
        if pre not in PRE_TOKENIZERS:
            raise WeightsError(one_of(f"{self.path}:tokenizer.ggml.pre", pre, PRE_TOKENIZERS))
        expressions, whole_words = PRE_TOKENIZERS[pre]
        types = self.value("tokenizer.ggml.token_type", list)
        vocab = {
            text: token
            for token, (text, type_) in enumerate(zip(tokens, types, strict=True))
            if type_ != UNUSED
        }
        merges = [merge.partition(" ")[::2] for merge in self.value("tokenizer.ggml.merges", list)]
        merges = [pair for pair in merges if "".join(pair) in vocab]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
        splits = [pre_tokenizers.Split(Regex(each), "isolated") for each in expressions]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        added = [
            AddedToken(text, normalized=False, special=types[token] == CONTROL)
            for text, token in vocab.items()
            if types[token] in (CONTROL, USER_DEFINED)
        ]
        tokenizer.add_tokens(added)
        return tokenizer, whole_words


def numbers_of(tensor: gguf.ReaderTensor) -> Tensor:
    """In float32. Raises NotImplementedError for a type that the package gguf does not read."""
    return torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))


def _by_transformers(path: Path) -> Tokenizer:
    """From the file alone: what lies beside it may be of a stranger."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.gguf").symlink_to(path.absolute())
        words = transformers.AutoTokenizer.from_pretrained(
            folder, gguf_file="model.gguf", trust_remote_code=False
        )
    return words.backend_tokenizer
