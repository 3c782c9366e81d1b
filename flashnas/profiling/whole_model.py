"""Whole models, timed end to end: what the sum of a table's rows is compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.memory import memory_bytes
from flashnas.latency.workload import Workload
from flashnas.network.cache import FixedStates, HybridCache, mapped
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.cache import FixedCache, KeyValueCache, Position
from flashnas.operators.backends.core import choose_backend, running
from flashnas.profiling.device_timing import Measurement, NotCapturable, Timer
from flashnas.profiling.setup import Setup
from flashnas.profiling.target import Measured

PROMPT_TOKENS = 16  # after which a recurrent state has the layout that it keeps
# at which a decode step is timed, by Gauss's rule: exact for polynomials of degree 5
CONTEXTS = 3
WIDE = ("A_log", "D", "dt_bias")
DRAWN = 2**20  # random values of a tensor on a CPU
T = TypeVar("T")
Module = TypeVar("Module", bound=torch.nn.Module)
_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def time_model(
    architecture: Architecture,
    workload: Workload,
    batch: int,
    setup: Setup,
    timer: Timer | None = None,
) -> Measured:
    """Build the model with random weights, and time the reading of its prompt and its mean step.
    `effort.seconds` limits each of the (up to four) timings. Raises DeviceMemoryError where the
    device has too little memory, as counted or as it turned out."""
    free, read = setup.platform.free_bytes(), workload.prompt_tokens + architecture.meta_tokens
    plan = pieces(batch, read, setup.platform.piece_tokens)
    needed = memory_bytes(architecture, workload, batch, setup.dtype_name, at_once(plan))
    if free is not None and needed > free:
        raise DeviceMemoryError(too_large(needed, free, batch))
    clock, notes = timer or setup.platform.timer(setup.mode_name), dict[str, None]()

    def time_ms(call: Callable[[], object]) -> float:
        return timed([call], setup, clock, notes.setdefault).latency_us / 1000

    def time_parts() -> tuple[float, float]:
        model = build_model(architecture, setup)
        return (
            time_ms(_prefill(model, workload, batch, setup.platform.piece_tokens)) if read else 0.0,
            sum(
                share * time_ms(_model_step(model, batch, context, setup))
                for context, share in decode_contexts(workload, architecture.meta_tokens)
            ),
        )

    with setup.running():
        ttft_ms, tpot_ms = within_memory(time_parts, setup)
    return Measured.of(ttft_ms, tpot_ms, workload, "; ".join(notes))


def timed(
    calls: Sequence[Callable[[], object]], setup: Setup, timer: Timer, note: Callable[[str], object]
) -> Measurement:
    """What a timer measures; with a note, and in the mode eager, where no graph can hold the
    calls.
    """
    try:
        return timer.measure(calls, setup.effort)
    except NotCapturable as error:
        note(f"timed in the mode eager, because no CUDA graph can hold it: {error}")
    return dataclasses.replace(
        setup.platform.timer("eager").measure(calls, setup.effort), mode="eager"
    )


def within_memory(call: Callable[[], T], setup: Setup) -> T:
    """What a call returns; raises DeviceMemoryError where the device runs out of memory."""
    try:
        return call()
    except torch.OutOfMemoryError:
        pass
    setup.platform.forget()  # here, because the error keeps what was allocated
    raise DeviceMemoryError("the device ran out of memory")


def too_large(needed: float, free: float, batch: int = 0) -> str:
    of_batch = f" with batch {batch}" if batch else ""
    return f"it needs {needed / 1e9:.1f} GB{of_batch}, and {free / 1e9:.1f} GB are free"


Plan = Sequence[tuple[int, tuple[int, ...]]]


def pieces(batch: int, tokens: int, max_tokens: int) -> list[tuple[int, tuple[int, ...]]]:
    """How the prompts of a batch are read with at most `max_tokens` at once (0: any number), as
    serving engines do: for each piece the number of sequences, and the lengths of the parts of
    longer prompts."""
    if not tokens:
        return []
    if not max_tokens or batch * tokens <= max_tokens:
        return [(batch, (tokens,))]
    together = max(1, max_tokens // tokens)
    parts = tuple(min(max_tokens, tokens - start) for start in range(0, tokens, max_tokens))
    return [(min(together, batch - start), parts) for start in range(0, batch, together)]


def parts_of(tokens_BT: torch.Tensor, plan: Plan) -> list[list[torch.Tensor]]:
    """For each piece of a plan the parts of its prompts, one after the other."""
    return [
        list(rows_BT.split(list(plan[0][1]), 1))
        for rows_BT in tokens_BT.split([sequences for sequences, _ in plan])
    ]


def at_once(plan: Plan, default: int = 0) -> int:
    """The most tokens that a plan reads in one call; `default` without a plan."""
    return max((count * max(parts) for count, parts in plan), default=default)


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


def build_model(architecture: Architecture, setup: Setup) -> HybridLM:
    """A model in the setup's dtype and on its device."""
    with built_on(setup):
        model = HybridLM(architecture, setup.backend)
    return deployed(model, setup)


def deployed(module: Module, setup: Setup) -> Module:
    """The module on the setup's device and in its dtype; as in engines, what enters decays is in
    float32.
    """
    module = module.to(setup.device).eval()
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] not in WIDE:
            parameter.data = parameter.data.to(setup.torch_dtype)
    return module


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


def built_on(setup: Setup) -> contextlib.AbstractContextManager[object]:
    """A context that builds random weights on the setup's device in little time."""
    return _RepeatedDraws() if setup.device == "cpu" else torch.device(setup.device)


def build_block(spec: OperatorSpec, hidden: int, setup: Setup) -> Block:
    """One operator with its norm and residual, by the setup's backend; float32, on torch's default
    device.
    """
    block = Block(spec, hidden)
    choose_backend(block, setup.backend)
    return block


def backends_of(specs: Iterable[OperatorSpec], hidden: int, setup: Setup) -> dict[str, str]:
    """What computes each kind of operator, as `HybridLM.backends`; nothing is allocated."""
    return running(_unbuilt(specs, hidden, setup), setup.device, setup.torch_dtype)


def _unbuilt(specs: Iterable[OperatorSpec], hidden: int, setup: Setup) -> list[tuple[str, Block]]:
    with torch.device("meta"):
        return [(spec.kind, build_block(spec, hidden, setup)) for spec in specs]


def filled_state(
    block: Block,
    batch: int,
    context: int,
    dtype: torch.dtype,
    device: str | torch.device,
    position: Position | None = None,
) -> Any:
    """The state before the token that makes the context `context` tokens long; values are random. A
    step writes the new token into the last slot of the key/value cache, so that the state can be
    used repeatedly. On a GPU a recurrent state lies in memory as the block's own library leaves it
    after a prompt, which decides how fast a step reads it. position: that of a state which a step
    continues in place."""

    def filled(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return state
        room = min(context, state.window) if state.window else context
        shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
        keys, values = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
        if position is not None:
            return FixedCache(keys, values, position, state.window)
        return KeyValueCache(keys, values, context - 1, state.window, owned=True)

    return mapped(
        _after_prompt(block, batch, dtype, device)
        if _on_gpu(device)
        else block.mixer.init_state(batch, dtype, device),
        filled,
    )


def _on_gpu(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


def _after_prompt(block: Block, batch: int, dtype: torch.dtype, device: str | torch.device) -> Any:
    x_BTD = torch.randn(batch, PROMPT_TOKENS, len(block.norm.weight), dtype=dtype, device=device)
    return block(x_BTD)[1]


def filled_cache(model: HybridLM, batch: int, context: int) -> HybridCache:
    """`filled_state` of every block."""
    weight = model.embedding.weight
    return HybridCache(
        tuple(
            filled_state(block, batch, context, weight.dtype, weight.device)
            for block in model.blocks
        )
    )


def block_step(block: Block, batch: int, context: int, setup: Setup) -> Callable[[], object]:
    """One step of an operator that can be repeated, in a graph as `HybridLM.generate` replays
    it.
    """
    x_BD = torch.randn(batch, len(block.norm.weight), dtype=setup.torch_dtype, device=setup.device)
    states = _standing((block,), batch, context, setup)

    def step() -> torch.Tensor:
        next_BD, after = block.step(x_BD, states.states[0])
        states.copy((after,))
        return next_BD

    return step


def _standing(blocks: Sequence[Block], batch: int, context: int, setup: Setup) -> FixedStates:
    """`filled_state` of every block, in place; steps leave the position as it is."""
    position = Position(context - 1, context, batch, setup.device, by=0)
    return FixedStates(
        tuple(
            filled_state(block, batch, context, setup.torch_dtype, setup.device, position)
            for block in blocks
        ),
        position,
    )


def _model_step(model: HybridLM, batch: int, context: int, setup: Setup) -> Callable[[], object]:
    tokens_B = torch.zeros(batch, dtype=torch.long, device=setup.device)
    if setup.mode_name == "cuda_graph":
        states = _standing(model.blocks, batch, context, setup)
        return functools.partial(_step_in_place, model, tokens_B, states)
    return functools.partial(_step, model, tokens_B, filled_cache(model, batch, context))


def _step(model: HybridLM, tokens_B: torch.Tensor, cache: HybridCache) -> torch.Tensor:
    return model.decode_step(tokens_B, cache)[0].argmax(-1)


def _step_in_place(model: HybridLM, tokens_B: torch.Tensor, states: FixedStates) -> torch.Tensor:
    return model.step_in_place(tokens_B, states).argmax(-1)


def _prefill(
    model: HybridLM, workload: Workload, batch: int, piece_tokens: int
) -> Callable[[], object]:
    if not workload.prompt_tokens:  # meta tokens alone
        return functools.partial(model.start_cache, batch)
    tokens_BT = torch.randint(
        model.architecture.vocab,
        (batch, workload.prompt_tokens),
        device=model.embedding.weight.device,
    )
    return functools.partial(
        _first_token, model, tokens_BT, pieces(batch, workload.prompt_tokens, piece_tokens)
    )


def _first_token(model: HybridLM, tokens_BT: torch.Tensor, plan: Plan) -> torch.Tensor:
    tokens = []
    for parts in parts_of(tokens_BT, plan):
        cache: HybridCache | None = None
        for part_BT in parts:
            logits_BV, cache = model.prefill(part_BT, cache)
        tokens.append(logits_BV.argmax(-1))
    return torch.cat(tokens)
