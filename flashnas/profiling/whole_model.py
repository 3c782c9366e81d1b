"""Whole models and blocks with random weights, and the calls that are timed: prompts and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.architecture import Architecture
from flashnas.latency.memory import memory_bytes
from flashnas.latency.workload import Workload
from flashnas.network.cache import FixedStates, HybridCache, mapped
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.cache import FixedCache, KeyValueCache, Position
from flashnas.operators.backends.core import choose_backend, running
from flashnas.profiling.device_timing import Call, Measurement
from flashnas.profiling.setup import Setup
from flashnas.profiling.target import Measured

PROMPT_TOKENS = 16  # after which a recurrent state has the layout that it keeps
# at which a decode step is timed, by Gauss's rule: exact for polynomials of degree 5
CONTEXTS = 3
WIDE = ("A_log", "D", "dt_bias")
DRAWN = 2**20  # random values of a tensor on a CPU
Module = TypeVar("Module", bound=torch.nn.Module)
_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def time_model(
    architecture: Architecture, workload: Workload, batch: int, setup: Setup
) -> Measured:
    """Build the model with random weights, and time the reading of its prompt and its mean step.
    `effort.seconds` limits each of the (up to four) timings. Raises DeviceMemoryError where the
    device has too little memory, as counted or as it turned out."""
    meta, piece_tokens = architecture.meta_tokens, setup.platform.piece_tokens
    needed = memory_bytes(architecture, workload, batch, setup.dtype_name, piece_tokens)
    setup.platform.check_memory(needed, batch)
    timings: list[Measurement] = []

    def time_ms(call: Call) -> float:
        timings.append(setup.timed([call]))
        return timings[-1].latency_us / 1000

    def time_parts() -> tuple[float, float]:
        model, ttft_ms, tpot_ms = build_model(architecture, setup), 0.0, 0.0
        if workload.prompt_tokens:
            shape = batch, workload.prompt_tokens
            tokens_BT = torch.randint(architecture.vocab, shape, device=setup.device)
            ttft_ms = time_ms(lambda: first_tokens(model, tokens_BT, piece_tokens))
        elif meta:
            ttft_ms = time_ms(lambda: model.start_cache(batch))
        for context, share in decode_contexts(workload, meta):
            tpot_ms += share * time_ms(model_step(model, batch, context, setup))
        return ttft_ms, tpot_ms

    ttft_ms, tpot_ms = setup.run(time_parts)
    notes = dict.fromkeys(timing.note for timing in timings if timing.note)
    return Measured.of(ttft_ms, tpot_ms, workload, "; ".join(notes))


def decode_contexts(workload: Workload, meta_tokens: int) -> list[tuple[int, float]]:
    """(context, weight) whose weighted mean is that of all steps of the workload; the weights sum
    to 1.
    """
    if not workload.generated_tokens:
        return []
    first = meta_tokens + workload.prompt_tokens + 1
    nodes, weights = np.polynomial.legendre.leggauss(CONTEXTS)
    contexts = np.round(first + (nodes + 1) / 2 * (workload.generated_tokens - 1)).astype(int)
    return [
        (int(context), float(weights[contexts == context].sum() / 2))
        for context in np.unique(contexts)
    ]


def pieces(tokens_BT: torch.Tensor, piece_tokens: int) -> list[tuple[torch.Tensor, ...]]:
    """Split the prompts of a batch so that at most `piece_tokens` are read at once, as serving
    engines do: for some sequences at a time, the parts of their prompts one after the other."""
    together = max(1, piece_tokens // tokens_BT.shape[1])
    return [rows_BT.split(piece_tokens, 1) for rows_BT in tokens_BT.split(together)]


# -- building --------------------------------------------------------------------------------------


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


def deployed(build: Callable[[], Module], setup: Setup) -> Module:
    """Build a module with random weights on the setup's device and in its dtype; as in engines,
    what enters decays is in float32.
    """
    with _RepeatedDraws() if setup.device == "cpu" else torch.device(setup.device):
        module = build()
    module = module.to(setup.device).eval()
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] not in WIDE:
            parameter.data = parameter.data.to(setup.torch_dtype)
    return module


def build_model(architecture: Architecture, setup: Setup) -> HybridLM:
    """A model in the setup's dtype and on its device."""
    return deployed(lambda: HybridLM(architecture, setup.backend), setup)


def build_block(spec: OperatorSpec, hidden: int, setup: Setup) -> Block:
    """One operator with its norm and residual, by the setup's backend; float32, on torch's default
    device.
    """
    block = Block(spec, hidden)
    choose_backend(block, setup.backend)
    return block


def backends_of(specs: Iterable[OperatorSpec], hidden: int, setup: Setup) -> dict[str, str]:
    """What computes each kind of operator, as `HybridLM.backends`; nothing is allocated."""
    with torch.device("meta"):
        blocks = [(spec.kind, build_block(spec, hidden, setup)) for spec in specs]
    return running(blocks, setup.device, setup.torch_dtype)


# -- states ----------------------------------------------------------------------------------------


def filled_state(block: Block, batch: int, context: int, position: Position | None = None) -> Any:
    """The state before the token that makes the context `context` tokens long; values are random. A
    step writes the new token into the last slot of the key/value cache, so that the state can be
    used repeatedly. On a GPU a recurrent state lies in memory as the block's own library leaves it
    after a prompt, which decides how fast a step reads it.

    Args:
        position: that of a state which a step continues in place.
    """
    weight_D = block.norm.weight
    kind: dict[str, Any] = {"dtype": weight_D.dtype, "device": weight_D.device}

    def filled(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return state
        room = min(context, state.window) if state.window else context
        shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
        keys, values = torch.randn(shape, **kind), torch.randn(shape, **kind)
        if position is not None:
            return FixedCache(keys, values, position, state.window)
        return KeyValueCache(keys, values, context - 1, state.window, owned=True)

    if _on_gpu(block):
        return mapped(_after_prompt(block, batch), filled)
    return mapped(block.mixer.init_state(batch, **kind), filled)


def _on_gpu(block: Block) -> bool:
    return block.norm.weight.is_cuda


def _after_prompt(block: Block, batch: int) -> Any:
    return block(_random_input(block, batch, PROMPT_TOKENS))[1]


def _random_input(block: Block, *shape: int) -> torch.Tensor:
    weight_D = block.norm.weight
    return torch.randn(*shape, len(weight_D), dtype=weight_D.dtype, device=weight_D.device)


def filled_cache(model: HybridLM, batch: int, context: int) -> HybridCache:
    """`filled_state` of every block."""
    return HybridCache(tuple(filled_state(block, batch, context) for block in model.blocks))


def _filled_in_place(blocks: Sequence[Block], batch: int, context: int) -> FixedStates:
    """`filled_state` of every block, in place; steps leave the position as it is."""
    position = Position(context - 1, context, batch, blocks[0].norm.weight.device, by=0)
    return FixedStates(
        tuple(filled_state(block, batch, context, position) for block in blocks), position
    )


# -- calls -----------------------------------------------------------------------------------------


def block_step(block: Block, batch: int, context: int) -> Call:
    """One step of an operator that can be repeated, in a graph as `HybridLM.generate` replays
    it.
    """
    x_BD, states = _random_input(block, batch), _filled_in_place((block,), batch, context)

    def step() -> torch.Tensor:
        next_BD, after = block.step(x_BD, states.states[0])
        states.copy((after,))
        return next_BD

    return step


def model_step(model: HybridLM, batch: int, context: int, setup: Setup) -> Call:
    """One step of a model that can be repeated; in place where it is captured in a graph."""
    tokens_B = torch.zeros(batch, dtype=torch.long, device=setup.device)
    if setup.mode_name == "cuda_graph":
        states = _filled_in_place(model.blocks, batch, context)
        return lambda: model.step_in_place(tokens_B, states).argmax(-1)
    cache = filled_cache(model, batch, context)
    return lambda: model.decode_step(tokens_B, cache)[0].argmax(-1)


def first_tokens(model: HybridLM, tokens_BT: torch.Tensor, piece_tokens: int) -> torch.Tensor:
    """The most likely token after each prompt of a batch, which is read in pieces."""
    tokens = []
    for parts in pieces(tokens_BT, piece_tokens):
        cache: HybridCache | None = None
        for part_BT in parts:
            logits_BV, cache = model.prefill(part_BT, cache)
        tokens.append(logits_BV.argmax(-1))
    return torch.cat(tokens)
