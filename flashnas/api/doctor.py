"""What of this machine flashnas uses, and whether every operator computes the right numbers on
it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import flashnas
from flashnas.api.calling import Result, silent, takes
from flashnas.base.errors import OperatorError
from flashnas.base.settings import Settings, option
from flashnas.latency.schema import PLATFORMS

# distribution -> what it is for
PACKAGES = {
    "torch": "everything",
    "triton": "kernels of flash-linear-attention and mamba-ssm",
    "flash-linear-attention": "recurrences on CUDA",
    "mamba-ssm": "Mamba and Mamba2 on CUDA",
    "flash-attn": "attention on CUDA",
    "transformers": "export",
    "gguf": "export to llama.cpp",
    "xllamacpp": "llama.cpp: checks of an export, and timings",
    "aiconfigurator-core": "import of public GPU measurements",
    "datasets": "corpora of the Hugging Face hub",
}
WSL_PROGRAMS = "/usr/lib/wsl/lib"  # where Windows puts nvidia-smi, also off the PATH of sudo
AARCH64 = (
    "; for aarch64 PyPI has no CUDA build of torch before 2.11: `pip uninstall torch`, then install"
    " it from https://download.pytorch.org/whl/cu128, or a driver from 580 on and a newer torch"
)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Settings, where="doctor"):
    gone: ClassVar[dict[str, str]] = {"out": "take --json > FILE"}
    device: str = option(
        "auto",
        " or ".join(PLATFORMS),
        choices=("auto", *PLATFORMS),
        shown="cuda where there is a CUDA device",
    )
    operators: tuple[str, ...] = option(
        (), "operators to test, such as a,m2,gd", metavar="A,B,..", separator=",", shown="all"
    )
    test: bool = option(
        True, "run the self-test of the operators", off="say what is installed only"
    )


@dataclass(frozen=True)
class Examination(Result):
    """What `doctor` found.

    machine: device, its facts and versions, the `dtype` in which it multiplies matrices faster, and
    `problem` where a driver of NVIDIA is loaded and torch finds no CUDA device, though nobody asked
    for the CPU. packages: each with name, version,
    purpose, and `problem` where it cannot be used. choices: for each operator and dtype what the
    backend `auto` takes, and what it passes over, why. tests: results of the self-test. healthy:
    none gave wrong numbers, and there is no problem.
    """

    machine: dict[str, Any]
    packages: list[dict[str, str]]
    choices: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    healthy: bool

    @property
    def exit_code(self) -> int:
        return 0 if self.healthy else 1

    def __str__(self) -> str:
        from flashnas.reporting.results import doctor_text

        return doctor_text(self.to_dict())


@takes(DoctorOptions)
def doctor(options: DoctorOptions, *, progress: Callable[..., None] = silent) -> Examination:
    """Say what is installed, what computes each operator here and why, and test every operator by
    every backend.

    The self-test compares forward pass, states, gradients and decode step, and on CUDA a step from
    a captured graph, with the float64 reference, in float32 and bfloat16. On a CPU it takes half
    a minute; on CUDA the first one may take 15 to 40, in which Triton compiles.

    Returns:
        An Examination: `machine`, `packages`, `choices`, `tests` and `healthy`.

    Raises:
        ConfigError: an operator that does not exist or has no layer, or cuda without a CUDA device.

    Example:
        >>> import flashnas as fn
        >>> found = fn.doctor(device="cpu", operators=["f"])
        >>> found.healthy, {test["status"] for test in found.tests}
        (True, {'passed'})
    """
    from flashnas.operators import OPERATORS
    from flashnas.profiling.platforms import PLATFORMS as MACHINES
    from flashnas.testing.self_test import choices_of, self_test

    kinds = list(options.operators or (kind for kind in OPERATORS if OPERATORS[kind].layer))
    for kind in kinds:
        try:
            OPERATORS[kind].check_layer()
        except OperatorError as error:
            options.wrong("operators", str(error))
    device = options.device
    if device == "auto":
        device = "cuda" if MACHINES["cuda"].available() else "cpu"
    if not MACHINES[device].available():
        options.wrong(
            "device",
            "cuda is for machines with a CUDA device; take --device cpu, or see docs/devices.md:"
            f" {_no_device()[1]}",
        )
    loaded, problem = _no_device() if options.device == "auto" and device == "cpu" else (False, "")
    done = set[str]()

    def count(result: Any) -> None:
        done.add(result.operator)
        progress(len(done) - 1, len(kinds))

    results = self_test(kinds, device, count) if options.test else []
    if options.test:
        progress(len(kinds), len(kinds))
    return Examination(
        machine={
            "flashnas": flashnas.__version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "system": platform.platform(),
            "device": device,
            **MACHINES[device].facts(),
            "dtype": MACHINES[device].dtype,
            **({"problem": problem} if loaded else {}),
        },
        packages=[_package(name) for name in PACKAGES],
        choices=[choice for kind in kinds for choice in choices_of(kind, device)],
        tests=[asdict(test) for test in results],
        healthy=not loaded and all(test.status in ("passed", "refused") for test in results),
    )


def _no_device() -> tuple[bool, str]:
    """Whether a driver of NVIDIA is loaded, and why torch finds no CUDA device, as far as the
    machine says so."""
    from flashnas.profiling.platforms import CUDA, driver

    problem, loaded = CUDA.problem(), driver() != ""
    if not loaded and (version := _driver_of_nvidia_smi()):
        problem += f"; nvidia-smi reports driver {version}, as under WSL, where Windows loads it"
        loaded = True
    if "built for CUDA (none)" in problem and platform.machine() == "aarch64":
        problem += AARCH64
    return loaded, problem


def _driver_of_nvidia_smi() -> str:
    """WSL has no /proc/driver/nvidia. An empty text where the program is missing or fails."""
    paths = os.pathsep.join((os.environ.get("PATH", os.defpath), WSL_PROGRAMS))
    program = shutil.which("nvidia-smi", path=paths) or "nvidia-smi"
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.partition("\n")[0]


def _package(name: str) -> dict[str, str]:
    """Name, version, purpose and what is wrong with a package; only libraries of kernels are
    imported.
    """
    from flashnas.operators.backends.core import LIBRARIES

    library = next(
        (library for library in LIBRARIES.values() if library.distribution == name), None
    )
    release = problem = ""
    if library is not None:
        problem = library.missing()
        release = "" if problem.endswith("is not installed") else library.version()
    else:
        try:
            release = version(name)
        except PackageNotFoundError:
            problem = f"the package {name} is not installed"
    return {
        "name": name,
        "version": release,
        "purpose": PACKAGES[name],
        **({"problem": problem} if problem else {}),
    }
