"""The process that times networks in vLLM (child.py), as seen from flashnas."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashnas.base.documents import convert
from flashnas.base.errors import ConfigError, DeviceError
from flashnas.profiling.session import Session

ANSWER = "the answer of vLLM"
CHILD = Path(__file__).with_name("child.py")
# of an engine on a CPU: in the process that times it, with cores that others may use as well
ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}


@dataclass(frozen=True)
class Described:
    """What the interpreter has (`describe` of child.py)."""

    version: str
    torch: str
    device: Literal["cpu", "cuda"]
    label: str
    memory_bytes: int
    peak_flops: float
    bandwidth_bytes_s: float


@dataclass(frozen=True)
class TimedRepeats:
    """Milliseconds of each repeat (`time_network` of child.py)."""

    prompts: list[list[float]]
    steps: list[list[float]]

    def __post_init__(self) -> None:
        if not all(repeats and min(repeats) > 0 for repeats in (*self.prompts, *self.steps)):
            raise ValueError("times must be above 0")


@functools.cache
def describe(python: str) -> Described:
    """Version and device of vLLM (child.py); raises ConfigError if the interpreter has none."""
    session = Session("vLLM", [python, "-P", str(CHILD), "describe"])
    try:
        return convert(session.ask(None), Described, error=DeviceError, name=ANSWER)
    except DeviceError as error:
        raise ConfigError(f"--vllm-python {python}: {error}") from None
    finally:
        session.end()


@functools.cache
def running(python: str, device: str, threads: int) -> Session:
    """The session of this process with one interpreter."""
    variables = {**ON_CPU, "OMP_NUM_THREADS": str(threads)} if device == "cpu" else {}
    return Session("vLLM", [python, "-P", str(CHILD), "time"], variables)
