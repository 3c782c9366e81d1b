"""Whole models, timed end to end: what the sum of a table's rows is compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flashnas.architecture import Architecture
from flashnas.latency import metrics
from flashnas.latency.workload import Workload
from flashnas.network.cache import HybridCache
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.layer import KeyValueCache
from flashnas.operators.backends.core import choose_backend, running
from flashnas.profiling.device_timing import Timer
from flashnas.profiling.platforms import make_timer
from flashnas.profiling.setup import Setup

CONTEXTS = 3              # at which a decode step is timed, by Gauss's rule: exact for polynomials of degree 5
COMPILED_VARIANTS = 512


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one request as timed (`flashnas.latency.metrics`)."""

    ttft_ms: float
    tpot_ms: float
    latency_ms: float

    def to_dict(self) -> dict[str, float]:
        return dict(vars(self))


def time_model(architecture: Architecture, workload: Workload, batch: int, setup: Setup,
               timer: Timer | None = None) -> Measured:
    """Build the model with random weights, and time the reading of its prompt and its mean step.

    Args:
        architecture: what is built; its weights need about `Estimate.memory_gb`.
        workload: prompt and generated tokens.
        batch: sequences that are read and continued together.
        setup: how this machine runs the model; `effort.seconds` limits each of the (up to four) timings.
        timer: the clock (None: that of the setup).
    """
    with setup.running():
        timer = timer or make_timer(setup.device, setup.mode_name)
        model = build_model(architecture, setup)
        ttft_ms = 0.0
        if workload.prompt_tokens + architecture.meta_tokens:
            ttft_ms = timer.measure([_prefill(model, workload, batch)], setup.effort).latency_us / 1000
        tpot_ms = 0.0
        for context, share in decode_contexts(workload, architecture.meta_tokens):
            token = torch.zeros(batch, dtype=torch.long, device=setup.device)
            step = functools.partial(_step, model, token, filled_cache(model, batch, context))
            tpot_ms += share * timer.measure([step], setup.effort).latency_us / 1000
    return Measured(ttft_ms=ttft_ms, tpot_ms=tpot_ms,
                    latency_ms=metrics.latency_ms(ttft_ms, tpot_ms, workload.generated_tokens))


def decode_contexts(workload: Workload, meta_tokens: int) -> list[tuple[int, float]]:
    """(context, weight) whose weighted mean is that of all steps of the workload; the weights sum to 1."""
    if not workload.generated_tokens:
        return []
    first = meta_tokens + workload.prompt_tokens + 1
    nodes, weights = np.polynomial.legendre.leggauss(CONTEXTS)
    contexts = np.round(first + (nodes + 1) / 2 * (workload.generated_tokens - 1)).astype(int)
    return [(int(context), float(weights[contexts == context].sum() / 2)) for context in np.unique(contexts)]


def build_model(architecture: Architecture, setup: Setup) -> HybridLM:
    """A model in the setup's dtype and on its device, its blocks compiled in the mode `compiled`."""
    model = HybridLM(architecture, setup.backend).to(setup.device, setup.torch_dtype).eval()
    if setup.mode_name == "compiled":
        torch.compiler.reset()  # else every call would search the variants of earlier models
        for block in model.layers:
            compile_block(block)
    return model


def build_block(spec: OperatorSpec, hidden: int, setup: Setup) -> Block:
    """One operator with its norm and residual, by the setup's backend; float32, on torch's default device."""
    block = Block(spec, hidden)
    choose_backend(block, setup.backend)
    return block


def backends_of(specs: Iterable[OperatorSpec], hidden: int, setup: Setup) -> dict[str, str]:
    """What computes each kind of operator in the setup, as `HybridLM.backends`; nothing is allocated."""
    with torch.device("meta"):
        blocks = [(spec.kind, build_block(spec, hidden, setup)) for spec in specs]
    return running(blocks, setup.device, setup.torch_dtype)


def compile_block(block: torch.nn.Module) -> None:
    """Compile both forms of a block for the shapes that it will see."""
    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS  # one code object serves every operator, width and context
    for name in ("forward", "step"):
        setattr(block, name, torch.compile(getattr(block, name), dynamic=False))


def filled_state(block: Block, batch: int, context: int, dtype: torch.dtype, device: str | torch.device) -> Any:
    """The state before the token that makes the context `context` tokens long; values are random.

    The state can be used repeatedly: a step writes the new token into the last slot of the key/value cache.

    Args:
        block: the operator.
        batch: sequences.
        context: tokens that the next step sees, itself included.
        dtype, device: of the state.
    """
    def filled(state: Any) -> Any:
        if isinstance(state, KeyValueCache):
            room = min(context, state.window) if state.window else context
            shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
            return KeyValueCache(torch.randn(shape, dtype=dtype, device=device),
                                 torch.randn(shape, dtype=dtype, device=device), context - 1, state.window, owned=True)
        if isinstance(state, tuple):  # of tensors, or of the states of several halves
            return type(state)(*map(filled, state))
        return state

    return filled(block.mixer.init_state(batch, dtype, device))


def filled_cache(model: HybridLM, batch: int, context: int) -> HybridCache:
    """`filled_state` of every block."""
    weight = model.embedding.weight
    return HybridCache(tuple(filled_state(block, batch, context, weight.dtype, weight.device)
                             for block in model.blocks))


def _prefill(model: HybridLM, workload: Workload, batch: int) -> Callable[[], object]:
    if not workload.prompt_tokens:  # meta tokens alone
        return functools.partial(model.start_cache, batch)
    tokens = torch.randint(model.architecture.vocab, (batch, workload.prompt_tokens),
                           device=model.embedding.weight.device)
    return functools.partial(_first_token, model, tokens)


def _first_token(model: HybridLM, tokens_BT: torch.Tensor) -> torch.Tensor:
    return model.prefill(tokens_BT)[0].argmax(-1)


def _step(model: HybridLM, tokens_B: torch.Tensor, cache: HybridCache) -> torch.Tensor:
    return model.decode_step(tokens_B, cache)[0].argmax(-1)
