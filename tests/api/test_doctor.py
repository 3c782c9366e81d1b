"""`flashnas doctor`: what it finds, its text, its file and its exit code."""

import re
import shlex

import pytest
import torch

import flashnas as fn
from flashnas.cli.main import main
from flashnas.testing.self_test import LayerTest


@pytest.fixture
def self_test(monkeypatch):
    """Sets the results of the self-test of the operators; `progress` hears of them."""

    def give(*results):
        monkeypatch.setattr(
            "flashnas.testing.self_test.self_test",
            lambda kinds, device, on_result: [
                on_result(test) or test
                for test in results
                if test.operator in kinds and device == "cpu"
            ],
        )

    return give


def test_it_tells_machine_packages_choices_and_tests(self_test):
    seen = []
    passed = [
        LayerTest(operator="f", backend="torch", dtype=dtype, status="passed")
        for dtype in ("float32", "bfloat16")
    ]
    self_test(*passed)
    found = fn.doctor(
        device="cpu",
        operators=["f"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found.healthy
    assert {(test["operator"], test["dtype"], test["status"]) for test in found.tests} == {
        ("f", "float32", "passed"),
        ("f", "bfloat16", "passed"),
    }
    assert seen == [(0, 1), (0, 1), (1, 1)]
    text = str(found)
    for word in (
        "cpu: ",
        "mamba-ssm               not installed",
        "gguf",
        "xllamacpp",
        "feed-forward",
        "self-test: 2 of 2 passed",
    ):
        assert word in text


def test_a_wrong_operator_ends_with_exit_code_1(self_test, capsys):
    wrong = LayerTest(
        operator="d",
        backend="fla",
        runs="fla 0.6.0",
        dtype="bfloat16",
        errors={"forward": 0.5},
        tolerance=0.03,
        reason="forward: the output is off by 5.0e-01; 3e-02 is allowed",
        status="wrong",
    )
    refused = LayerTest(
        operator="a", backend="flash-attn", dtype="float32", reason="no float32", status="refused"
    )
    self_test(wrong, refused)
    assert main(shlex.split("doctor --device cpu --operators d,a")) == 1
    out = capsys.readouterr().out
    assert "self-test: 0 of 1 passed" in out
    assert (
        "d by fla 0.6.0 in bfloat16, wrong: forward: the output is off by 5.0e-01; 3e-02 is allowed"
        in out
    )
    self_test(refused)
    assert fn.doctor(device="cpu", operators=["a"]).healthy


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds the device")
def test_a_driver_without_a_device_for_torch_is_a_problem(self_test, tmp_path, monkeypatch, capsys):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Mon\n")
    monkeypatch.setattr("flashnas.profiling.platforms.NVIDIA_DRIVER", driver)
    self_test(LayerTest(operator="f", backend="torch", dtype="float32"))
    assert main(shlex.split("doctor --operators f")) == 1
    words = "no CUDA device, though a driver is loaded: torch .* driver is 570.86.15, .* raises "
    assert re.search(words, capsys.readouterr().out)
    assert main(shlex.split("doctor --operators f --device cpu")) == 0, "as it was asked for"
    monkeypatch.setattr("flashnas.profiling.platforms.NVIDIA_DRIVER", tmp_path / "none")
    assert main(shlex.split("doctor --operators f")) == 0
