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
    words = [
        sys.executable,
        str(ROOT / "tools/compile_kernels.py"),
        "--targets",
        "80",
        "90",
        "--once",
        "--operators",
        "gd",
        "--widths",
        "2048",
        "--out",
        str(tmp_path / "kernels.csv"),
        *(("--mamba-ssm", SOURCES) if SOURCES else ()),
    ]
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
def test_chunk_kernels_equal_the_reference():
    needs_libraries()
    script = ROOT / "tests/helpers/interpreted_chunks.py"
    words = [sys.executable, str(script), *([SOURCES] if SOURCES else [])]
    child = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "FLA_USE_COMPILE": "0",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}",
        },
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.splitlines() == [
        "chunks of gated_delta_rule",
        "chunks of delta_rule",
        *(["state update"] if SOURCES else []),
    ]


def test_the_published_kernels_are_of_every_target_and_operator():
    rows = list(csv.DictReader((ROOT / "benchmarks/results/kernels.csv").read_text().splitlines()))
    assert {(row["target"], row["operator"]) for row in rows} == {
        (f"sm_{target}", operator)
        for target in compile_kernels.LIMITS
        for operator in compile_kernels.OPERATORS
    }
    assert [row for row in rows if row["error"]] == []
