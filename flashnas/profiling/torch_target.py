"""Torch: networks of HybridLM as they run when flashnas itself deploys them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError, ExportError, OperatorError
from flashnas.base.settings import option
from flashnas.base.system import keep_memory
from flashnas.latency.schema import PLATFORMS as MODES
from flashnas.latency.schema import Device
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import installed
from flashnas.profiling.platforms import PLATFORMS, driver
from flashnas.profiling.target import Steps, Target, Timings
from flashnas.profiling.torch_calls import (
    deployed,
    prompt,
    step,
    timed_ms,
)
from flashnas.training.memory import free_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_SECONDS = 3600  # of the repeats of one call; beyond it is a typing error


@dataclass(frozen=True, kw_only=True)
class Torch(Target, where="torch"):
    """torch on a CPU, or on a GPU with CUDA graphs. Raises ConfigError for an option that this
    machine cannot fulfil.
    """

    name = "torch"

    device: str = option("cpu", "platform", choices=tuple(PLATFORMS))  # type: ignore[misc]
    dtype: str = option("auto", "auto: that of the platform", choices=("auto", *DTYPES))
    backend: str = option("auto", "libraries that compute the operators", choices=BACKENDS)
    seconds: float = option(0.3, "limit of the repeats of one call", above=0, max=MAX_SECONDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.platform.available():
            self.wrong(
                "device",
                f"{self.device}: torch {torch.__version__} sees no {self.device.upper()} device",
            )

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
        return MODES[self.device]

    @property
    def stack(self) -> str:
        parts = [f"torch-{torch.__version__}"]
        if self.device == "cpu":
            parts.append(f"{self.threads}t")
        elif driver():
            parts.append(f"driver-{driver()}")
        parts += [f"{name}-{version}" for name, version in self.libraries.items()]
        if self.backend != "auto":
            parts.append(f"by-{self.backend}")
        return "-".join(parts)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that operators may be computed by."""
        return installed(self.backend, self.device)

    def describe_stack(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"framework": "torch", "version": str(torch.__version__)}
        if self.device == "cpu":
            facts["threads"] = self.threads
        else:
            facts |= {"cuda": torch.version.cuda, "driver": driver()}
        if self.libraries or self.device != "cpu":
            facts["libraries"] = self.libraries
        return facts if self.backend == "auto" else {**facts, "backend": self.backend}

    @classmethod
    def of_rows(cls, described: Mapping[str, Any], *, device: str, dtype: str, **_: Any) -> Self:
        return cls(
            device=device,
            dtype=dtype,
            threads=described.get("threads", 1),
            backend=described.get("backend", "auto"),
        )

    def describe_device(self, name: str) -> Device:
        with self.running():
            return super().describe_device(name)

    # -- timing

    @property
    def piece_tokens(self) -> int:  # type: ignore[override]
        return self.platform.piece_tokens

    def times(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> Timings:
        """A step at the last of its contexts stands for `Steps`; `seconds` limits each prompt
        and each step. Prompts are read eagerly, as `HybridLM.generate` does in each mode. Raises
        DeviceMemoryError also where the device runs out of memory, and DeviceError for a step that
        no CUDA graph can hold."""
        piece, mode = self.piece_tokens, self.mode_name
        ms = functools.partial(timed_ms, platform=self.platform, seconds=self.seconds)
        try:
            with self.running():
                model = deployed(network, self.backend, self.device, self.torch_dtype)
                return Timings(
                    [ms(prompt(model, batch, tokens, piece), mode="eager") for tokens in prompts],
                    [ms(step(model, batch, part[-1], mode), mode=mode) for part in steps],
                )
        except torch.OutOfMemoryError:
            pass
        free_memory()  # here, because the error keeps what was allocated
        raise DeviceMemoryError("the device ran out of memory")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inference mode with the target's threads; both are restored at the end."""
        if self.device == "cpu":
            keep_memory()  # freed memory stays with the process, as with a server
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)
