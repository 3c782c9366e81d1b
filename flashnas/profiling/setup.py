"""Setup: torch as the runtime, which times operators and whole models on a platform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError
from flashnas.base.settings import option
from flashnas.latency.memory import memory_bytes
from flashnas.latency.schema import MODES
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import installed
from flashnas.profiling.device_timing import Call, Effort, Measurement, NotCapturable
from flashnas.profiling.platforms import PLATFORMS, check_memory, driver
from flashnas.profiling.target import Measured, Progress, Target
from flashnas.profiling.whole_model import build_model, decode_contexts, first_tokens, model_step

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Setup(Target, where="setup"):
    """How torch runs what is timed. Raises ConfigError for an option that this machine cannot
    fulfil.
    """

    name = "torch"

    device: str = option("cpu", "platform", choices=tuple(PLATFORMS))  # type: ignore[misc]
    dtype: str = option("auto", "auto: that of the platform", choices=("auto", *DTYPES))
    mode: str = option("auto", "auto: that of the platform", choices=("auto", *MODES))
    backend: str = option("auto", "libraries that compute the operators", choices=BACKENDS)
    effort: Effort = field(default_factory=Effort)

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

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def dtype_name(self) -> str:
        return self.platform.dtype if self.dtype == "auto" else self.dtype

    @property
    def mode_name(self) -> str:
        return self.platform.mode if self.mode == "auto" else self.mode

    @property
    def stack(self) -> str:
        parts = [
            f"torch-{torch.__version__}",
            f"{self.threads}t"
            if self.device == "cpu"
            else f"driver-{driver()}"
            if driver()
            else "",
            *(f"{name}-{version}" for name, version in self.libraries.items()),
            "" if self._ordinary else f"by-{self.backend}",
        ]
        return "-".join(filter(None, parts))

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
        facts |= (
            {"threads": self.threads}
            if self.device == "cpu"
            else {"cuda": torch.version.cuda, "driver": driver()}
        )
        if self.libraries or self.device != "cpu":
            facts["libraries"] = self.libraries
        return facts if self._ordinary else {**facts, "backend": self.backend}

    @classmethod
    def of_rows(
        cls,
        rows: LatencyTable,
        described: Mapping[str, Any],
        *,
        dtype: str,
        backend: str | None,
        effort: Effort,
    ) -> Self:
        """A dtype that torch cannot run here is replaced by the platform's own."""
        here = PLATFORMS[rows.device.platform].available()
        return cls(
            device=rows.device.platform if here else "cpu",
            dtype=dtype if dtype in DTYPES else "auto",
            threads=int(described.get("threads", 1)),
            mode=rows.default_mode if here else "auto",
            backend=backend or (str(described.get("backend", "auto")) if here else "auto"),
            effort=effort,
        )

    def table_name(self) -> str:
        return self.platform.table_name()

    def profile(
        self, space: Any, workloads: Sequence[Workload], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        from flashnas.profiling.profile import profile

        return profile(space, workloads, folder, self, progress)

    def time_request(self, architecture: Architecture, workload: Workload, batch: int) -> Measured:
        """`effort.seconds` limits each of the (up to four) timings."""
        meta, piece_tokens = architecture.meta_tokens, self.platform.piece_tokens
        needed = memory_bytes(architecture, workload, batch, self.dtype_name, piece_tokens)
        check_memory(needed, self.platform.free_bytes(), batch)
        notes = dict[str, None]()

        def time_ms(call: Call) -> float:
            measured = self.timed([call])
            if measured.note:
                notes[measured.note] = None
            return measured.latency_us / 1000

        def time_parts() -> Measured:
            model, ttft_ms, tpot_ms = build_model(architecture, self), 0.0, 0.0
            if workload.prompt_tokens:
                shape = batch, workload.prompt_tokens
                tokens_BT = torch.randint(architecture.vocab, shape, device=self.device)
                ttft_ms = time_ms(lambda: first_tokens(model, tokens_BT, piece_tokens))
            elif meta:
                ttft_ms = time_ms(lambda: model.start_cache(batch))
            for context, share in decode_contexts(workload, meta):
                tpot_ms += share * time_ms(model_step(model, batch, context, self))
            return Measured.of(ttft_ms, tpot_ms, workload, "; ".join(notes))

        return self.run(time_parts)

    def timed(self, calls: Sequence[Call], *, launch: bool = True) -> Measurement:
        """Time calls as `Platform.time` does; in the mode eager, with a note, where no graph can
        hold them."""
        try:
            return self.platform.time(calls, self.mode_name, self.effort, launch=launch)
        except NotCapturable as error:
            note = f"timed in the mode eager, because no CUDA graph can hold it: {error}"
        measured = self.platform.time(calls, "eager", self.effort)
        return dataclasses.replace(measured, mode="eager", note=note)

    def run(self, call: Callable[[], T]) -> T:
        """Call in inference mode with the setup's threads, which are restored at the end. Raises
        DeviceMemoryError if the device runs out of memory."""
        self.platform.prepare()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                return call()
        except torch.OutOfMemoryError:
            pass
        finally:
            torch.set_num_threads(before)
        self.platform.forget()  # here, because the error keeps what was allocated
        raise DeviceMemoryError("the device ran out of memory")
