"""The Triton kernels of fla that our layers launch, without a GPU: run by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # reason: the interpreter takes its time over each program
def test_interpreted_kernels_equal_the_reference():
    """In a process of its own: Triton reads the variable when it is imported."""
    for name in ("triton", "fla"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[dev]'")
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/interpreted_kernels.py")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "FLA_USE_COMPILE": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert child.returncode == 0, child.stderr[-2000:]
    expected = ["d", "d steps", "gd", "gd steps", "r7", "r7 steps"]
    assert child.stdout.splitlines() == expected
