"""Setup: torch as the runtime, which times operators and whole models on a platform."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from flashnas.architecture import Architecture
from flashnas.base.registry import load_object
from flashnas.base.settings import option
from flashnas.latency.schema import MODES
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import installed
from flashnas.profiling.device_timing import Call, Effort, Measurement, NotCapturable
from flashnas.profiling.platforms import PLATFORMS, driver
from flashnas.profiling.target import Measured, Target

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Setup(Target, where="setup"):
    """How torch runs what is timed. Raises ConfigError for an option that this machine cannot
    fulfil.
    """

    name = "torch"
    profiler = "flashnas.profiling.profile:profile"

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

    def time_request(self, architecture: Architecture, workload: Workload, batch: int) -> Measured:
        time_model = load_object("flashnas.profiling.whole_model:time_model")
        measured: Measured = time_model(architecture, workload, batch, self)
        return measured

    def timed(self, calls: Sequence[Call], *, launch: bool = True) -> Measurement:
        """Time calls as `Platform.time` does; in the mode eager, with a note, where no graph can
        hold them."""
        try:
            return self.platform.time(calls, self.mode_name, self.effort, launch=launch)
        except NotCapturable as error:
            note = f"timed in the mode eager, because no CUDA graph can hold it: {error}"
        measured = self.platform.time(calls, "eager", self.effort)
        return dataclasses.replace(measured, mode="eager", note=note)
