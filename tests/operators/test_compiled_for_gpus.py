"""The Triton kernels that our layers launch, without a GPU: compiled for three of them, and run by
the interpreter.
"""

import csv
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import compile_kernels
import gpu_bundle
import pytest

ROOT = Path(__file__).parents[2]
COMPILED_S = 1.2  # for one configuration, on one core
TIMED_S = 0.2  # of a GPU, by Triton's autotuner
FEW_CORES = 4  # that compile, of the machines that have a GPU
SOURCES = os.environ.get(
    "FLASHNAS_MAMBA_SSM", ""
)  # unpacked sources of mamba-ssm, which has no wheel for a CPU


def needs_libraries():
    for name in ("triton", "fla"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[dev]'")


@pytest.mark.slow  # reason: compilers
def test_every_kernel_compiles_and_fits(tmp_path):
    """One configuration for each, of an operator that shares most of its kernels with others; for
    the least memory, and for ours: the published file has all targets."""
    needs_libraries()
    asked = "--targets 90 121 --once --operators gd --widths 2048 --out"
    words = [sys.executable, str(ROOT / "tools/compile_kernels.py"), *asked.split()]
    words += [str(tmp_path / "kernels.csv"), *(("--mamba-ssm", SOURCES) if SOURCES else ())]
    child = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)},
    )
    rows = list(csv.DictReader((tmp_path / "kernels.csv").read_text().splitlines()))
    assert [row for row in rows if row["error"]] == []
    assert child.returncode == 0, child.stderr[-2000:]
    assert min(Counter(row["target"] for row in rows).values()) > 8


@pytest.mark.slow  # reason: the interpreter takes its time over each program
def test_interpreted_kernels_equal_the_reference():
    """In a process of its own: Triton reads the variable when it is imported."""
    needs_libraries()
    script = ROOT / "tests/helpers/interpreted_kernels.py"
    child = subprocess.run(
        [sys.executable, str(script), *([SOURCES] if SOURCES else [])],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "FLA_USE_COMPILE": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}",
        },
    )
    assert child.returncode == 0, child.stderr[-2000:]
    expected = ["d", "d steps", "gd", "gd steps", "r7", "r7 steps"]
    assert child.stdout.splitlines() == expected + (["m2 steps"] if SOURCES else [])


@pytest.mark.slow  # reason: walks through layers at five sizes
def test_what_the_tests_of_a_gpu_compile_fits_their_time():
    """Each width and head size is a further set of kernels, in all configurations of the
    autotuner."""
    needs_libraries()
    spec = importlib.util.spec_from_file_location("shapes", ROOT / "tests/gpu/test_device_paths.py")
    shapes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shapes)
    usual = [f"{kind} 256" for kind in compile_kernels.OPERATORS]
    others = [f"{kind} {width}" for width in shapes.WIDTHS for kind in compile_kernels.OPERATORS]
    others += [f"{heads.format(size)} 256" for size in shapes.HEAD_SIZES for heads in shapes.HEADS]
    counts = configurations([*usual, *others])
    count = counts[len(usual) - 1] + counts[-1]  # the usual ones in two dtypes
    limits = {step.name: step.limit_s for step in gpu_bundle.steps("cuda", ROOT / "run")}
    assert count > 1000
    assert count * COMPILED_S / FEW_CORES < limits["warm_up"]
    assert count * TIMED_S < limits["tests"] / 2


def configurations(cases):
    """How many the autotuner would try for the first of these layers, for two, and so on."""
    words = [sys.executable, str(ROOT / "tests/helpers/count_configurations.py"), *cases]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}
    child = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr[-2000:]
    return [int(line) for line in child.stdout.splitlines()[-len(cases) :]]


def test_the_published_kernels_are_of_every_target_and_operator():
    rows = list(csv.DictReader((ROOT / "benchmarks/results/kernels.csv").read_text().splitlines()))
    assert {(row["target"], row["operator"]) for row in rows} >= {
        (f"sm_{target}", operator)
        for target in compile_kernels.LIMITS
        for operator in compile_kernels.OPERATORS
    }
    wide = {row["target"] for row in rows if "head_dim=256" in row["operator"]}
    assert wide == {"sm_89", "sm_120"}, "those with the least memory"
    assert [row for row in rows if row["error"]] == []
