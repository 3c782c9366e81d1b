"""The Triton kernels that our layers launch, without a GPU: compiled for three of them, and run by
the interpreter.
"""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import compile_kernels
import pytest

ROOT = Path(__file__).parents[2]
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
