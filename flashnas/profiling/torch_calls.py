"""The calls of HybridLM that are timed: prompts and steps of a network as flashnas deploys it."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.architecture import Architecture
from flashnas.network.cache import HybridCache, mapped
from flashnas.network.model import HybridLM
from flashnas.operators.attention.cache import KeyValueCache, Position
from flashnas.profiling.platforms import Platform
from flashnas.profiling.timing import Call, captured, repeated

WIDE = ("A_log", "D", "dt_bias")  # what enters decays stays in float32, as in engines
PROMPT_TOKENS = 16  # after which a recurrent state has the layout that it keeps
DRAWN = 2**20  # random values of a tensor on a CPU
DRAWN_STEPS = 64  # whose tokens differ
_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def deployed(
    network: Architecture,
    backend: str = "auto",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HybridLM:
    """A model with random weights."""
    with _RepeatedDraws() if device == "cpu" else torch.device(device):
        model = HybridLM(network, backend)
    model = model.to(device).eval()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in WIDE:
            parameter.data = parameter.data.to(dtype)
    return model


def prompt(model: HybridLM, batch: int, tokens: int, piece_tokens: int) -> Call:
    """The reading of prompts of so many tokens, meta tokens included, up to the first token that
    is generated."""
    drawn = tokens - model.architecture.meta_tokens
    if not drawn:
        return functools.partial(model.start_cache, batch)
    device = model.embedding.weight.device
    tokens_BT = torch.randint(model.architecture.vocab, (batch, drawn), device=device)
    return functools.partial(first_tokens, model, tokens_BT, piece_tokens)


def step(model: HybridLM, batch: int, context: int, mode: str) -> Call:
    """A decode step that can be repeated at one context. Sequences have random tokens, which differ
    from step to step unless a graph holds them, so that a router chooses as many experts as it does
    in use. Key/value caches and the states of recurrences are written in place; what a library
    returns elsewhere, and the last inputs of a convolution, stay there, as no engine copies them."""
    device, vocab = model.embedding.weight.device, model.architecture.vocab
    seeded = torch.Generator().manual_seed(0)
    tokens_SB = torch.randint(vocab, (DRAWN_STEPS, batch), generator=seeded).to(device)
    tokens = itertools.cycle(tokens_SB)
    graph = mode == "cuda_graph"
    position = Position(context - 1, context, batch, device) if graph else None
    cache = filled_states(model, batch, context, position)
    return lambda: model.decode_step(next(tokens), cache)[0].argmax(-1)


def timed_ms(call: Call, platform: Platform, mode: str, seconds: float) -> float:
    """The median time of a call, as a CUDA graph in that mode; raises DeviceError where none can
    hold it."""
    if mode == "cuda_graph":
        call = captured(call)
    call()  # does not count
    return repeated(lambda: platform.once_ms(call), seconds, platform.steady_ms).ms


def first_tokens(model: HybridLM, tokens_BT: torch.Tensor, piece_tokens: int) -> torch.Tensor:
    """Read the prompts of a batch, at most `piece_tokens` at once, as serving engines do: for some
    sequences at a time, the parts of their prompts one after the other. Returns the most likely
    next tokens [B]."""
    tokens = []
    for rows_BT in tokens_BT.split(max(1, piece_tokens // tokens_BT.shape[1])):
        cache: HybridCache | None = None
        for part_BT in rows_BT.split(piece_tokens, 1):
            logits_BV, cache = model.prefill(part_BT, cache)
        tokens.append(logits_BV.argmax(-1))
    return torch.cat(tokens)


def filled_states(
    model: HybridLM, batch: int, context: int, position: Position | None = None
) -> tuple[Any, ...]:
    """The states before the token that makes the context `context` tokens long; keys and values are
    random.

    A step writes the new token into the last slot of the key/value cache, so that the states can be
    used repeatedly. A recurrent state lies in memory as the block's own library leaves it after a
    prompt, which decides how fast a step reads it.

    Args:
        position: that of the caches of attention which a CUDA graph can hold.
    """
    weight_VD = model.embedding.weight
    kind: dict[str, Any] = {"dtype": weight_VD.dtype, "device": weight_VD.device}

    def filled(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return state
        room = min(context, state.window) if state.window else context
        shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
        keys, values = (torch.randn(shape, **kind) for _ in range(2))
        return KeyValueCache(keys, values, context - 1, state.window, position=position)

    x_BTD = torch.randn(batch, PROMPT_TOKENS, weight_VD.shape[1], **kind)
    return tuple(mapped(block(x_BTD)[1], filled) for block in model.blocks)


class _RepeatedDraws(TorchDispatchMode):
    """Draws `DRAWN` random values of a tensor and repeats them: a billion draws take a CPU half a
    minute.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS and args[0].numel() > DRAWN and args[0].is_contiguous():
            values = args[0].view(-1)
            func(values[:DRAWN], *args[1:], **(kwargs or {}))
            whole = values.numel() // DRAWN * DRAWN
            values[DRAWN:whole].view(-1, DRAWN).copy_(values[:DRAWN])
            values[whole:].copy_(values[: values.numel() - whole])
            return args[0]
        return func(*args, **(kwargs or {}))
