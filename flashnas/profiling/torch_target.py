"""Torch: networks of HybridLM as they run when flashnas itself deploys them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError, ExportError, OperatorError
from flashnas.base.settings import option
from flashnas.latency.schema import MODES
from flashnas.latency.table import LatencyTable
from flashnas.network.cache import FixedStates, HybridCache, mapped
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.cache import KeyValueCache, Position
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import choose_backend, installed, running
from flashnas.profiling.platforms import PLATFORMS, driver
from flashnas.profiling.target import Steps, Target, Timings
from flashnas.profiling.timing import Call, NotCapturable, captured, median_ms

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDE = ("A_log", "D", "dt_bias")  # what enters decays stays in float32, as in engines
MAX_SECONDS = 3600  # of the repeats of one call; beyond it is a typing error
PROMPT_TOKENS = 16  # after which a recurrent state has the layout that it keeps
DRAWN = 2**20  # random values of a tensor on a CPU
_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


@dataclass(frozen=True, kw_only=True)
class Torch(Target, where="torch"):
    """torch on a CPU, or on a GPU with CUDA graphs. Raises ConfigError for an option that this
    machine cannot fulfil.
    """

    name = "torch"

    device: str = option("cpu", "platform", choices=tuple(PLATFORMS))  # type: ignore[misc]
    dtype: str = option("auto", "auto: that of the platform", choices=("auto", *DTYPES))
    mode: str = option("auto", "auto: that of the platform", choices=("auto", *MODES))
    backend: str = option("auto", "libraries that compute the operators", choices=BACKENDS)
    seconds: float = option(0.3, "limit of the repeats of one call", above=0, max=MAX_SECONDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.platform.available():
            self.wrong(
                "device",
                f"{self.device}: torch {torch.__version__} sees no {self.device.upper()} device",
            )
        if self.mode_name not in self.platform.modes:
            able = next(name for name, platform in PLATFORMS.items() if self.mode in platform.modes)
            self.wrong("mode", f"{self.mode} needs --device {able}; got --device {self.device}")

    def check_holds(self, network: Architecture) -> None:
        try:
            for spec in network.operators:
                spec.check_layer()
        except OperatorError as error:
            raise ExportError(str(error)) from None

    # -- what it states

    @property
    def dtype_name(self) -> str:
        return self.platform.dtype if self.dtype == "auto" else self.dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def mode_name(self) -> str:
        return self.platform.mode if self.mode == "auto" else self.mode

    @property
    def stack(self) -> str:
        parts = [f"torch-{torch.__version__}"]
        if self.device == "cpu":
            parts.append(f"{self.threads}t")
        elif driver():
            parts.append(f"driver-{driver()}")
        parts += [f"{name}-{version}" for name, version in self.libraries.items()]
        if not self._ordinary:
            parts.append(f"by-{self.backend}")
        return "-".join(parts)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that operators may be computed by."""
        return installed(self.backend, self.device)

    @property
    def _ordinary(self) -> bool:
        """True if the backend is what `auto` would choose."""
        return self.backend == "auto" or (
            self.device == "cpu" and self.backend == "torch" and not installed("auto", "cpu")
        )

    def describe_stack(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"framework": "torch", "version": str(torch.__version__)}
        if self.device == "cpu":
            facts["threads"] = self.threads
        else:
            facts |= {"cuda": torch.version.cuda, "driver": driver()}
        if self.libraries or self.device != "cpu":
            facts["libraries"] = self.libraries
        return facts if self._ordinary else {**facts, "backend": self.backend}

    @classmethod
    def of_rows(
        cls, rows: LatencyTable, described: Mapping[str, Any], *, dtype: str, backend: str | None
    ) -> Self:
        """A dtype that torch cannot run here is replaced by the platform's own."""
        here = PLATFORMS[rows.device.platform].available()
        return cls(
            device=rows.device.platform if here else "cpu",
            dtype=dtype if dtype in DTYPES else "auto",
            threads=int(described.get("threads", 1)),
            mode=rows.default_mode if here else "auto",
            backend=backend or (str(described.get("backend", "auto")) if here else "auto"),
        )

    def table_name(self) -> str:
        return self.platform.table_name()

    def facts(self, specs: Sequence[OperatorSpec], hidden: int) -> dict[str, Any]:
        """Which library computes each kind of operator."""
        with torch.device("meta"):  # nothing is allocated
            blocks = [(spec.kind, Block(spec, hidden)) for spec in specs]
        for _, block in blocks:
            choose_backend(block, self.backend)
        return {"backends": running(blocks, self.device, self.torch_dtype)}

    # -- timing

    def tokens_at_once(self, tokens: int) -> int:
        return min(tokens, self.platform.piece_tokens)

    def times(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> Timings:
        """A step at the last of its contexts stands for `Steps`; `seconds` limits each prompt
        and each step. Raises DeviceMemoryError also where the device runs out of memory."""
        notes: dict[str, None] = {}
        try:
            with self.running():
                model = self.deployed(network)
                return Timings(
                    [self._ms(self.prompt(model, batch, tokens), notes) for tokens in prompts],
                    [self._ms(self.step(model, batch, part[-1]), notes) for part in steps],
                    "; ".join(notes),
                )
        except torch.OutOfMemoryError:
            pass
        self.platform.forget()  # here, because the error keeps what was allocated
        raise DeviceMemoryError("the device ran out of memory")

    def _ms(self, call: Call, notes: dict[str, None]) -> float:
        """The median time of a call, as a CUDA graph in that mode; a note where none can hold
        it.
        """
        if self.mode_name == "cuda_graph":
            try:
                call = captured(call)
            except NotCapturable as error:
                notes[f"timed in the mode eager, because no CUDA graph can hold it: {error}"] = None
        call()  # does not count
        platform = self.platform
        return median_ms(lambda: platform.once_ms(call), self.seconds, platform.steady_ms)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inference mode with the target's threads; both are restored at the end."""
        self.platform.prepare()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def deployed(self, network: Architecture) -> HybridLM:
        """A model with random weights in the target's dtype and on its device."""
        with _RepeatedDraws() if self.device == "cpu" else torch.device(self.device):
            model = HybridLM(network, self.backend)
        model = model.to(self.device).eval()
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] not in WIDE:
                parameter.data = parameter.data.to(self.torch_dtype)
        return model

    def prompt(self, model: HybridLM, batch: int, tokens: int) -> Call:
        """The reading of prompts of so many tokens, meta tokens included, up to the first token
        that is generated."""
        drawn = tokens - model.architecture.meta_tokens
        if not drawn:
            return functools.partial(model.start_cache, batch)
        tokens_BT = torch.randint(model.architecture.vocab, (batch, drawn), device=self.device)
        return functools.partial(first_tokens, model, tokens_BT, self.platform.piece_tokens)

    def step(self, model: HybridLM, batch: int, context: int) -> Call:
        """A decode step that can be repeated at one context; in a graph, as `generate` replays
        it.
        """
        tokens_B = torch.zeros(batch, dtype=torch.long, device=self.device)
        if self.mode_name != "cuda_graph":
            cache = HybridCache(filled_states(model, batch, context))
            return lambda: model.decode_step(tokens_B, cache)[0].argmax(-1)
        position = Position(context - 1, context, batch, self.device, by=0)  # which steps leave
        states = FixedStates(filled_states(model, batch, context, position), position)
        return lambda: model.step_in_place(tokens_B, states).argmax(-1)


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
    used repeatedly. On a GPU a recurrent state lies in memory as the block's own library leaves it
    after a prompt, which decides how fast a step reads it.

    Args:
        position: that of states which a step continues in place.
    """
    weight_VD = model.embedding.weight
    kind: dict[str, Any] = {"dtype": weight_VD.dtype, "device": weight_VD.device}

    def filled(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return state
        room = min(context, state.window) if state.window else context
        shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
        keys, values = (torch.randn(shape, **kind) for _ in range(2))
        return KeyValueCache(keys, values, context - 1, state.window, owned=True, position=position)

    if not states_follow_a_prompt(weight_VD.device):
        return tuple(
            mapped(block.mixer.init_state(batch, **kind), filled) for block in model.blocks
        )
    x_BTD = torch.randn(batch, PROMPT_TOKENS, weight_VD.shape[1], **kind)
    return tuple(mapped(block(x_BTD)[1], filled) for block in model.blocks)


def states_follow_a_prompt(device: torch.device) -> bool:
    """Whether states are taken from a prompt that was read."""
    return device.type == "cuda"


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
