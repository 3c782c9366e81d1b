"""What of this machine flashnas uses, and whether every operator computes the right numbers on
it.
"""

from __future__ import annotations

import platform
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

    machine: device, its facts and versions, the default `dtype`, and
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

    Further:
        progress (Callable): called with what is done and with all that is to do.

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
    from flashnas.profiling.platforms import CUDA, driver
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
            f" {CUDA.problem()}",
        )
    loaded = options.device == "auto" and device == "cpu" and driver() != ""
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
            **({"problem": CUDA.problem()} if loaded else {}),
        },
        packages=[_package(name) for name in PACKAGES],
        choices=[choice for kind in kinds for choice in choices_of(kind, device)],
        tests=[asdict(test) for test in results],
        healthy=not loaded and all(test.status in ("passed", "refused") for test in results),
    )


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
