"""Library: what a backend module states about itself; Sizes: what of an operator decides whether a
library takes it."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

Function = Callable[..., Any]
Sizes = Mapping[str, int]
Pair = tuple[Function, Function]  # of a whole sequence, of one token
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Library:
    """One library.

    kernels: for each core that it covers a function that imports what it needs and returns the
    kernels of a whole sequence and of one token, for activations of a dtype, in the signatures of
    our torch functions. refusal: why it does not take a core in a dtype and sizes, in a few words,
    or an empty string. rounds: cores whose parallel form multiplies float32 in TensorFloat-32 (10
    bits), which nothing but an explicit choice should do. least: the oldest release whose functions
    we call as they are and whose results are right. build: what makes two builds of a release
    differ, for records. functions: names of the package that are called; without them it is another
    library of the same name.
    """

    name: str
    package: str
    distribution: str
    kernels: Mapping[str, Callable[[torch.dtype], Pair]]
    refusal: Callable[[str, torch.dtype, Sizes], str]
    rounds: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ("cuda",)
    least: str = "0"
    build: Callable[[], str] = str
    functions: tuple[str, ...] = ()

    def missing(self) -> str:
        """Why it cannot be imported here, or an empty string."""
        if not importable(self.package):
            return f"the package {self.distribution} is not installed"
        if reason := _broken(self.package, sys.modules.get(self.package)):
            return f"the package {self.distribution} {self.version()} cannot be imported: {reason}"
        if older_than(self.version(), self.least):
            return (
                f"{self.distribution} {self.version()} is too old; {self.least} or later is needed"
            )
        module = importlib.import_module(self.package)
        if lacking := [name for name in self.functions if not hasattr(module, name)]:
            return (
                f"the package {self.package} here has no {', '.join(lacking)}, which"
                f" {self.distribution} has"
            )
        return ""

    def version(self) -> str:
        """The release, and after a + its `build`."""
        release = _release(self.distribution, sys.modules.get(self.package))
        return "+".join(filter(None, (release, self.build())))

    def reason(self, core: str, device: str, dtype: torch.dtype, sizes: Sizes) -> str:
        """Why it cannot run the core here, or an empty string."""
        if device not in self.devices:
            return f"it runs on {' and '.join(self.devices)} only; the tensors are on {device}"
        return self.missing() or self.refusal(core, dtype, sizes) or self._lacking(core, dtype)

    def _lacking(self, core: str, dtype: torch.dtype) -> str:
        """What is missing for that core in a library that can be imported, or an empty string."""
        reason = _unusable(self.kernels[core], dtype, sys.modules.get(self.package))
        return reason and f"{self.distribution} {self.version()} cannot be used: {reason}"


def importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (
        ImportError,
        ValueError,
    ):  # a package hidden by None in sys.modules, or one without a spec
        return False


@functools.cache
def _release(distribution: str, loaded: Any) -> str:
    """As installed, read once: each layer that is built asks for it. loaded: the module, where it
    is.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(loaded, "__version__", "of unknown version"))


@functools.cache
def _broken(package: str, loaded: Any) -> str:
    """What importing an installed package raises, in a line; it is tried once. loaded: the module,
    where it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    # a library built for another torch raises ImportError, OSError, RuntimeError, ..
    except Exception as error:
        return _in_a_line(error)
    return ""


@functools.cache
def _unusable(build: Callable[[torch.dtype], object], dtype: torch.dtype, loaded: Any) -> str:
    """What importing the functions of a core raises, in a line; tried once. loaded: the module of
    the library."""
    try:
        build(dtype)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        return _in_a_line(error)
    return ""


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def older_than(version: str, least: str) -> bool:
    """True for a release before that one; False for a version that is not one."""
    try:
        return Version(version) < Version(least)
    except InvalidVersion:
        return False


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def without_gradients(step: Function, plain: Function) -> Function:
    """`step`, which has no backward pass and may write into the state, where no gradient is needed;
    else `plain`."""

    def run(*arguments: Any) -> Any:
        return plain(*arguments) if torch.is_grad_enabled() else step(*arguments)

    return run
