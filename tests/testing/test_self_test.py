"""The self-test of operators: it passes what is right, and names what is wrong, raises or dies."""

import dataclasses
import os
import time

import fake_libraries
import pytest
from layer_cases import LAYERED

from flashnas.operators.backends import core
from flashnas.operators.delta_layer import DeltaNetLayer
from flashnas.testing import self_test
from flashnas.testing.self_test import check_layer, choices_of, layer_cases

TOKENS = 70


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("d", "moe") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in LAYERED
    ],
)  # their kernels have fast tests of their own
def test_every_operator_passes_by_all_that_computes_it_here(kind):
    cases = layer_cases(kind, "cpu")
    assert {dtype for _, dtype in cases} == {"float32", *(["bfloat16"] if kind != "moe" else [])}
    for backend, dtype in cases:
        result = check_layer(kind, backend, dtype, tokens=TOKENS)
        assert (result.status, result.reason) == ("passed", "")
        assert set(result.errors) >= {"forward", "backward", "step"}
        assert 0 < max(result.errors.values()) < 0.3


def test_what_computes_the_same_is_one_case():
    assert layer_cases("d", "cpu") == [("auto", "float32"), ("auto", "bfloat16")]


@pytest.mark.parametrize(
    ("share", "status", "word"),
    [
        (1.0, "passed", ""),
        (1.001, "wrong", "forward: the output is off"),
        (float("nan"), "wrong", "off by nan"),
    ],
)
def test_a_kernel_that_is_off_is_wrong(share, status, word, monkeypatch):
    right, step = DeltaNetLayer.rules

    def off(*arguments):
        o, state = right(*arguments)
        return o * share, state

    monkeypatch.setattr(DeltaNetLayer, "rules", (off, step))
    result = check_layer("d", "torch", "float32", tokens=TOKENS)
    assert result.status == status
    assert word in result.reason


def test_wrong_gradients_alone_are_found(monkeypatch):
    right, step = DeltaNetLayer.rules

    def detached(q, k, v, beta, g, state):
        return right(q, k, v, beta.detach() + 0 * beta, g, state)

    fake_libraries.install(monkeypatch, devices=("cpu",))
    library = core.LIBRARIES["fla"]
    monkeypatch.setitem(
        core.LIBRARIES,
        "fla",
        dataclasses.replace(
            library, kernels={**library.kernels, "delta_rule": lambda dtype: (detached, step)}
        ),
    )
    for dtype in ("float32", "bfloat16"):  # in bfloat16 torch's own errors are allowed
        result = check_layer("d", "fla", dtype, tokens=TOKENS)
        assert result.status == "wrong"
        assert result.reason.startswith("backward: the gradient of ")
        assert result.errors["forward"] < 0.01


def test_a_kernel_that_raises_has_failed(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(DeltaNetLayer, "rules", (broken, broken))
    result = check_layer("d", "torch", "float32", tokens=TOKENS)
    assert (result.status, result.reason) == (
        "failed",
        "RuntimeError: no kernel image is available",
    )


def test_a_backend_that_refuses_is_told():
    result = check_layer("d", "fla", "float32", tokens=TOKENS)
    assert result.status == "refused"
    assert "backend fla cannot" in result.reason


def end(kind, device):
    os._exit(3)


def hang(kind, device):
    time.sleep(60)


@pytest.mark.parametrize(
    ("body", "reason"), [(end, "the process that ran it died"), (hang, "no answer in 0.2 s")]
)
def test_an_operator_that_ends_the_process_or_hangs_has_failed_and_the_next_is_tested(
    monkeypatch, body, reason
):
    monkeypatch.setattr(self_test, "check_kind", body)
    monkeypatch.setattr(self_test, "LONGEST_S", 0.2 if body is hang else 60)
    heard = []
    results = self_test.self_test(["f", "a"], "cpu", heard.append)
    assert heard == results
    assert [(test.operator, test.status, test.reason) for test in results] == [
        ("f", "failed", reason),
        ("a", "failed", reason),
    ]


def test_the_choice_and_what_it_passes_over():
    assert {choice["takes"] for choice in choices_of("d", "cpu")} == {"torch"}
    on_cuda = choices_of("m2", "cuda")
    assert {choice["dtype"] for choice in on_cuda} == {"float32", "bfloat16"}
    assert all(
        "mamba-ssm is not installed" in choice["passes_over"]["mamba-ssm"] for choice in on_cuda
    )
