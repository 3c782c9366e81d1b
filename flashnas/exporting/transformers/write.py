"""`--to hf`: a folder for AutoModelForCausalLM, with the class of a family, which the programs that
serve the family load without flashnas, or that of flashnas.exporting.transformers where no family
holds the network.
"""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig

from flashnas.base.errors import ExportError
from flashnas.exporting.configuration import (
    LOADING,
    programs_text,
    write_configuration,
)
from flashnas.exporting.exporter import (
    Exporter,
    Written,
    check_differences,
    difference,
    has_experts,
)
from flashnas.exporting.source import Source, quiet_transformers, write_tokenizer
from flashnas.exporting.transformers import FlashnasConfig, FlashnasForCausalLM
from flashnas.families.family import family_of, needed_family
from flashnas.families.pieces import Piece
from flashnas.network.model import HybridLM

TOLERANCE = 1e-3  # of the largest logit
PROMPT, GENERATED = 70, 64  # tokens

LOADING_WITH_FLASHNAS = """\
```python
import flashnas.exporting.transformers  # registers the model with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

    python -m flashnas.exporting.lm_eval run --model hf --model_args pretrained={name} --tasks lambada_openai
"""


class TransformersExporter(Exporter):
    """Configuration and weights that AutoModelForCausalLM reads."""

    packages = ("transformers",)
    own_tokenizer = True

    @torch.no_grad()
    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        network, architecture = source.network, source.architecture
        family = family_of(architecture)
        more = {} if source.sequence_tokens is None else {"sequence_tokens": source.sequence_tokens}
        if source.tokenizer is not None:
            write_tokenizer(folder, source.tokenizer, source.special)
        if family is None:
            with quiet_transformers():
                as_transformers(source, dtype, **more).save_pretrained(folder)
        else:
            name = str(dtype).removeprefix("torch.")
            write_configuration(
                folder, family, architecture, name, source.tokenizer, source.special, **more
            )
            _write_weights(folder, network.float(), family.pieces(architecture), dtype)
        differences, equal = check_parity(folder, network.float().eval())
        if family is None:
            return Written(differences, (_without_programs(source),), loading=LOADING_WITH_FLASHNAS)
        line = f"transformers runs it as {family.title}; {equal} of {GENERATED} greedy tokens"
        notes = f"{line} are equal", *family.changes(architecture)
        loading = LOADING + programs_text(family, architecture)
        return Written(differences, notes, loading=loading)


EXPORTER = TransformersExporter()


def _without_programs(source: Source) -> str:
    """Why transformers with flashnas alone loads it, in words."""
    try:
        return needed_family(source.architecture, "vLLM, SGLang, TensorRT-LLM or MLX").title
    except ExportError as error:
        return str(error)


def as_transformers(source: Source, dtype: torch.dtype, **more: Any) -> FlashnasForCausalLM:
    """The source's network, cast in place, as a model of transformers."""
    ids = source.special.keys(source.tokenizer)
    with torch.device("meta"):
        model = FlashnasForCausalLM(
            FlashnasConfig.of(source.architecture, dtype=dtype, **ids, **more)
        )
    model.model = source.network.to(dtype)
    model.generation_config = GenerationConfig(**ids)
    return model


def _write_weights(
    folder: Path, network: HybridLM, pieces: Sequence[Piece], dtype: torch.dtype
) -> None:
    """Under the names of a family; the network gets them as they were written."""
    state = network.state_dict()
    tensors = {piece.name: piece.of(state).to(dtype) for piece in pieces}
    save_torch_state_dict(tensors, folder)
    for piece in pieces:
        piece.back(tensors[piece.name].float(), state)


def check_parity(folder: Path, network: HybridLM) -> tuple[dict[str, float], int]:
    """Compare logits of transformers in parallel and step by step along 64 greedy tokens with those
    of the original as its weights were rounded.

    Returns the largest differences over the largest logit, by what was compared, and how many tokens
    are the network's; ExportError above TOLERANCE.
    """
    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # the kernels of fla and mamba-ssm, which transformers takes where they are installed, need a GPU
    names = vars(sys.modules[type(loaded).__module__])
    kernels = {name: each for name, each in names.items() if hasattr(each, "__wrapped__")}
    names.update({name: inspect.unwrap(each) for name, each in kernels.items()})
    try:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(network.architecture.vocab, (1, PROMPT), generator=generator)
        output = loaded(tokens, use_cache=True)
        theirs = [output.logits]
        for n in range(GENERATED):
            token = theirs[-1][:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, token], 1)
            if n + 1 < GENERATED:
                output = loaded(token, cache=output.cache, use_cache=True)
                theirs.append(output.logits)
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
