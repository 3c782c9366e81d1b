"""What of this machine flashnas uses, and whether every operator computes the right numbers on it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flashnas
from flashnas.api.calling import takes
from flashnas.base.errors import ConfigError
from flashnas.base.files import disk_errors, write_atomic
from flashnas.base.hints import one_of
from flashnas.base.settings import Settings, option
from flashnas.latency.schema import PLATFORMS

if TYPE_CHECKING:
    from flashnas.testing.self_test import LayerTest

# distribution -> (package to import, what it is for)
PACKAGES = {
    "torch": ("torch", "everything"),
    "numba": ("numba", "compiled kernels on a CPU"),
    "triton": ("triton", "kernels of flash-linear-attention and mamba-ssm"),
    "flash-linear-attention": ("fla", "recurrences on CUDA"),
    "mamba-ssm": ("mamba_ssm", "Mamba and Mamba2 on CUDA"),
    "causal-conv1d": ("causal_conv1d", "short convolutions on CUDA"),
    "flash-attn": ("flash_attn", "attention on CUDA"),
    "flash_attn_3": ("flash_attn_interface", "attention on Hopper"),
    "transformers": ("transformers", "export"),
    "gguf": ("gguf", "export to llama.cpp"),
    "xllamacpp": ("xllamacpp", "llama.cpp: checks of an export, and timings"),
    "nvidia-ml-py": ("pynvml", "clocks, power and throttling of a GPU"),
    "aiconfigurator-core": ("aiconfigurator_core", "import of public GPU measurements"),
    "datasets": ("datasets", "corpora of the Hugging Face hub"),
    "psycopg": ("psycopg", "a study in PostgreSQL"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Settings, where="doctor"):
    """What `flashnas doctor` takes."""

    device: str = option(
        "auto", " or ".join(PLATFORMS), choices=("auto", *PLATFORMS),
        shown="cuda where there is a CUDA device")
    operators: tuple[str, ...] = option(
        (), "operators to test, such as a,m2,gd", metavar="A,B,..", separator=",", shown="all")
    test: bool = option(True, "run the self-test of the operators", off="say what is installed only")
    out: Path | None = option(
        None, "also write all of it to this JSON file, for a bug report", metavar="FILE")


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        machine: device and its facts, versions of flashnas, Python, torch and the system.
        packages: one mapping for each: name, version, purpose, and `problem` where it cannot be used.
        choices: one mapping for each operator and dtype: what the backend `auto` takes, and what it passes
            over, why.
        tests: results of the self-test; empty if it was left out.
    """

    machine: dict[str, Any]
    packages: list[dict[str, str]] = field(repr=False)
    choices: list[dict[str, Any]] = field(repr=False)
    tests: list[LayerTest] = field(repr=False)

    @property
    def healthy(self) -> bool:
        """True unless a test failed or gave wrong numbers."""
        return all(test.status in ("passed", "refused") for test in self.tests)

    def to_dict(self) -> dict[str, Any]:
        return {"machine": self.machine, "packages": self.packages, "choices": self.choices,
                "tests": [test.to_dict() for test in self.tests], "healthy": self.healthy}

    def __str__(self) -> str:
        from flashnas.report.terminal_device import doctor_text

        return doctor_text(self.machine, self.packages, self.choices, self.tests)


@takes(DoctorOptions)
def doctor(options: DoctorOptions, *, progress: Callable[[int, int], None] | None = None) -> Examined:
    """Say what is installed, what computes each operator here and why, and test every operator by every
    backend.

    The self-test compares forward pass, states, gradients and decode step, and on CUDA a step from a captured
    graph, with the float64 reference, in float32 and bfloat16. On a CPU it takes one to two minutes; on CUDA
    the first one may take 15 to 40, in which Triton compiles.

    Further:
        progress (Callable): called with the operators that are tested and the number of all.

    Returns:
        An Examined: `machine`, `packages`, `choices`, `tests` and `healthy`.

    Raises:
        ConfigError: an operator that does not exist, or cuda without a CUDA device.

    Example:
        >>> import flashnas as fn
        >>> found = fn.doctor(device="cpu", operators=["f"])
        >>> found.healthy, {test.status for test in found.tests}
        (True, {'passed'})
    """
    if options.out is not None and options.out.is_dir():
        options.wrong("out", f"{options.out}: is a folder; name a file")
    from flashnas.operators import OPERATORS

    kinds = list(options.operators or OPERATORS)
    for kind in kinds:
        if kind not in OPERATORS:
            options.wrong("operators", one_of("operator", kind, tuple(OPERATORS)))

    from flashnas.profiling.platforms import CUDA
    from flashnas.profiling.platforms import PLATFORMS as MACHINES
    from flashnas.testing.self_test import choices_of, self_test

    device = options.device
    if device == "auto":
        device = "cuda" if MACHINES["cuda"].available() else "cpu"
    if not MACHINES[device].available():
        raise ConfigError(f"doctor.device: torch finds no CUDA device; take --device cpu, or see"
                          f" docs/install.md: {CUDA.problem()}")
    results: list[LayerTest] = []
    if options.test:
        done: set[str] = set()

        def tell(result: LayerTest) -> None:
            done.add(result.operator)
            if progress:
                progress(len(done) - 1, len(kinds))

        results = self_test(kinds, device, tell)
        if progress:
            progress(len(kinds), len(kinds))
    examined = Examined(_machine(device), [_package(name) for name in PACKAGES],
                        [choice for kind in kinds for choice in choices_of(kind, device)], results)
    if options.out is not None:
        with disk_errors(f"doctor.out: {options.out}", ConfigError):
            write_atomic(options.out, json.dumps(examined.to_dict(), indent=1) + "\n")
    return examined


def _machine(device: str) -> dict[str, Any]:
    from flashnas.profiling.platforms import PLATFORMS as MACHINES

    return {"flashnas": flashnas.__version__, "python": platform.python_version(), "torch": version("torch"),
            "system": platform.platform(), "device": device, **MACHINES[device].facts()}


def _package(name: str) -> dict[str, str]:
    """Name, version, purpose and what is wrong with a package."""
    from flashnas.operators.backends.core import LIBRARIES
    from flashnas.operators.backends.library import Library, importable

    package, purpose = PACKAGES[name]
    backend = next((library for library in LIBRARIES.values() if library.distribution == name
                    and library.name != "sdpa"), None)
    library = backend or Library(name=name, package=package, distribution=name, kernels={},
                               refusal=lambda *_: "")
    problem = library.missing() if backend or name == "triton" else ""  # others are slow to import
    if not importable(package):
        problem = library.missing()
    version = "" if problem.endswith("is not installed") else library.version()
    return {"name": name, "version": version, "purpose": purpose, **({"problem": problem} if problem else {})}
