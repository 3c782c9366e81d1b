"""Every operator on a CUDA device that computes nothing, of tensors without memory: what a CPU takes
otherwise, such as a tensor on another device or a look at a value, is an error there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layer_cases import LAYERED

HELPERS = Path(__file__).parents[1] / "helpers"
TORCH = Path(torch.__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
pytestmark = [
    pytest.mark.slow,  # reason: a C++ compiler, and torch's own Python code for each operation
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: install g++"),
    pytest.mark.skipif(
        torch.version.cuda is not None, reason="torch has the CUDA device of its own"
    ),
]


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A library that gives torch the device, if it is loaded first."""
    library = tmp_path_factory.mktemp("device") / "fake_cuda.so"
    links = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"]
    words = [COMPILER, "-std=c++20", "-shared", "-fPIC", f"-I{TORCH / 'include'}"]
    words += [str(HELPERS / "fake_cuda.cpp"), *links, "-o", str(library)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return library


def test_every_operator_trains_and_decodes_on_a_cuda_device(device):
    """`moe` apart: its host sorts tokens by values, which these tensors do not have."""
    dtypes = ["float32", "bfloat16"]  # in one process, which imports for seconds
    child = subprocess.run(
        [sys.executable, str(HELPERS / "on_fake_cuda.py"), *dtypes],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(device), "PYTHONPATH": f"{HELPERS.parents[1]}"},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    expected = [f"{kind} {dtype}" for dtype in dtypes for kind in LAYERED if kind != "moe"]
    assert child.stdout.splitlines() == expected
