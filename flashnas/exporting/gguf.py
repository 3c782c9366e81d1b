"""`--to gguf`: one file for llama.cpp, which must compute what the network computes with its
weights as written."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from flashnas.base.errors import DeviceError, ExportError
from flashnas.data.tokenizer import library_errors
from flashnas.exporting.exporter import (
    Exporter,
    Written,
    check_differences,
    has_experts,
    of_all,
    take_over,
)
from flashnas.exporting.source import Source
from flashnas.families.gguf.families import architecture_name
from flashnas.families.gguf.file import BLOCK, TYPES, write_file
from flashnas.families.gguf.vocabulary import Vocabulary, vocabulary
from flashnas.network.model import HybridLM
from flashnas.profiling.llama_cpp.child import ask

DEFAULT_TYPE = "f16"
# Of the largest logit. Where weights are not in float32, llama.cpp rounds what it multiplies them
# by: to 11 bits beside f16, 8 beside bf16, and to 8 bits per block of 32 beside the quantized
# types.
TOLERANCES = {
    "f32": 1e-3,
    "f16": 1e-2,
    "bf16": 5e-2,
    **dict.fromkeys(("q8_0", "q6_k", "q4_0", "q4_k"), 0.15),
}
ROUTED = 0.3  # .. in their place where such a type rounds what chooses experts: near ties turn
# Nats a token that the rounding of weights may cost the network, which llama.cpp is held against
MARGINS = {"q8_0": 0.05, "q6_k": 0.1, "q4_0": 0.4, "q4_k": 0.3}
PROMPTS = 70, 7  # tokens; llama.cpp reads 64 at a time in parallel
GENERATED = 64
MIN_LOGPROB = -60.0  # log-probabilities below come from numbers that float32 holds badly
TEXTS = (
    "The state of the union is strong.",
    "  two  spaces\n\n\tand a tab",
    "it's 1234.5 -- (x_1 == y) != z's",
    "na\u00efve caf\u00e9, \u041f\u0440\u0438\u0432\u0435\u0442, \u4f60\u597d, \U0001f600!",
    "def f(x):\n    return x**2  # squared\r\n",
    "ALLCAPS mixedCase we'll they're I'M IT'S",
    "1st 22nd 333 4444 55555 3.14159 1,000,000 \u0663\u0664 \u00bd x\u00b2",
    "for (int i = 0; i < 10; ++i) {\n\t\ta[i] += b->c;\r\n\r\n}\n\n\n  # \u2192 ok   ",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f\U0001f44d\U0001f3fd",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\ud55c\uad6d\uc5b4 \u65e5\u672c\u8a9e\u3067\u3059\u3002 Z\u00fcrich \u03b8\u03ac",
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 12 + 30?\n"},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "And in Hindi? \U0001f600"},
]

LOADING = """\
    llama-cli -m {name}/model.gguf -p 'The state of the union'
    llama-server -m {name}/model.gguf

Both come with llama.cpp, not with flashnas. Any program built on llama.cpp reads the file.
"""


class GgufExporter(Exporter):
    """One GGUF file with weights and tokenizer, for the architectures of llama.cpp in FAMILIES."""

    loading = LOADING
    library = "gguf"
    dtypes = ("float32",)
    packages = ("gguf", "xllamacpp")
    own_tokenizer = True
    options = MappingProxyType(
        {"type": f"type of the weights: {', '.join(TYPES)} (default {DEFAULT_TYPE})"}
    )

    @torch.no_grad()
    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        name = str(options.get("type", DEFAULT_TYPE))
        network = source.network.float()
        architecture = network.architecture
        words = vocabulary(source.tokenizer, architecture.vocab, source.special)
        file = folder / "model.gguf"
        drawn = _drawn(network)
        before = _logprob(network, drawn)
        wide = write_file(
            file,
            architecture,
            words,
            name,
            network.state_dict(),
            partial(take_over, network),
        )
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        answer, equal = check_parity(file, network, words, source.tokenizer, name)
        notes = [
            f"llama.cpp runs it as {architecture_name(architecture)}; {equal} of {GENERATED}"
            f" greedy tokens are equal (xllamacpp {version('xllamacpp')})",
        ]
        if name in MARGINS:
            notes.append(check_loss(before, _logprob(network, drawn), name))
        if wide:
            notes.append(
                f"{wide} matrices are in f16, because their rows are not multiples of {BLOCK}"
            )
        return Written(answer, tuple(notes), dtype=name)


EXPORTER = GgufExporter()


def check_parity(
    file: Path,
    network: HybridLM,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer | None,
    type_name: str,
) -> tuple[dict[str, float], int]:
    """Compare llama.cpp's logits and greedy tokens with the network's.

    Args:
        network: with its weights as they were written, in float32.
        tokenizer: whose ids llama.cpp must find; None: texts are not compared.

    Returns:
        Differences (`of_all`) over the largest logit, and how many of GENERATED greedy tokens are
        those of the network; another one must be as likely within the tolerance.

    Raises:
        ExportError: a difference exceeds the tolerance, or llama.cpp does not run the file.
    """
    texts = []
    if tokenizer is not None:
        names = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        texts = [*TEXTS, " a ".join(names)]
    generator = torch.Generator().manual_seed(0)
    vocab = network.architecture.vocab
    prompts = [torch.randint(vocab, (count,), generator=generator).tolist() for count in PROMPTS]
    try:
        answer = ask(
            file,
            prompts=prompts,
            generate=GENERATED,
            never=list(vocabulary.never),
            texts=texts,
            vocab=len(vocabulary.tokens),
            plain=vocabulary.plain,
            ends=vocabulary.ends,
            chat=CHAT if vocabulary.chat_template else [],
        )
    except DeviceError as error:
        raise ExportError(f"{network.architecture}: {error}; nothing was written") from None
    if tokenizer is not None:
        _check_texts(tokenizer, [*texts, answer.get("chat", "")], answer, vocabulary)
    routed = has_experts(network.architecture)
    prefill = [
        _difference(network(torch.tensor([prompt]))[0, -1], torch.arange(vocab), row[:vocab])
        for prompt, row in zip(prompts, answer["prefill"], strict=True)
    ]
    decode, equal = _compare_generated(network, prompts[0], answer, vocabulary.never)
    differences = {
        "prefill_logits": of_all(torch.tensor(prefill), routed),
        "greedy_logits": of_all(decode, routed),
    }
    check_differences(
        "llama.cpp",
        differences,
        ROUTED if routed and type_name != "f32" else TOLERANCES[type_name],
        f" for {type_name}",
    )
    return differences, equal


def check_loss(before: float, after: float, type_name: str) -> str:
    """The perplexity of the network beside that of before its weights were rounded, in words. Its mean
    log-probabilities of the tokens of `_drawn`. ExportError: the type costs more than its margin.
    """
    words = (
        f"perplexity {math.exp(-after):.2f} in {type_name} and {math.exp(-before):.2f} before, over"
        f" {GENERATED} tokens that the network wrote"
    )
    if not before - after <= MARGINS[type_name]:
        raise ExportError(
            f"{type_name} costs this network {before - after:.2f} nats a token; at most"
            f" {MARGINS[type_name]} is allowed ({words}); take a type of more bits"
        )
    return words


def _drawn(network: HybridLM) -> Tensor:
    """Tokens that the network draws [1, T]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = torch.randint(network.architecture.vocab, (1, 1))
        return torch.cat([start, network.generate(start, GENERATED, greedy=False)], 1)


def _logprob(network: HybridLM, tokens_BT: Tensor) -> float:
    """The mean log-probability of tokens but the first."""
    return -float(network.loss(tokens_BT[:, :-1], tokens_BT[:, 1:]))


def _compare_generated(
    network: HybridLM, prompt: list[int], answer: Mapping[str, Any], never: Sequence[int]
) -> tuple[Tensor, int]:
    """Differences at each token that llama.cpp generates, and how often it is the network's. A token
    that the network would not have taken counts by how much less likely it is."""
    tokens: list[int] = answer["tokens"]
    logits_TV = network(torch.tensor([prompt + tokens[:-1]]))[0, len(prompt) - 1 :]
    differences, equal = [], 0
    for logits_V, token, (ids, values) in zip(logits_TV, tokens, answer["decode"], strict=True):
        own = {id_: value for id_, value in zip(ids, values, strict=True) if id_ < len(logits_V)}
        difference = _difference(logits_V, torch.tensor(list(own)), list(own.values()))
        allowed = logits_V.clone()
        allowed[[id_ for id_ in never if id_ < len(allowed)]] = -torch.inf
        behind = float(allowed.max() - allowed[token]) / float(logits_V.abs().max())
        differences.append(max(difference, behind))
        equal = equal + (token == int(allowed.argmax()))
    return torch.tensor(differences), equal


def _difference(logits_V: Tensor, ids: Tensor, values: Sequence[float | None]) -> float:
    theirs = torch.tensor([math.nan if value is None else value for value in values])
    difference = (theirs - logits_V[ids])[~(theirs < MIN_LOGPROB)]
    centred = difference - (difference.max() + difference.min()) / 2
    return float(centred.abs().max() / logits_V.abs().max())


def _check_texts(
    tokenizer: Tokenizer, texts: Sequence[str], answer: Mapping[str, Any], words: Vocabulary
) -> None:
    """Whether texts become the same tokens, and end at the same ones."""
    if answer["goes_on"]:
        names = ", ".join(words.tokens[token] for token in answer["goes_on"])
        raise ExportError(f"llama.cpp does not end a text at {names}")
    first = [] if words.first is None else [words.first]
    for text, ids, begun in zip(texts, answer["texts"], answer["begun"], strict=False):
        with library_errors(f"the tokenizer cannot encode {text!r}"):
            ours = tokenizer.encode(text, add_special_tokens=False).ids
        if begun != [*first, *ids]:
            raise ExportError(f"llama.cpp puts {begun[:1]} in front of a text, and not {first}")
        if list(ids) != ours:
            raise ExportError(
                f"llama.cpp cuts a text into other tokens than the tokenizer: {text!r} gives"
                f" {list(ids)[:8]} and not {ours[:8]}"
            )
