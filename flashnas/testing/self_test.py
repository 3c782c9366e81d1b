"""Every operator by every backend on one device against the float64 reference, for `flashnas
doctor` and tests/gpu.

A trained layer computes in float32, or in bfloat16 by autocast. A deployed one reads its prompt and
decodes with weights of that dtype. Each case does both, and on CUDA the step once more from a
captured graph.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import FlashnasError
from flashnas.base.system import limit_threads
from flashnas.base.text import first_line
from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import BACKENDS, choose_backend, cores_of
from flashnas.operators.layer import Layer, build_layer
from flashnas.operators.spec import Role
from flashnas.testing.operator import make_inputs, make_layer, run_form, spec_of

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
LONGEST_S = 900  # for one case, most of which Triton may compile
MIN_NORM = 1e-4  # of a gradient that is compared
FORMS = {"output": "forward", "final": "state", "gradient": "backward"}  # of what `run_form` gives


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
            if dtype == "bfloat16" and _routes(layer):
                continue
            try:
                choose_backend(layer, backend)
                names = _names(layer, device, dtype)
            except FlashnasError:
                continue
            if backend in ("auto", "torch") or not names.startswith("torch"):
                cases.setdefault((dtype, names), (backend, dtype))
    return list(cases.values())


def _names(layer: Layer, device: str, dtype: str) -> str:
    """What computes a layer, such as `fla 0.6.0`."""
    names = [core.kernels(device, DTYPES[dtype]).name for core in cores_of(layer)]
    return " + ".join(dict.fromkeys(names)) or "torch"


def choices_of(kind: str, device: str) -> list[dict[str, Any]]:
    """What the backend `auto` takes for that operator: `operator`, `dtype`, `takes` and
    `passes_over` (library -> reason) for each dtype."""
    layer = build_layer(OPERATORS[kind](), HIDDEN)
    return [
        {
            "operator": kind,
            "dtype": name,
            "takes": _names(layer, device, name),
            "passes_over": {
                library: reason
                for core in cores_of(layer)
                for library, reason in core.rejected(device, dtype).items()
            },
        }
        for name, dtype in DTYPES.items()
    ]


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
        runs = _names(layer, device, dtype)
    except FlashnasError as error:
        return replace(test, reason=str(error), status="refused")
    rounds = backend not in ("auto", "torch") and not runs.startswith(("torch", "sdpa"))
    tolerance = ROUNDED if dtype == "bfloat16" else TENSOR_FLOAT32 if rounds else EXACT
    test = replace(test, runs=runs, tolerance=tolerance)
    try:
        x_BTD = make_inputs(tokens, hidden, batch).float().to(device)
        errors, wrong = _errors(layer.to(device), DTYPES[dtype], x_BTD, tolerance)
    except Exception as error:  # a library's own error is what this looks for
        reason = f"{type(error).__name__}: {first_line(error)}"
        return replace(test, reason=reason, status="failed")
    return replace(test, errors=errors, reason=wrong, status="wrong" if wrong else "passed")


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
        try:
            return self._pool.submit(function, *arguments).result(LONGEST_S), ""
        except TimeoutError:
            reason = f"no answer in {LONGEST_S} s"
        except BrokenProcessPool:
            reason = "the process that ran it died"
        self.restart()
        return None, reason

    def restart(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None


def _errors(
    layer: Layer, dtype: torch.dtype, x_BTD: Tensor, tolerance: float
) -> tuple[dict[str, float], str]:
    """The largest error of each form, and the first that is above its tolerance, in words."""
    low = dtype == torch.bfloat16
    if low:  # so that both sides start from the same numbers
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(parameter.bfloat16())
        x_BTD = x_BTD.bfloat16().float()
    exact = copy.deepcopy(layer).double()
    expected = run_form(exact, exact.reference, x_BTD.double(), None, through_state=False)

    def trained(module: Layer) -> dict[str, Tensor]:
        with torch.autocast(x_BTD.device.type, dtype=torch.bfloat16, enabled=low):
            return run_form(module, module.forward, x_BTD, None, through_state=False)

    got, usual = trained(layer), dict[str, Tensor]()
    errors, wrong = dict[str, float](), ""

    def note(form: str, what: str, error: float, allowed: float) -> None:
        nonlocal wrong
        errors[form] = max(errors.get(form, 0.0), error)
        if not wrong and not error <= allowed:  # NaN is wrong
            wrong = f"{form}: the {what} is off by {error:.1e}; {allowed:.0e} is allowed"

    for what, tensor in expected.items():
        error = difference(got[what], tensor)
        form, allowed = FORMS[what.split()[0]], tolerance
        if form == "backward":
            if tensor.norm() <= MIN_NORM:
                continue
            allowed *= GRADIENTS
            if low and not error <= allowed:
                usual = usual or trained(_by_torch(layer))
                allowed = max(allowed, min(TWICE * difference(usual[what], tensor), HIGHEST))
        note(form, what, error, allowed)
    step, captured = _decoded(copy.deepcopy(layer).to(dtype), x_BTD.to(dtype))
    note("step", "output", difference(step, expected["output"][:, -1]), tolerance)
    if captured is not None:
        note("graph", "output", difference(captured, step), REPLAYED)
    return errors, wrong


def _by_torch(layer: Layer) -> Layer:
    """A copy that torch computes."""
    plain = copy.deepcopy(layer)
    choose_backend(plain, "torch")
    return plain


@torch.inference_mode()
def _decoded(layer: Layer, x_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
    """The output of the last token after a prompt of the others, by a step, and by one that is
    replayed from a graph; None where no graph can hold it."""
    batch, tokens, _ = x_BTD.shape

    def step() -> Tensor:
        y_BD, _ = layer.step(x_BTD[:, -1], next(states))
        return y_BD

    states = iter(
        [
            layer(x_BTD[:, :-1])[1]
            if tokens > 1
            else layer.init_state(batch, x_BTD.dtype, x_BTD.device)
            for _ in range(3)
        ]
    )
    output = step()
    return output, replayed(step) if x_BTD.is_cuda and not _routes(layer) else None


def _routes(layer: Layer) -> bool:
    """Whether it has experts: the host sorts their tokens, so that no graph can hold it, and in
    bfloat16 a token near a tie goes to others."""
    return any(tensor.role is Role.ROUTER for tensor in layer.tensors.values())


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


def difference(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the expected norm."""
    wanted = expected.double()
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-6)).item()
