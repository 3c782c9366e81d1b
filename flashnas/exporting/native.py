"""`--to hf` of a network that a family holds: a folder that transformers and the programs that serve
the family load without flashnas.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM

from flashnas.architecture import Architecture
from flashnas.exporting.configuration import (
    LOADING,
    meta_ids,
    programs_text,
    write_configuration,
)
from flashnas.exporting.exporter import (
    Exporter,
    Written,
    check_differences,
    difference,
    has_experts,
    take_over,
)
from flashnas.exporting.source import Source, quiet_transformers, write_tokenizer
from flashnas.families.family import Family
from flashnas.families.pieces import Piece
from flashnas.network.model import HybridLM

TOLERANCE = 1e-3  # of the largest logit
PROMPT, GENERATED = 70, 64  # tokens


@dataclass(frozen=True, eq=False)
class NativeExporter(Exporter):
    """Configuration, weights and tokenizer of a model that transformers has itself."""

    family: Family
    architecture: Architecture
    packages = ("transformers",)
    own_tokenizer = True

    @property
    def loading(self) -> str:  # type: ignore[override]
        """See Exporter."""
        return LOADING + programs_text(self.family, self.architecture)

    @torch.no_grad()
    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        network = source.network.float()
        architecture = self.architecture
        more = {} if source.sequence_tokens is None else {"sequence_tokens": source.sequence_tokens}
        name = str(dtype).removeprefix("torch.")
        words, special = source.tokenizer, source.special
        meta = meta_ids(architecture)
        if words is not None:
            write_tokenizer(folder, words, meta, special)
        write_configuration(folder, self.family, architecture, name, words, special, **more)
        pieces = self.family.pieces(architecture)
        tensors = {name: tensor.to(dtype) for name, tensor in _tensors(network, pieces).items()}
        save_torch_state_dict(tensors, folder)
        notes = self.family.changes(architecture)
        if meta:
            puts = (
                "each text needs in front"
                if words is None
                else "the tokenizer puts in front of a text"
            )
            notes.append(f"the meta tokens are the ids {meta[0]} to {meta[-1]}, which {puts}")
        for piece in reversed(pieces):
            # the embedding last: rows after a tied head are not meta tokens
            take_over(network, piece, tensors[piece.name].float())
        differences, equal = _check(folder, network, meta)
        line = f"transformers runs it as {self.family.title}; {equal} of {GENERATED} greedy tokens"
        return Written(differences, (f"{line} are equal", *notes))


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


def _check(folder: Path, network: HybridLM, meta: list[int]) -> tuple[dict[str, float], int]:
    """Compare logits in parallel and step by step along 64 greedy tokens."""
    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # the kernels of fla and mamba-ssm, which transformers takes where they are installed, need a GPU
    names = vars(sys.modules[type(loaded).__module__])
    kernels = {name: each for name, each in names.items() if hasattr(each, "__wrapped__")}
    names.update({name: inspect.unwrap(each) for name, each in kernels.items()})
    try:
        vocab = network.architecture.vocab
        prompt = _prompt(network)
        output = loaded(
            torch.cat([torch.tensor([meta], dtype=torch.long), prompt], 1), use_cache=True
        )
        theirs = [output.logits[:, len(meta) :, :vocab]]
        tokens = prompt
        for n in range(GENERATED):
            token = theirs[-1][:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, token], 1)
            if n + 1 < GENERATED:
                output = loaded(token, cache=output.cache, use_cache=True)
                theirs.append(output.logits[..., :vocab])
    finally:
        names.update(kernels)
    ours = network(tokens[:, :-1])
    routed = has_experts(network.architecture)
    differences = {
        "prefill_logits": difference(theirs[0], ours[:, :PROMPT], routed),
        "greedy_logits": difference(torch.cat(theirs[1:], 1), ours[:, PROMPT:], routed),
    }
    check_differences("transformers", differences, TOLERANCE)
    return differences, int((ours[:, PROMPT - 1 :].argmax(-1) == tokens[:, PROMPT:]).sum())
