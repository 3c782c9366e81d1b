"""`--to nemotron-h`: a folder that transformers loads as Nemotron-H, without flashnas.

transformers has one epsilon in all norms of this model and flashnas has another one inside Mamba2; STREAM_SCALE of the
GGUF format makes up for it here, too. The head of the model is never tied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import AutoModelForCausalLM

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.base.files import write_synced
from flashnas.export.exporter import Exporter, Written
from flashnas.export.source import Source
from flashnas.export.tokenizer import special_ids, write_tokenizer
from flashnas.formats.fitting import choose
from flashnas.formats.gguf.pieces import STREAM_SCALE
from flashnas.formats.nemotron_h import FORMAT, configuration
from flashnas.network.model import HybridLM
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mamba2.spec import Mamba2

TOLERANCE = 1e-3  # of the largest logit
PROMPT, GENERATED = 70, 64  # tokens

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

flashnas is not needed. Names and keys are those of released Nemotron-H checkpoints. vLLM (0.32, on a CPU) loads the
folder, too, where attention has heads of 32, 64 or more. For llama.cpp, `flashnas export --to gguf` writes a file.
"""


class NemotronHExporter(Exporter):
    """Configuration, weights and tokenizer of a Nemotron-H."""

    title = "transformers, as Nemotron-H, without flashnas"
    loading = LOADING
    own_tokenizer = True

    @torch.no_grad()
    def write(self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        network = source.network.float()
        architecture = network.architecture
        choose(architecture, [FORMAT], "transformers")
        ids = special_ids(source.tokenizer)
        meta = [architecture.vocab + n for n in range(architecture.meta_tokens)]
        config = configuration(architecture, ids, str(dtype).removeprefix("torch."))
        generation: dict[str, Any] = {"_from_model_config": True, **ids}
        if meta:
            generation["suppress_tokens"] = meta
        for name, content in (("config", config), ("generation_config", generation)):
            write_synced(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        scale = _scale(architecture)
        tensors = {name: tensor.to(dtype, copy=True) for name, tensor in _tensors(network, scale).items()}
        save_torch_state_dict(tensors, folder)
        notes = []
        if source.tokenizer is not None:
            write_tokenizer(folder, _with_meta_tokens(source.tokenizer, meta))
        if meta:
            puts = "each text needs in front" if source.tokenizer is None else "the tokenizer puts in front of a text"
            notes.append(f"the meta tokens are the ids {meta[0]} to {meta[-1]}, which {puts}")
        differences, equal = _check(folder, _as_written(network, tensors, scale), meta)
        return Written(differences, (f"{equal} of {GENERATED} greedy tokens are equal", *notes))


EXPORTER = NemotronHExporter()


def _scale(architecture: Architecture) -> float:
    return STREAM_SCALE if any(isinstance(spec, Mamba2) for spec in architecture.operators) else 1.0


def _tensors(network: HybridLM, scale: float) -> dict[str, Tensor]:
    """The tensors of a network under the names of released checkpoints."""
    state = network.state_dict()
    # a tied head is the scaled embedding; the norm before it takes the scale back
    tied = scale if network.head is None else 1.0
    found = {"backbone.norm_f.weight": state["final_norm.weight"] / tied}
    embedding, head = state["embedding.weight"], network.head_weight * tied
    if network.meta_tokens is not None:
        embedding = torch.cat([embedding, network.meta_tokens])
        head = torch.cat([head, head[_least_likely(network)].expand_as(network.meta_tokens)])
    found |= {"backbone.embeddings.weight": embedding * scale, "lm_head.weight": head}
    for n, spec in enumerate(network.architecture.canonical().operators):
        for name, tensor in state.items():
            if name.startswith(f"layers.{n}."):
                writes = name.startswith(f"layers.{n}.mixer.out_proj.")
                for to, part in _named(spec, name.removeprefix(f"layers.{n}."), tensor):
                    found[f"backbone.layers.{n}.{to}"] = part * scale if writes else part
    return found


def _named(spec: Any, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if isinstance(spec, Attention) and name == "mixer.in_proj.weight":
        rows = [count * spec.head_dim for count in (spec.heads, spec.kv_heads, spec.kv_heads)]
        return [(f"mixer.{x}_proj.weight", part) for x, part in zip("qkv", tensor.split(rows), strict=True)]
    if isinstance(spec, Attention):
        return [(name.replace("out_proj", "o_proj"), tensor)]
    if isinstance(spec, FeedForward):
        return [(name.replace("in_proj", "up_proj").replace("out_proj", "down_proj"), tensor)]
    if name == "mixer.conv.weight":
        tensor = tensor.unsqueeze(1)
    return [(name.replace("mixer.conv.", "mixer.conv1d."), tensor)]


def _least_likely(network: HybridLM) -> int:
    """The token that is nowhere likely after some random ones.

    The meta tokens get its row of the head, so that they take next to nothing of the probability.
    """
    tokens = torch.randint(network.architecture.vocab, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    return int(network(tokens)[0].log_softmax(-1).amax(0).argmin())


def _as_written(network: HybridLM, written: dict[str, Tensor], scale: float) -> HybridLM:
    """Give the network the weights as they were rounded."""
    vocab = network.architecture.vocab
    embedding = written["backbone.embeddings.weight"].float() / scale
    for name, tensor in network.state_dict().items():
        if name == "embedding.weight":
            tensor.copy_(embedding[:vocab])
        elif name == "meta_tokens":
            tensor.copy_(embedding[vocab:])
        elif name == "head.weight":
            tensor.copy_(written["lm_head.weight"][:vocab])
        elif name == "final_norm.weight":
            tensor.copy_(written["backbone.norm_f.weight"].float() * (scale if network.head is None else 1.0))
        else:
            _, number, rest = name.split(".", 2)
            spec = network.architecture.canonical().operators[int(number)]
            parts = [written[f"backbone.layers.{number}.{to}"].float() for to, _ in _named(spec, rest, tensor)]
            rounded = torch.cat(parts).reshape(tensor.shape)
            tensor.copy_(rounded / scale if rest.startswith("mixer.out_proj.") else rounded)
    return network


def _with_meta_tokens(tokenizer: Tokenizer, meta: list[int]) -> Tokenizer:
    """The tokenizer with tokens of these ids, which it puts in front of a text."""
    if not meta:
        return tokenizer
    described, names = json.loads(tokenizer.to_str()), [f"<|meta_{n}|>" for n in range(len(meta))]
    for name, token in zip(names, meta, strict=True):
        described["model"]["vocab"][name] = token
        described["added_tokens"].append({"id": token, "content": name, "single_word": False, "lstrip": False,
                                          "rstrip": False, "normalized": False, "special": True})
    found = Tokenizer.from_str(json.dumps(described))
    template = processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A $B",
        special_tokens=[{"id": names[0], "ids": meta, "tokens": names}])
    before = found.post_processor
    found.post_processor = template if before is None else processors.Sequence([before, template])
    return found


def _check(folder: Path, network: HybridLM, meta: list[int]) -> tuple[dict[str, float], int]:
    """Compare logits in parallel and step by step along 64 greedy tokens, as transformers loads the folder."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    vocab = network.architecture.vocab
    prompt = torch.randint(vocab, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    output = loaded(torch.cat([torch.tensor([meta], dtype=torch.long), prompt], 1), use_cache=True)
    theirs, tokens = [output.logits[:, len(meta):, :vocab]], prompt
    for n in range(GENERATED):
        token = theirs[-1][:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, token], 1)
        if n + 1 < GENERATED:
            output = loaded(token, cache=output.cache, use_cache=True)
            theirs.append(output.logits[..., :vocab])
    ours = network(tokens[:, :-1])
    differences = {"prefill_logits": _difference(theirs[0], ours[:, :PROMPT]),
                   "greedy_logits": _difference(torch.cat(theirs[1:], 1), ours[:, PROMPT:])}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN fails too
            raise ExportError(f"transformers does not compute what the network does: {name.replace('_', ' ')} differ by"
                              f" {difference:.1e} of the largest logit; at most {TOLERANCE:.0e} is allowed")
    return differences, int((ours[:, PROMPT - 1:].argmax(-1) == tokens[:, PROMPT:]).sum())


def _difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())
