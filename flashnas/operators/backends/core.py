"""Which library computes the core of an operator: the best one that is installed, or the one that the user names.

A core is the one kernel of a layer that libraries compete for: attention, a recurrence, a short convolution. A layer
holds a `Core` and calls `core.of(x).forward(..)` or `.step(..)` in the signature of our torch functions; everything
around it (projections, norms, gates) is torch. The choice is made at the first call on each device and in each dtype.

Choices: `auto` takes the first library of PREFERRED (on a CPU of PREFERRED_ON_CPU) that is installed and takes dtype
and sizes, torch's own code if none does or if it would round float32. A name takes that library wherever it covers the
core, and torch elsewhere (attention on CUDA by scaled_dot_product_attention); what it covers but cannot run is an
error. `core.of(x).name` is what runs.

Some libraries compute norms, gates and time steps inside the kernel of a core. A layer that can hand them over raw
(`Core(.., raw=True)`) then takes `raw_forward` and `raw_step` where they exist; each returns (output, state) with the
output in the dtype of the activations. Their arguments, with q and k not normalised, beta, a and dt as projected, and
parameters as stored (A_log, dt_bias, D):

    delta_rule         q, k, v, beta, scale, state
    gated_delta_rule   q, k, v, beta, a, A_log, dt_bias, scale, state       q and k may have fewer heads than v
    kda                the same with a [.., H, K] and dt_bias [H K]
    gla                q, k, v, g, scale, state                             g: log decays in float32
    dplr               r, k, v, w, rate, gate, k_k, k_a, r_k, weight and bias and eps of the norm, lowest, state
                       all of RWKV7 between its projections, without heads: w and rate before their sigmoids, lowest
                       the least log decay; the output includes the norm, the bonus and the gate
    ssd                q, k, x, dt, dt_bias, dt_min, A_log, D, state        the output includes D x
    selective_scan     x, z, dt, dt_bias, A_log [C, N], D, b, c, state      the output includes D x and silu(z)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError
from flashnas.base.hints import one_of
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.library import Function, Library, Pair, without_gradients, without_graphs

MODULES = {"fla": "fla", "mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d", "flash-attn-3": "flash_attn_3",
           "flash-attn": "flash_attn", "sdpa": "sdpa", "numba": "numba"}
# Best first, on CUDA. The order is that of the libraries' own benchmarks; none of it was measured here.
PREFERRED = {"attention": ("flash-attn-3", "flash-attn", "sdpa"), "ssd": ("mamba-ssm", "fla"),
             "convolution": ("causal-conv1d", "fla"), "selective_scan": ("mamba-ssm",),
             "norm": ("fla", "mamba-ssm"), "token_mix": ("fla",), "swiglu": (), "softmax": (),
             "delta_rule": ("fla",), "gated_delta_rule": ("fla",), "gla": ("fla",), "kda": ("fla",), "dplr": ("fla",)}
PREFERRED_ON_CPU = ("numba",)  # for the cores that it has
# choices that cover two packages: both, or the first that runs
TOGETHER = {"mamba-ssm": ("mamba-ssm", "causal-conv1d"), "flash-attn": ("flash-attn-3", "flash-attn")}
EITHER = {"flash-attn": TOGETHER["flash-attn"]}
SURROUNDING = ("norm", "token_mix", "swiglu", "softmax")  # not told: they go with the recurrences
OPTIONAL = ("convolution", *SURROUNDING)  # cores that fall back to torch where the chosen library does not take them


class Kernels(NamedTuple):
    """What runs for one device and dtype; `name` is for records, such as `fla 0.6.0`."""

    forward: Function
    step: Function
    name: str
    raw_forward: Function | None = None
    raw_step: Function | None = None  # for decoding: it computes no gradients
    inside: str = ""  # what the raw forms compute besides the core


class Core:
    """The choice of one layer. `torch_code`: our functions; `on_cuda`: theirs there, where they differ.

    raw: the layer can hand over raw parts. sizes: what a library may refuse (key_dim, value_dim, head_dim, taps,
    channels).
    """

    def __init__(self, kind: str, operator: str, torch_code: Pair, *, on_cuda: Pair | None = None, raw: bool = False,
                 **sizes: int) -> None:
        self.kind, self.operator, self.raw, self.sizes = kind, operator, raw, sizes
        self._torch = {"cpu": Kernels(*torch_code, "torch"), "cuda": Kernels(*(on_cuda or torch_code), "torch")}
        self.choose("auto")

    def choose(self, backend: str) -> None:
        """Raises OperatorError for an unknown name and for a package that is not installed."""
        if backend not in BACKENDS:
            raise OperatorError(one_of("backend", backend, BACKENDS))
        self.backend = backend
        self._cpu: dict[torch.dtype, Kernels] = {}
        self._cuda: dict[torch.dtype, Kernels] = {}
        wanted = [*self._wanted("cpu"), *self._wanted("cuda")]
        missing = missing_for(backend) if backend in wanted and self.kind not in OPTIONAL else ""
        if missing:
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
        ours = self._torch.get(device, self._torch["cpu"])
        wanted = self._wanted(device)
        reason = ""
        for name in wanted:
            library = load(name)
            reason = library.reason(self.kind, device, dtype, self.sizes)
            if not reason:
                return self._from(library, dtype, ours)
        if wanted and self.backend != "auto" and self.kind not in OPTIONAL:
            raise self._refused(reason, device, dtype)
        if self.kind == "attention" and self.backend not in ("auto", "torch") and device == "cuda":
            return self._from(load("sdpa"), dtype, ours)
        return ours

    def passed_over(self, device: str, dtype: torch.dtype) -> dict[str, str]:
        """The libraries that `auto` would rather take there than what runs, with the reason why it does not."""
        reasons: dict[str, str] = {}
        for name in PREFERRED[self.kind] if device == "cuda" else _on_cpu(self.kind):
            library = load(name)
            reasons[name] = library.reason(self.kind, device, dtype, self.sizes)
            if not reasons[name]:
                rounds = dtype == torch.float32 and self.kind in library.rounds
                reasons[name] = "it would round float32 to TensorFloat-32" if rounds else ""
                break
        return {name: reason for name, reason in reasons.items() if reason}

    def _wanted(self, device: str) -> tuple[str, ...]:
        """The libraries to try, best first. A chosen one is tried on every device, so that its refusal is told."""
        if self.backend == "auto":
            return PREFERRED[self.kind] if device == "cuda" else _on_cpu(self.kind)
        return tuple(name for name in covering(self.kind) if name in TOGETHER.get(self.backend, (self.backend,)))

    def _from(self, library: Library, dtype: torch.dtype, ours: Kernels) -> Kernels:
        forward, step = library.kernels[self.kind](dtype)
        label = f"{library.name} {library.version()}"
        if self.backend == "auto" and (better := library.on_auto(self.kind, dtype)) is not None:
            (forward, step), label = better
        if library.name == "sdpa":
            return Kernels(forward, step, label)
        if library.by_address:
            forward, step = without_graphs(forward, ours.forward), without_graphs(step, ours.step)
        step = without_gradients(step, ours.step)
        raw = library.raw.get(self.kind) if self.raw else None
        raw_forward, raw_step = raw.pair(dtype) if raw else (None, None)
        inside = raw.inside if raw else ""
        if self.backend == "auto" and dtype == torch.float32 and self.kind in library.rounds:
            return Kernels(ours.forward, step, f"torch, steps {label}", None, raw_step, inside)
        return Kernels(forward, step, label, raw_forward, raw_step, inside)

    def _refused(self, reason: str, device: str, dtype: torch.dtype) -> OperatorError:
        allowed = [name for name in BACKENDS if name != self.backend and self._can(name, device, dtype)]
        return OperatorError(f"operator {self.operator}: backend {self.backend} cannot run it: {reason};"
                             f" allowed here: {', '.join(allowed)}")

    def _can(self, backend: str, device: str, dtype: torch.dtype) -> bool:
        names = [name for name in covering(self.kind) if name in TOGETHER.get(backend, (backend,))]
        return backend in ("auto", "torch") or any(
            not load(name).reason(self.kind, device, dtype, self.sizes) for name in names)


def covering(kind: str) -> tuple[str, ...]:
    """The libraries that have a core of that kind, on any device."""
    return (*PREFERRED[kind], *_on_cpu(kind))


def _on_cpu(kind: str) -> tuple[str, ...]:
    return tuple(name for name in PREFERRED_ON_CPU if kind in load(name).kernels)


def load(name: str) -> Library:
    """Our module for that library; the library itself is imported with the first kernel."""
    library: Library = importlib.import_module(f"flashnas.operators.backends.{MODULES[name]}").LIBRARY
    return library


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
    if backend in MODULES and missing_for(backend):  # though no core of this module would take it
        raise OperatorError(f"backend {backend}: {missing_for(backend)}")


def missing_for(backend: str) -> str:
    """Why the choice cannot be imported here, or an empty string."""
    reasons = [load(name).missing() for name in EITHER.get(backend, (backend,))]
    return "" if "" in reasons else reasons[-1]


def running(layers: Iterable[tuple[str, nn.Module]], device: str, dtype: torch.dtype) -> dict[str, str]:
    """What computes each kind of operator there, such as {"d": "fla 0.6.0", "f": "torch", "conv": "torch"}, of layers
    given with their kinds. Layers of a kind that differ, or have several cores, are joined by " + "."""
    found: dict[str, dict[str, None]] = {}
    for kind, layer in layers:
        names = found.setdefault(kind, {})
        for core in cores_of(layer):
            if core.kind in SURROUNDING:
                continue
            place = found.setdefault("conv", {}) if core.kind == "convolution" else names
            place[core.kernels(device, dtype).name] = None
    return {kind: " + ".join(names or ["torch"]) for kind, names in found.items()}


def surrounding(layers: Iterable[tuple[str, nn.Module]], device: str, dtype: torch.dtype) -> dict[str, str]:
    """Where norms, gates and time steps around the core of each kind are computed, such as {"gd": "l2 norms, beta and
    decay inside fla 0.6.0; norms by fla 0.6.0"}, for kinds whose core a library computes. Each kernel of its own reads
    and writes memory once more, which decides how fast a step is on a GPU."""
    found: dict[str, dict[str, None]] = {}
    for kind, layer in layers:
        cores = [(core, core.kernels(device, dtype)) for core in cores_of(layer) if core.kind != "convolution"]
        norms = dict.fromkeys(kernels.name for core, kernels in cores if core.kind == "norm")
        for core, kernels in cores:
            if core.kind in SURROUNDING or core.kind == "attention" or kernels.name == "torch":
                continue
            inside = f"{kernels.inside} inside {kernels.name}" if kernels.inside else "by torch"
            found.setdefault(kind, {})["; ".join([inside, *(f"norms by {name}" for name in norms)])] = None
    return {kind: " + ".join(texts) for kind, texts in found.items()}


def installed(backend: str, device: str) -> dict[str, str]:
    """Version of each library that the choice may take on that device and that is installed here, by name."""
    names = [name for name in MODULES if name != "sdpa" and backend != "torch" and device in load(name).devices
             and (backend == "auto" or name in TOGETHER.get(backend, (backend,)))]
    return {name: load(name).version() for name in names if not load(name).missing()}
