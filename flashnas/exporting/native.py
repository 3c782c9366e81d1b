"""`--to nemotron-h` and `--to lfm2`: folders that transformers loads without flashnas.

transformers has one epsilon in all norms of a Nemotron-H; see formats/pieces.py. The head of that
model is never tied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import AutoModelForCausalLM

from flashnas.architecture import Architecture
from flashnas.base.system import write_synced
from flashnas.exporting.exporter import Exporter, Written, check_differences, difference, take_over
from flashnas.exporting.source import Source, fast_tokenizer, quiet_transformers, special_ids
from flashnas.formats import lfm2, nemotron_h
from flashnas.formats.fitting import Format, choose
from flashnas.formats.pieces import Piece
from flashnas.network.model import HybridLM

TOLERANCE = 1e-3  # of the largest logit
PROMPT, GENERATED = 70, 64  # tokens

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

flashnas is not needed. Names and keys are those of released checkpoints. {further} For llama.cpp,
`flashnas export --to gguf` writes a file.
"""
IN_VLLM = (
    "vLLM (0.32, on a CPU) loads the folder, too, where attention has heads of 32, 64\nor more."
)
LIKE_VLLM = "vLLM has the model, too; that was not tried."


@dataclass(frozen=True, eq=False)
class NativeExporter(Exporter):
    """Configuration, weights and tokenizer of a model that transformers has itself.

    format: what it can hold. configuration: (architecture, ids of special tokens, dtype) ->
    config.json. pieces: architecture -> its tensors; the first one is the embedding.
    """

    format: Format
    configuration: Callable[[Architecture, Mapping[str, int | None], str], dict[str, Any]]
    pieces: Callable[[Architecture], list[Piece]]
    loading: str  # type: ignore[misc]  # of the class in Exporter
    packages = ("transformers",)
    own_tokenizer = True

    @torch.no_grad()
    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        network = source.network.float()
        architecture = network.architecture
        choose(architecture, [self.format], "transformers")
        ids = special_ids(source.tokenizer)
        meta = [architecture.vocab + n for n in range(architecture.meta_tokens)]
        config = self.configuration(architecture, ids, str(dtype).removeprefix("torch."))
        generation: dict[str, Any] = {"_from_model_config": True, **ids}
        if meta:
            generation["suppress_tokens"] = meta
        for name, content in (("config", config), ("generation_config", generation)):
            write_synced(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        pieces = self.pieces(architecture)
        tensors = {name: tensor.to(dtype) for name, tensor in _tensors(network, pieces).items()}
        save_torch_state_dict(tensors, folder)
        notes = []
        if source.tokenizer is not None:
            fast_tokenizer(_with_meta_tokens(source.tokenizer, meta)).save_pretrained(folder)
        if meta:
            puts = (
                "each text needs in front"
                if source.tokenizer is None
                else "the tokenizer puts in front of a text"
            )
            notes.append(f"the meta tokens are the ids {meta[0]} to {meta[-1]}, which {puts}")
        for piece in reversed(pieces):
            # the embedding last: rows after a tied head are not meta tokens
            take_over(network, piece, tensors[piece.name].float())
        differences, equal = _check(folder, network, meta)
        return Written(differences, (f"{equal} of {GENERATED} greedy tokens are equal", *notes))


NEMOTRON_H = NativeExporter(
    nemotron_h.FORMAT,
    nemotron_h.configuration,
    nemotron_h.model_pieces,
    LOADING.replace("{further}", IN_VLLM),
)
LFM2 = NativeExporter(
    lfm2.FORMAT,
    lfm2.configuration,
    lfm2.model_pieces,
    LOADING.replace("{further}", LIKE_VLLM),
)


def _tensors(network: HybridLM, pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """In the order of pieces. Rows for the meta tokens are behind the embedding and the head."""
    state = network.state_dict()
    tensors = {piece.name: piece.of(state) for piece in pieces}
    if network.meta_tokens is not None:
        embedding, head = pieces[0].name, "lm_head.weight"
        tensors[embedding] = torch.cat([tensors[embedding], network.meta_tokens * pieces[0].scale])
        # the row of a token that is nowhere likely after random ones takes next to nothing of the
        # probability
        least_likely = int(network(_prompt(network))[0].log_softmax(-1).amax(0).argmin())
        unlikely = tensors[head][least_likely].expand_as(network.meta_tokens)
        tensors[head] = torch.cat([tensors[head], unlikely])
    return tensors


def _prompt(network: HybridLM) -> Tensor:
    """Random tokens [1, PROMPT]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(network.architecture.vocab, (1, PROMPT), generator=generator)


def _with_meta_tokens(tokenizer: Tokenizer, meta: list[int]) -> Tokenizer:
    """The tokenizer with tokens of these ids, which it puts in front of a text."""
    if not meta:
        return tokenizer
    described, names = json.loads(tokenizer.to_str()), [f"<|meta_{n}|>" for n in range(len(meta))]
    for name, token in zip(names, meta, strict=True):
        described["model"]["vocab"][name] = token
        described["added_tokens"].append(
            {
                "id": token,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
    extended = Tokenizer.from_str(json.dumps(described))
    template = processors.TemplateProcessing(
        single=f"{names[0]} $A",
        pair=f"{names[0]} $A $B",
        special_tokens=[{"id": names[0], "ids": meta, "tokens": names}],
    )
    before = extended.post_processor
    extended.post_processor = (
        template if before is None else processors.Sequence([before, template])
    )
    return extended


def _check(folder: Path, network: HybridLM, meta: list[int]) -> tuple[dict[str, float], int]:
    """Compare logits in parallel and step by step along 64 greedy tokens."""
    with quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocab = network.architecture.vocab
    prompt = _prompt(network)
    output = loaded(torch.cat([torch.tensor([meta], dtype=torch.long), prompt], 1), use_cache=True)
    theirs, tokens = [output.logits[:, len(meta) :, :vocab]], prompt
    for n in range(GENERATED):
        token = theirs[-1][:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, token], 1)
        if n + 1 < GENERATED:
            output = loaded(token, cache=output.cache, use_cache=True)
            theirs.append(output.logits[..., :vocab])
    ours = network(tokens[:, :-1])
    differences = {
        "prefill_logits": difference(theirs[0], ours[:, :PROMPT]),
        "greedy_logits": difference(torch.cat(theirs[1:], 1), ours[:, PROMPT:]),
    }
    check_differences("transformers", differences, TOLERANCE)
    return differences, int((ours[:, PROMPT - 1 :].argmax(-1) == tokens[:, PROMPT:]).sum())
