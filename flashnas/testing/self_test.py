"""Every operator by every backend on one device against the float64 reference, for `flashnas
doctor` and tests/gpu: each case is `compare` of forms.py."""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flashnas.base.errors import FlashnasError
from flashnas.base.system import limit_threads
from flashnas.base.text import first_line
from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import BACKENDS, choose_backend, cores_of, running
from flashnas.operators.layer import Layer, build_layer
from flashnas.testing.forms import (
    BATCH,
    NOISE,
    TOLERANCES,
    compare,
    make_inputs,
    make_layer,
)
from flashnas.testing.operator import spec_of

HIDDEN = 256
TOKENS = 270  # more than the largest chunk of a library, and not a multiple of the smallest
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TENSOR_FLOAT32 = 5e-3  # allowed where a chosen library multiplies float32 in TensorFloat-32
LONGEST_S = 3600  # for one operator, most of which Triton may compile


@dataclass(frozen=True, kw_only=True)
class LayerTest:
    """One operator by one backend in one dtype.

    runs: what computed it, such as "fla 0.6.0"; empty if nothing did. errors: form -> the largest
    relative error against the reference, as of `compare`. tolerance: of forward, state and step;
    `GRADIENTS` times as much is allowed in gradients. reason: why it was refused or what went
    wrong. status: passed; wrong, an error above its tolerance; failed, an exception; refused by the
    backend.
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
            if dtype == "bfloat16" and layer.routes:
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
    """What computes a layer, such as `fla 0.6.0`, or `fla 0.6.0, gradients by torch`."""
    used, trained = (
        running([("", layer)], device, DTYPES[dtype], gradients)[""] for gradients in (False, True)
    )
    return used if used == trained else f"{used}, gradients by {trained}"


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
                for library, reason in core.rejected(device, dtype, gradients=True).items()
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
    tolerance = TENSOR_FLOAT32 if rounds and dtype == "float32" else TOLERANCES[DTYPES[dtype]]
    test = replace(test, runs=runs, tolerance=tolerance)
    try:
        x_BTD = make_inputs(tokens, hidden, batch).float().to(device)
        errors, wrong = compare(layer.to(device), DTYPES[dtype], x_BTD, tolerance)
    except Exception as error:  # a library's own error is what this looks for
        reason = f"{type(error).__name__}: {first_line(error)}"
        return replace(test, reason=reason, status="failed")
    return replace(test, errors=errors, reason=wrong, status="wrong" if wrong else "passed")


def check_kind(kind: str, device: str) -> list[LayerTest]:
    """All cases of an operator."""
    return [
        check_layer(kind, backend, dtype, device) for backend, dtype in layer_cases(kind, device)
    ]


def self_test(
    kinds: Iterable[str], device: str, on_result: Callable[[LayerTest], None]
) -> list[LayerTest]:
    """Run all cases of the operators in a process of their own, a fresh one after an operator that
    ends it or leaves the device in an unusable state."""
    results: list[LayerTest] = []
    pool = None
    for kind in kinds:
        pool = pool or ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), limit_threads, (1,)
        )
        reason = "the process that ran it died"
        try:
            found = pool.submit(check_kind, kind, device).result(LONGEST_S)
        except (BrokenProcessPool, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                reason = f"no answer in {LONGEST_S} s"
            failed = LayerTest(operator=kind, backend="auto", dtype="float32", status="failed")
            found = [replace(failed, reason=reason)]
        if any(test.status == "failed" for test in found):
            _stop(pool)
            pool = None
        for test in found:
            on_result(test)
        results += found
    if pool is not None:
        _stop(pool)
    return results


def _stop(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
