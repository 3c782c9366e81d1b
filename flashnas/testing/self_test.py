"""Every operator by every backend on one device against the float64 reference, for `flashnas
doctor` and tests/gpu.

A trained layer computes in float32, or in bfloat16 by autocast. A deployed one reads its prompt and
decodes with weights of that dtype. Each case does both, and on CUDA the step once more from a
captured graph.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import FlashnasError
from flashnas.base.system import limit_threads
from flashnas.base.text import first_line
from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import BACKENDS, choose_backend, cores_of
from flashnas.operators.layer import Layer, build_layer
from flashnas.testing.operator import make_inputs, make_layer, spec_of
from flashnas.testing.states import state_tensors

HIDDEN = 256
TOKENS = 270  # more than the largest chunk of a library, and not a multiple of the smallest
BATCH = 2
NOISE = 0.1  # on norms and biases; with more, gradients in bfloat16 are ill-conditioned
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EXACT = 2e-4  # relative error allowed in float32
TENSOR_FLOAT32 = 5e-3  # where a chosen library multiplies float32 in TensorFloat-32
ROUNDED = 3e-2  # in bfloat16
REPLAYED = 1e-2  # of a captured step, against the same step
GRADIENTS = 3  # times the tolerance of outputs are allowed in gradients
# in bfloat16 also twice what torch's own code shows, where a gradient is a small difference
TWICE, HIGHEST = 2, 0.3
LONGEST_S = 300  # for one case, from its start or from the last kernel that Triton compiled
LOOK_S = 5.0  # between looks for a new kernel
MIN_NORM = 1e-4  # of a gradient that is compared


@dataclass(frozen=True, kw_only=True)
class LayerTest:
    """One operator by one backend in one dtype.

    runs: what computed it, such as "fla 0.6.0"; empty if nothing did. errors: form -> the largest
    relative error against the reference: forward, state, backward, step, and graph where steps are
    captured. tolerance: of forward, state and step; `GRADIENTS` times as much is allowed in
    gradients. reason: why it was refused or what went wrong. status: passed; wrong, an error above
    its tolerance; failed, an exception; refused by the backend.
    """

    operator: str
    backend: str
    runs: str = ""
    dtype: str
    errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = 0.0
    reason: str = ""
    status: str = "passed"


def layer_cases(kind: str, device: str) -> list[tuple[str, str]]:
    """(backend, dtype) for what may compute that operator on that device, also backends that refuse
    the case; the ones that do the same are named once."""
    cases: dict[tuple[str, str], tuple[str, str]] = {}
    for dtype in DTYPES:
        for backend in BACKENDS:
            layer = build_layer(OPERATORS[kind](), HIDDEN)
            try:
                choose_backend(layer, backend)
                names = [core.kernels(device, DTYPES[dtype]).name for core in cores_of(layer)]
            except FlashnasError:
                continue
            except Exception as error:  # a broken library: `check_layer` says so
                cases.setdefault((dtype, _line(error)), (backend, dtype))
                continue
            if backend in ("auto", "torch") or not all(name.startswith("torch") for name in names):
                cases.setdefault((dtype, repr(names)), (backend, dtype))
    return list(cases.values())


def choices_of(kind: str, device: str) -> list[dict[str, Any]]:
    """What the backend `auto` takes for that operator: `operator`, `dtype`, `takes` ("nothing"
    where a library raises) and `passes_over` (library -> reason) for each dtype."""
    cores = list(cores_of(build_layer(OPERATORS[kind](), HIDDEN)))
    found = []
    for name, dtype in DTYPES.items():
        taken: dict[str, None] = {}
        passed: dict[str, str] = {}
        for core in cores:
            try:
                passed.update(core.rejected(device, dtype))
                taken[core.kernels(device, dtype).name] = None
            except Exception as error:  # what is installed may raise anything
                library = error.name if isinstance(error, ImportError) else None
                passed[library or core.kind] = _line(error)
                taken["nothing"] = None
        found.append(
            {
                "operator": kind,
                "dtype": name,
                "takes": " + ".join(taken) or "torch",
                "passes_over": passed,
            }
        )
    return found


def check_layer(
    operator: str,
    backend: str,
    dtype: str,
    device: str = "cpu",
    tokens: int = TOKENS,
    *,
    hidden: int = HIDDEN,
    batch: int = BATCH,
) -> LayerTest:
    """Run one case; what goes wrong is in the result. operator: short name, for its defaults, or
    notation. tokens: the last one is decoded, too."""
    spec = OPERATORS[operator]() if operator in OPERATORS else spec_of(operator)
    test = LayerTest(operator=operator, backend=backend, dtype=dtype)
    try:
        layer = make_layer(spec, hidden, torch.float32, NOISE)
        choose_backend(layer, backend)
        names = [core.kernels(device, DTYPES[dtype]).name for core in cores_of(layer)]
    except FlashnasError as error:
        return replace(test, reason=str(error), status="refused")
    except Exception as error:  # an installed library that cannot be imported as it should
        return replace(test, reason=_line(error), status="failed")
    runs = " + ".join(dict.fromkeys(names)) or "torch"
    rounds = backend not in ("auto", "torch") and not runs.startswith(("torch", "sdpa"))
    tolerance = ROUNDED if dtype == "bfloat16" else TENSOR_FLOAT32 if rounds else EXACT
    test = replace(test, runs=runs, tolerance=tolerance)
    try:
        x_BTD = make_inputs(tokens, hidden, batch).float().to(device)
        errors, wrong = _errors(layer.to(device), DTYPES[dtype], x_BTD, tolerance)
    except Exception as error:  # a library's own error is what this looks for
        return replace(test, reason=_line(error), status="failed")
    return replace(test, errors=errors, reason=wrong, status="wrong" if wrong else "passed")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def self_test(
    kinds: Iterable[str],
    device: str,
    on_result: Callable[[LayerTest], None] | None = None,
) -> list[LayerTest]:
    """Run all cases of the operators in a process of their own, a fresh one after a case that ends
    it or leaves the device in an unusable state."""
    results = []
    pool = _Process()
    try:
        for kind in kinds:
            cases, unlisted = pool.call(layer_cases, kind, device)
            for backend, dtype in cases or [("auto", "float32")]:
                result, reason = None, f"its cases: {unlisted}"
                if not unlisted:
                    result, reason = pool.call(check_layer, kind, backend, dtype, device)
                result = result or LayerTest(
                    operator=kind, backend=backend, dtype=dtype, reason=reason, status="failed"
                )
                if result.status == "failed":
                    pool.restart()
                results.append(result)
                if on_result:
                    on_result(result)
    finally:
        pool.restart()
    return results


class _Process:
    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
        """What it returns and an empty text, or None and why there is no answer."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), limit_threads, (1,)
            )
        answer = self._pool.submit(function, *arguments)
        kernels, since = _kernels(), time.monotonic()
        while not wait([answer], LOOK_S).done:
            if (now := _kernels()) != kernels:
                kernels, since = now, time.monotonic()
            elif time.monotonic() - since > LONGEST_S:
                self.restart()
                return None, f"no answer and no new kernel in {LONGEST_S} s"
        try:
            return answer.result(), ""
        except BrokenProcessPool:
            self.restart()
            return None, "the process that ran it died"

    def restart(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None


def _kernels() -> int:
    """A number that changes with each kernel that Triton compiles, which makes a folder in its
    cache.
    """
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    try:
        return cache.stat().st_mtime_ns
    except OSError:  # nothing is compiled yet
        return 0


def _errors(
    layer: Layer,
    dtype: torch.dtype,
    x_BTD: Tensor,
    tolerance: float,
) -> tuple[dict[str, float], str]:
    device, (batch, tokens, _) = x_BTD.device, x_BTD.shape
    if dtype == torch.bfloat16:  # so that both sides start from the same numbers
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(parameter.bfloat16())
        x_BTD = x_BTD.bfloat16().float()
    exact = copy.deepcopy(layer).double()
    counted_BT1 = _same_choice(layer, x_BTD, dtype)
    expected_x = x_BTD.double().requires_grad_()
    expected, expected_state = exact.reference(expected_x)
    weight_BTD = torch.randn(
        expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    weight_BTD = weight_BTD.to(device) * counted_BT1
    leaves = [expected_x, *exact.parameters()]
    right = torch.autograd.grad((expected * weight_BTD).sum(), leaves, allow_unused=True)
    names = ["the input", *(name for name, _ in layer.named_parameters())]
    found: list[tuple[str, str, float, float]] = []  # form, what, error, allowed

    def gradient_errors(module: Layer) -> tuple[Tensor, Any, dict[str, float]]:
        leaf = x_BTD.clone().requires_grad_()
        # as in training
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, state = module(leaf)
        got = torch.autograd.grad(
            (y.double() * weight_BTD).sum(), [leaf, *module.parameters()], allow_unused=True
        )
        return (
            y.detach(),
            state,
            {
                name: difference(torch.zeros_like(wanted) if gradient is None else gradient, wanted)
                for name, gradient, wanted in zip(names, got, right, strict=True)
                if wanted is not None and wanted.norm() > MIN_NORM
            },
        )

    y, state, gradients = gradient_errors(layer)
    found.append(
        ("forward", "the output", difference(y * counted_BT1, expected * counted_BT1), tolerance)
    )
    pairs = zip(state_tensors(state), state_tensors(expected_state), strict=True)
    for number, (got, wanted) in enumerate(pairs):
        found.append(("state", f"final state {number}", difference(got, wanted), tolerance))
    usual: dict[str, float] = {}
    if dtype == torch.bfloat16 and not all(
        error <= GRADIENTS * tolerance for error in gradients.values()
    ):
        plain = copy.deepcopy(layer)
        choose_backend(plain, "torch")
        usual = gradient_errors(plain)[2]
    for name, error in gradients.items():
        allowed = max(GRADIENTS * tolerance, min(TWICE * usual.get(name, 0.0), HIGHEST))
        found.append(("backward", f"the gradient of {name}", error, allowed))

    deployed, prompt_BTD = copy.deepcopy(layer).to(dtype), x_BTD.to(dtype)
    with torch.inference_mode():
        states = [
            deployed(prompt_BTD[:, :-1])[1]
            if tokens > 1
            else deployed.init_state(batch, dtype, device)
            for _ in range(3 if device.type == "cuda" else 1)
        ]
        last, _ = deployed.step(prompt_BTD[:, -1], states[0])
        counted_B1 = counted_BT1[:, -1]
        error = difference(last * counted_B1, expected[:, -1] * counted_B1)
        found.append(("step", "the output", error, tolerance))
        if device.type == "cuda" and not hasattr(
            layer, "router"
        ):  # the host sorts the tokens of experts
            unused = iter(states[1:])
            captured = replayed(lambda: deployed.step(prompt_BTD[:, -1], next(unused))[0])
            found.append(("graph", "the output", difference(captured, last), REPLAYED))
    errors: dict[str, float] = {}
    wrong = ""
    for form, what, error, allowed in found:
        errors[form] = max(errors.get(form, 0.0), error)
        if not wrong and not error <= allowed:  # NaN is wrong
            wrong = f"{form}: {what} is off by {error:.1e}; {allowed:.0e} is allowed"
    return errors, wrong


def replayed(call: Callable[[], Tensor]) -> Tensor:
    """What the call returns when it is replayed from a CUDA graph; one call before it tunes the
    kernels.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    graph.replay()
    torch.cuda.synchronize()
    return captured.clone()


def _same_choice(layer: Layer, x_BTD: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, 1]: 1 for tokens that a layer with experts sends to the same ones in the dtype."""
    router = getattr(layer, "router", None)
    if router is None or dtype != torch.bfloat16:
        return x_BTD.new_ones(*x_BTD.shape[:2], 1)
    with torch.no_grad():
        logits = (
            copy.deepcopy(router).to(precision)(x_BTD.to(precision))
            for precision in (dtype, torch.float64)
        )
        first, second = (x.topk(layer.active, -1).indices.sort(-1).values for x in logits)
    return (first == second).all(-1, keepdim=True).to(x_BTD.dtype)


def difference(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the expected norm."""
    wanted = expected.double()
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-6)).item()
