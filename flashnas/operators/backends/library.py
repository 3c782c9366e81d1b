"""Library: what a backend module states about itself; Sizes: what of an operator decides whether a
library takes it."""

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

from flashnas.base.text import first_line

Function = Callable[..., Any]
Sizes = Mapping[str, int]
Pair = tuple[Function, Function]  # of a whole sequence, of one token
HALF = (torch.bfloat16, torch.float16)
UNKNOWN = "of unknown version"


@dataclass(frozen=True, kw_only=True)
class Library:
    """One library.

    kernels: for each core that it covers a function that imports what it needs and returns the
    kernels of a whole sequence and of one token, for activations of a dtype, in the signatures of
    our torch functions. refusal: why it does not take a core in a dtype and sizes, in a few words,
    or an empty string. gradients: likewise why it does not compute its gradients, though it runs
    without them. rounds: cores whose parallel form multiplies float32 in TensorFloat-32 (10
    bits), which nothing but an explicit choice should do. least: the oldest release whose functions
    we call as they are and whose results are right.
    """

    name: str
    package: str
    distribution: str
    kernels: Mapping[str, Callable[[torch.dtype], Pair]]
    refusal: Callable[[str, torch.dtype, Sizes], str]
    gradients: Callable[[str, torch.dtype], str] = lambda core, dtype: ""
    rounds: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ("cuda",)
    least: str = "0"

    def missing(self) -> str:
        """Why it cannot be used at all, or an empty string."""
        if not importable(self.package):
            return f"the package {self.distribution} is not installed"
        # before the import as well, which fails where an old release needs others' old names
        if self._too_old():
            return self._too_old()
        if reason := self._failure(importlib.import_module, self.package):
            return f"the package {self.distribution} {self.version()} cannot be imported: {reason}"
        if self.version() == UNKNOWN:  # flash-attn 4 has the package of flash-attn 2 as a namespace
            return f"the package {self.package} here is not that of {self.distribution}"
        return self._too_old()

    def _too_old(self) -> str:
        if self.version() == UNKNOWN or not older_than(self.version(), self.least):
            return ""
        return f"{self.distribution} {self.version()} is too old; {self.least} or later is needed"

    def version(self) -> str:
        """The release."""
        return _release(self.distribution, sys.modules.get(self.package))

    def reason(
        self, core: str, device: str, dtype: torch.dtype, sizes: Sizes, gradients: bool
    ) -> str:
        """Why it cannot run the core here, with gradients or without, or an empty string."""
        if device not in self.devices:
            return f"it runs on {' and '.join(self.devices)} only; the tensors are on {device}"
        if reason := self.missing() or self.refusal(core, dtype, sizes):
            return reason
        if reason := self._failure(self.kernels[core], dtype):
            return f"{self.distribution} {self.version()} cannot be used: {reason}"
        return self.gradients(core, dtype) if gradients else ""

    def _failure(self, function: Callable[[Any], object], argument: object) -> str:
        return _failure(function, argument, sys.modules.get(self.package))


def importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # hidden by None in sys.modules, or a package without a spec
        return False


@functools.cache
def _release(distribution: str, loaded: Any) -> str:
    """As installed, read once: each layer that is built asks for it. loaded: the module, where it
    is.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(loaded, "__version__", UNKNOWN))


@functools.cache
def _failure(function: Callable[[Any], object], argument: object, loaded: Any) -> str:
    """What an import raises, in a line, or an empty string; tried once. loaded: the module of the
    library, where it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(argument)
    # a library built for another torch raises ImportError, OSError, RuntimeError, ..
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def older_than(version: str, least: str) -> bool:
    """True for a release before that one; False for a version that is not one."""
    try:
        return Version(version) < Version(least)
    except InvalidVersion:
        return False
