"""Which library computes the core of an operator: the best one that is installed, or the one that
the user names.

A core is the one kernel of a layer that libraries compete for: attention or a recurrence. A layer
holds a `Core` and calls `core.of(x).forward(..)` or `.step(..)` in the signature of our torch
functions; everything around it (projections, convolutions, norms, gates) is torch. The choice is
made at the first call on each device, in each dtype, with gradients and without: a library may have
a forward pass that is right and a backward pass that is not.

On a CPU torch computes every core, attention by its scaled_dot_product_attention. On CUDA `auto`
takes the first library of CORES that is installed and takes dtype and sizes there; torch's own code
if none does or if it would round float32. A name takes that library wherever it covers the core,
and torch elsewhere; what it covers but cannot run is an error. `core.of(x).name` is what runs.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError
from flashnas.base.text import one_of
from flashnas.operators.backends import BACKENDS, fla, flash_attn, mamba_ssm
from flashnas.operators.backends.library import Function, Library, Pair

LIBRARIES = {
    library.name: library for library in (fla.LIBRARY, mamba_ssm.LIBRARY, flash_attn.LIBRARY)
}
# the libraries that have a core, best first: the order of their own benchmarks, of which none was
# run here
CORES = {
    "attention": ("flash-attn",),
    "ssd": ("mamba-ssm", "fla"),
    "selective_scan": ("mamba-ssm",),
    "delta_rule": ("fla",),
    "gated_delta_rule": ("fla",),
    "gla": ("fla",),
    "kda": ("fla",),
    "dplr": ("fla",),
}


class Kernels(NamedTuple):
    """What runs for one device and dtype, with gradients or without; `name` is for records, such as
    `fla 0.6.0`.
    """

    forward: Function
    step: Function
    name: str


class Core:
    """The choice of one layer.

    Args:
        kind: name in CORES, or one that no library has.
        operator: for messages.
        torch_code: our functions.
        own: their name in records.
        sizes: what a library may refuse (key_dim, value_dim, head_dim).
    """

    def __init__(
        self, kind: str, operator: str, torch_code: Pair, own: str = "torch", **sizes: int
    ) -> None:
        self.kind, self.operator, self.sizes = kind, operator, sizes
        self._own = Kernels(*torch_code, own)
        self.choose("auto")

    def choose(self, backend: str) -> None:
        """Take that one of BACKENDS from now on."""
        self.backend = backend
        self._found: dict[tuple[bool, torch.dtype, bool], Kernels] = {}

    def of(self, x: Tensor) -> Kernels:
        """What runs for activations like x; raises OperatorError if the chosen library cannot."""
        place = x.is_cuda, x.dtype, torch.is_grad_enabled()
        if place not in self._found:
            self._found[place] = self.kernels("cuda" if x.is_cuda else "cpu", *place[1:])
        return self._found[place]

    def kernels(self, device: str, dtype: torch.dtype, gradients: bool = False) -> Kernels:
        """What runs on that device for activations of that dtype. The step of a library has no
        backward pass and may write into the state: with gradients it is torch's own.
        """
        for library in self._libraries(device):
            if reason := self._reason(library, device, dtype, gradients):
                if self.backend == "auto":
                    continue
                raise OperatorError(
                    f"operator {self.operator}: backend {self.backend} cannot run it: {reason};"
                    " allowed here: auto, torch"
                )
            forward, step = library.kernels[self.kind](dtype)
            name = f"{library.name} {library.version()}"
            return Kernels(forward, self._own.step if gradients else step, name)
        return self._own

    def rejected(self, device: str, dtype: torch.dtype, gradients: bool = False) -> dict[str, str]:
        """The libraries that `auto` would rather take there than what runs, with the reason why it
        does not.
        """
        reasons: dict[str, str] = {}
        for library in self._libraries(device):
            if not (reason := self._reason(library, device, dtype, gradients)):
                break
            reasons[library.name] = reason
        return reasons

    def _libraries(self, device: str) -> list[Library]:
        """Those to try there; a chosen one is tried on every device, so that it says why not."""
        libraries = [LIBRARIES[name] for name in CORES.get(self.kind, ())]
        if self.backend == "auto":
            return [library for library in libraries if device in library.devices]
        return [library for library in libraries if library.name == self.backend]

    def _reason(self, library: Library, device: str, dtype: torch.dtype, gradients: bool) -> str:
        """Why that library does not run, or an empty string."""
        rounds = dtype == torch.float32 and self.kind in library.rounds
        return library.reason(self.kind, device, dtype, self.sizes, gradients) or (
            "it would round float32 to TensorFloat-32" if rounds and self.backend == "auto" else ""
        )


def cores_of(module: nn.Module) -> Iterator[Core]:
    """The cores of a module and of all inside it."""
    for part in module.modules():
        if isinstance(core := getattr(part, "core", None), Core):
            yield core


def choose_backend(module: nn.Module, backend: str) -> None:
    """Take that backend for every core of the module that it covers; raises OperatorError for an
    unknown name and for a library that is not installed."""
    if backend not in BACKENDS:
        raise OperatorError(one_of("backend", backend, BACKENDS))
    if backend in LIBRARIES and (missing := LIBRARIES[backend].missing()):
        raise OperatorError(
            f"backend {backend} cannot be used: {missing}; allowed here: auto, torch"
        )
    for core in cores_of(module):
        core.choose(backend)


def running(
    layers: Iterable[tuple[str, nn.Module]],
    device: str,
    dtype: torch.dtype,
    gradients: bool = False,
) -> dict[str, str]:
    """What computes each kind of operator there, such as {"d": "fla 0.6.0", "f": "torch"}, of
    layers given with their kinds. Layers of a kind that differ, or have several cores, are joined
    by " + "."""
    names: dict[str, dict[str, None]] = {}
    for kind, layer in layers:
        names.setdefault(kind, {}).update(
            (core.kernels(device, dtype, gradients).name, None) for core in cores_of(layer)
        )
    return {kind: " + ".join(found or ["torch"]) for kind, found in names.items()}


def installed(backend: str, device: str) -> dict[str, str]:
    """Version of each library that the choice may take on that device and that is installed here,
    by name.
    """
    return {
        name: library.version()
        for name, library in LIBRARIES.items()
        if backend in ("auto", name) and device in library.devices and not library.missing()
    }
