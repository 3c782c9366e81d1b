"""`--to hf`: a folder for AutoModelForCausalLM, with the class of a family, or that of
flashnas.exporting.transformers where no family holds the network.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.exporting.exporter import Exporter, Written, check_differences, difference
from flashnas.exporting.native import NativeExporter
from flashnas.exporting.source import Source, quiet_transformers
from flashnas.exporting.transformers import FlashnasConfig, FlashnasForCausalLM
from flashnas.families.family import family_of, needed_family
from flashnas.network.model import HybridLM

TOLERANCE = 1e-4  # of the largest logit
BATCH = 2
PROMPT = 19
STEPS = 5

LOADING = """\
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

    loading = LOADING

    def of(self, architecture: Architecture) -> Exporter:
        """See Exporter. A network of a family has the class of the family."""
        family = family_of(architecture)
        return self if family is None else NativeExporter(family, architecture)

    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """See Exporter. The source's network is cast to `dtype` and then to float32."""
        with quiet_transformers():
            model = as_transformers(source, dtype)
            model.save_pretrained(folder)
            return Written(check_parity(folder, model.model), (_without_programs(source),))


EXPORTER = TransformersExporter()


def _without_programs(source: Source) -> str:
    """Why transformers with flashnas alone loads it, in words."""
    try:
        return needed_family(source.architecture, "vLLM, SGLang, TensorRT-LLM or MLX").title
    except ExportError as error:
        return str(error)


def as_transformers(source: Source, dtype: torch.dtype) -> FlashnasForCausalLM:
    """The source's network, cast in place, as a model of transformers."""
    ids = source.special.keys(source.tokenizer)
    more = {} if source.sequence_tokens is None else {"sequence_tokens": source.sequence_tokens}
    with torch.device("meta"):
        model = FlashnasForCausalLM(
            FlashnasConfig.of(source.architecture, dtype=dtype, **ids, **more)
        )
    model.model = source.network.to(dtype)
    model.generation_config = GenerationConfig(**ids)
    return model


@torch.no_grad()
def check_parity(folder: Path, network: HybridLM) -> dict[str, float]:
    """Compare logits and cached decoding in float32, with the original as its weights were
    rounded.

    Returns the largest differences over the largest logit, by what was compared; ExportError above
    TOLERANCE.
    """
    network = network.float().eval()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(network.architecture.vocab, (BATCH, PROMPT + STEPS), generator=generator)
    differences = {"logits": difference(loaded(tokens).logits, network(tokens))}

    expected, cache = network.prefill(tokens[:, :PROMPT])
    output = loaded(tokens[:, :PROMPT], use_cache=True)
    worst = difference(output.logits[:, -1], expected)
    for n in range(PROMPT, PROMPT + STEPS):
        expected, cache = network.decode_step(tokens[:, n], cache)
        output = loaded(tokens[:, n : n + 1], cache=output.cache)
        worst = max(worst, difference(output.logits[:, -1], expected))
    differences["cached_decode"] = worst
    check_differences("transformers", differences, TOLERANCE)
    return differences
