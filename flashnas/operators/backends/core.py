"""Which library computes the core of an operator: the best one that is installed, or the one that the user
names.

A core is the one kernel of a layer that libraries compete for: attention, a recurrence, a short convolution.
A layer holds a `Core` and calls `core.of(x).forward(..)` or `.step(..)` in the signature of our torch
functions; everything around it (projections, norms, gates) is torch. The choice is made at the first call on
each device and in each dtype.

Choices: `auto` takes the first library of the core's kind that is installed and takes dtype and sizes on that
device, torch's own code if none does or if it would round float32. A name takes that library wherever it
covers the core, and torch elsewhere (attention on CUDA by scaled_dot_product_attention); what it covers but
cannot run is an error. `core.of(x).name` is what runs.

A kind of core, or a library, of another package is one object and one entry point under its name:

    FFT_CONV = CoreKind("fft_conv", on_cuda=("my-kernels",))  # the group flashnas.cores
    MY_KERNELS = Library(name="my-kernels", ..)               # the group flashnas.core_libraries

Some libraries compute norms, gates and time steps inside the kernel of a core. A layer that can hand them
over raw (`Core(.., raw=True)`) then takes `raw_forward` and `raw_step` where they exist; each returns
(output, state) with the output in the dtype of the activations. Their arguments, with q and k not normalised,
beta, a and dt as projected, and parameters as stored (A_log, dt_bias):

    delta_rule         q, k, v, beta, scale, state
    gated_delta_rule   q, k, v, beta, a, A_log, dt_bias, scale, state    q and k may have fewer heads than v
    kda                the same with a [.., H, K] and dt_bias [H K]
    gla                q, k, v, g, scale, state                             g: log decays in float32
    dplr               r, k, v, w, rate, gate, k_k, k_a, r_k, weight, bias and eps of the norm, lowest, state
                       all of RWKV7 between its projections, without heads: w and rate before their sigmoids,
                       lowest the least log decay; the output includes the norm, the bonus and the gate
    ssd                q, k, x, dt, dt_bias, dt_min, A, D, state    the output includes D x; here and in the
                       next A is -exp(A_log), and A, dt_bias and D are in float32
                       combined: z | x, B, C | dt as projected, weight and bias of the convolution, dt_bias,
                       dt_min, A, D, weight, groups and eps of the norm, weight and bias of the output
                       projection or None: what all of it gives from the start of a sequence, and the state
    selective_scan     x, z, dt, dt_bias, A [C, N], D, b, c, state    the output includes D x and silu(z)
    norm               x, update, weight, eps: the norm of x + update, and x + update; no step of its own
    attention          q, cache (attention/cache.py), whose key and value are there; or q, cache, k, v, and
                       cosines and sines [2, T, dim / 2] or None: it rotates and writes them. One token only
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError
from flashnas.base.hints import one_of
from flashnas.base.registry import Registry
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.library import (
    Forms,
    Function,
    Library,
    Pair,
    without_gradients,
)

LIBRARIES: Registry[Library] = Registry("library", "flashnas.core_libraries", {
    name: f"flashnas.operators.backends.{name.replace('-', '_')}:LIBRARY" for name in
    ("fla", "mamba-ssm", "causal-conv1d", "flash-attn-3", "flash-attn", "sdpa")}, OperatorError,
                                        "name")
# choices that cover two packages: both, or the first that runs
BUNDLES = {"mamba-ssm": ("mamba-ssm", "causal-conv1d"), "flash-attn": ("flash-attn-3", "flash-attn")}
EITHER = {"flash-attn": BUNDLES["flash-attn"]}


@dataclass(frozen=True)
class CoreKind:
    """A kernel that libraries compete for.

    on_cuda: the libraries that have it, best first, in the order of the libraries' own benchmarks; none of it
    was measured here. On a CPU torch computes every core. optional: it falls back to torch where the chosen library does
    not take it. around: it surrounds the core of an operator, and is not told in records.
    """

    name: str
    on_cuda: tuple[str, ...] = ()
    optional: bool = False
    around: bool = False

    def libraries(self, device: str) -> tuple[str, ...]:
        """Those on that device, best first."""
        return self.on_cuda if device == "cuda" else ()


ATTENTION = CoreKind("attention", ("flash-attn-3", "flash-attn", "sdpa"))
SSD = CoreKind("ssd", ("mamba-ssm", "fla"))
SELECTIVE_SCAN = CoreKind("selective_scan", ("mamba-ssm",))
DELTA_RULE = CoreKind("delta_rule", ("fla",))
GATED_DELTA_RULE = CoreKind("gated_delta_rule", ("fla",))
GLA = CoreKind("gla", ("fla",))
KDA = CoreKind("kda", ("fla",))
DPLR = CoreKind("dplr", ("fla",))
CONVOLUTION = CoreKind("convolution", ("causal-conv1d", "fla"), optional=True)
NORM = CoreKind("norm", ("fla", "mamba-ssm"), optional=True, around=True)
TOKEN_MIX = CoreKind("token_mix", ("fla",), optional=True, around=True)
SWIGLU = CoreKind("swiglu", ("fla",), optional=True, around=True)
SOFTMAX = CoreKind("softmax", (), optional=True, around=True)

CORE_KINDS: Registry[CoreKind] = Registry("kind of core", "flashnas.cores", {
    name: f"flashnas.operators.backends.core:{name.upper()}" for name in (
        "attention", "ssd", "selective_scan", "delta_rule", "gated_delta_rule", "gla", "kda", "dplr",
        "convolution", "norm", "token_mix", "swiglu", "softmax")}, OperatorError, "name")


class Kernels(NamedTuple):
    """What runs for one device and dtype; `name` is for records, such as `fla 0.6.0`."""

    forward: Function
    step: Function
    name: str
    raw_forward: Function | None = None
    raw_step: Function | None = None  # for decoding: it computes no gradients
    inside: str = ""  # what the raw forms compute besides the core
    combined: Function | None = None  # for training
    convolution: str = ""  # the library whose convolution `combined` computes
    library: str = ""  # that of `forward`, by its name in LIBRARIES; "": torch


class Core:
    """The choice of one layer.

    Args:
        kind: name in CORE_KINDS.
        operator: for messages.
        torch_code: our functions.
        on_cuda: ours there, where they differ.
        raw: the layer can hand over raw parts.
        sizes: what a library may refuse (key_dim, value_dim, head_dim, taps, channels).
    """

    def __init__(self, kind: str, operator: str, torch_code: Pair, *, on_cuda: Pair | None = None,
                 raw: bool = False, **sizes: int) -> None:
        self.kind, self.operator, self.raw, self.sizes = CORE_KINDS[kind], operator, raw, sizes
        self._torch = {"cpu": Kernels(*torch_code, "torch"),
                       "cuda": Kernels(*(on_cuda or torch_code), "torch")}
        self.choose("auto")

    def choose(self, backend: str) -> None:
        """Raises OperatorError for an unknown name and for a package that is not installed."""
        if backend not in BACKENDS:
            raise OperatorError(one_of("backend", backend, BACKENDS))
        self.backend = backend
        self._cpu: dict[torch.dtype, Kernels] = {}
        self._cuda: dict[torch.dtype, Kernels] = {}
        if (backend in self.kind.on_cuda and not self.kind.optional
                and (missing := missing_for(backend))):
            raise self._refused(missing, "cpu", torch.float32)

    def of(self, x: Tensor) -> Kernels:
        """What runs for activations like x; raises OperatorError if the chosen library cannot."""
        return (self._cuda if x.is_cuda else self._cpu).get(x.dtype) or self._first(x.is_cuda, x.dtype)

    @torch.compiler.disable
    def _first(self, on_cuda: bool, dtype: torch.dtype) -> Kernels:
        kernels = self.kernels("cuda" if on_cuda else "cpu", dtype)
        (self._cuda if on_cuda else self._cpu)[dtype] = kernels
        return kernels

    def kernels(self, device: str, dtype: torch.dtype) -> Kernels:
        """What runs on that device for activations of that dtype."""
        ours, reason = self._torch.get(device, self._torch["cpu"]), ""
        # a chosen library is tried on every device, so that its refusal is told
        names = self.kind.libraries(device) if self.backend == "auto" else self._chosen(self.backend)
        for name in names:
            reason = self._reason(name, device, dtype)
            if not reason:
                return self._from(LIBRARIES[name], dtype, ours)
        if names and self.backend != "auto" and not self.kind.optional:
            raise self._refused(reason, device, dtype)
        if self.kind is ATTENTION and self.backend not in ("auto", "torch") and device == "cuda":
            return self._from(LIBRARIES["sdpa"], dtype, ours)
        return ours

    def rejected(self, device: str, dtype: torch.dtype) -> dict[str, str]:
        """The libraries that `auto` would rather take there than what runs, with the reason why it does not.
        """
        reasons: dict[str, str] = {}
        for name in self.kind.libraries(device):
            reasons[name] = self._reason(name, device, dtype)
            if not reasons[name]:
                if dtype == torch.float32 and self.kind.name in LIBRARIES[name].rounds:
                    reasons[name] = "it would round float32 to TensorFloat-32"
                break
        return {name: reason for name, reason in reasons.items() if reason}

    def _reason(self, library: str, device: str, dtype: torch.dtype) -> str:
        return LIBRARIES[library].reason(self.kind.name, device, dtype, self.sizes)

    def _chosen(self, backend: str) -> list[str]:
        """The libraries of that choice that have this core, on any device."""
        bundle = BUNDLES.get(backend, (backend,))
        return [name for name in self.kind.on_cuda if name in bundle]

    def _from(self, library: Library, dtype: torch.dtype, ours: Kernels) -> Kernels:
        kind = self.kind.name
        forms = Forms(*library.kernels[kind](dtype))
        forward, step = forms.forward, forms.step
        label = f"{library.name} {library.version()}"
        if self.backend == "auto" and (better := library.on_auto(kind, dtype)) is not None:
            (forward, step), label = better
        if library.name == "sdpa":
            return Kernels(forward, step, label)
        step = without_gradients(step, ours.step)
        forms = forms if self.raw else Forms(forward, step)
        if self.backend == "auto" and dtype == torch.float32 and kind in library.rounds:
            return Kernels(ours.forward, step, f"torch, steps {label}", None, forms.raw_step, forms.inside)
        return Kernels(forward, step, label, *forms[2:], library=library.name)

    def _refused(self, reason: str, device: str, dtype: torch.dtype) -> OperatorError:
        allowed = [name for name in BACKENDS if name != self.backend and (name in ("auto", "torch") or any(
            not self._reason(library, device, dtype) for library in self._chosen(name)))]
        return OperatorError(f"operator {self.operator}: backend {self.backend} cannot run it: {reason};"
                             f" allowed here: {', '.join(allowed)}")


def cores_of(module: nn.Module) -> Iterator[Core]:
    """The cores of a module and of all inside it."""
    for part in module.modules():
        core = getattr(part, "core", None)
        if isinstance(core, Core):
            yield core


def choose_backend(module: nn.Module, backend: str) -> None:
    """Take that backend for every core of the module; raises OperatorError if it does not exist here."""
    if backend not in BACKENDS:
        raise OperatorError(one_of("backend", backend, BACKENDS))
    for core in cores_of(module):
        core.choose(backend)
    # though no core of this module would take it
    if backend in LIBRARIES and (missing := missing_for(backend)):
        raise OperatorError(f"backend {backend}: {missing}")


def missing_for(backend: str) -> str:
    """Why the choice cannot be imported here, or an empty string."""
    reasons = [LIBRARIES[name].missing() for name in EITHER.get(backend, (backend,))]
    return "" if "" in reasons else reasons[-1]


def running(layers: Iterable[tuple[str, nn.Module]], device: str, dtype: torch.dtype) -> dict[str, str]:
    """What computes each kind of operator there, such as {"d": "fla 0.6.0", "f": "torch", "conv": "torch"},
    of layers given with their kinds. Layers of a kind that differ, or have several cores, are joined by " +
    "."""
    running_names: dict[str, dict[str, None]] = {}
    for kind, layer in layers:
        names = running_names.setdefault(kind, {})
        for core in cores_of(layer):
            if not core.kind.around:
                place = running_names.setdefault("conv", {}) if core.kind is CONVOLUTION else names
                place[core.kernels(device, dtype).name] = None
    return {kind: " + ".join(names or ["torch"]) for kind, names in running_names.items()}


def fused_around(layers: Iterable[tuple[str, nn.Module]], device: str, dtype: torch.dtype) -> dict[str, str]:
    """Where norms, gates and time steps around the core of each kind are computed, such as {"gd": "l2 norms,
    beta and decay inside fla 0.6.0; norms by fla 0.6.0"}, for kinds whose core a library computes. Each
    kernel of its own reads and writes memory once more, which decides how fast a step is on a GPU."""
    texts: dict[str, dict[str, None]] = {}
    for kind, layer in layers:
        cores = [(core.kind, core.kernels(device, dtype)) for core in cores_of(layer)
                 if core.kind is not CONVOLUTION]
        norms = dict.fromkeys(kernels.name for core_kind, kernels in cores if core_kind is NORM)
        for core_kind, kernels in cores:
            if core_kind.around or core_kind is ATTENTION or kernels.name == "torch":
                continue
            inside = f"{kernels.inside} inside {kernels.name}" if kernels.inside else "by torch"
            texts.setdefault(kind, {})["; ".join([inside, *(f"norms by {name}" for name in norms)])] = None
    return {kind: " + ".join(parts) for kind, parts in texts.items()}


def installed(backend: str, device: str) -> dict[str, str]:
    """Version of each library that the choice may take on that device and that is installed here, by name."""
    names = [name for name in LIBRARIES if name != "sdpa" and backend != "torch"
             and device in LIBRARIES[name].devices
             and (backend == "auto" or name in BUNDLES.get(backend, (backend,)))]
    return {name: LIBRARIES[name].version() for name in names if not LIBRARIES[name].missing()}
