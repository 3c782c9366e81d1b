"""tools/gpu_bundle.sh keeps steps that fail or are interrupted, and what passed."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flashnas.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("signals_heard")]
ROOT = Path(__file__).parents[1]
SMALL = "template: served\nfamilies: [granite]\nvocab: 320\nparams: 1M..40M\nlayers: [4, 9]\n"


@pytest.fixture
def start(tmp_path):
    """Starts the script with a vLLM, or for a device."""
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "vllm").mkdir()
    places = {"OUT": f"{tmp_path}/run", "BUNDLE": f"{tmp_path}/b.zip", "PYTHON": sys.executable}
    asked = {"FAMILIES": f"{tmp_path}/small.yaml", "VALIDATED": "3"}

    def begin(*words, **more):
        return subprocess.Popen(
            ["tools/gpu_bundle.sh", *words],
            cwd=ROOT,
            env={**os.environ, **places, **asked, **more},
            stdout=subprocess.PIPE,
            text=True,
        )

    return begin


def steps_of(folder):
    """The steps of the bundle in a folder, and what each came to."""
    with zipfile.ZipFile(folder / "b.zip") as archive:
        lines = archive.read("steps.txt").decode().splitlines()
        assert str(ROOT).encode() not in b"".join(map(archive.read, archive.namelist()))
    return {line.split()[0]: line.split()[1] for line in lines}


def test_what_fails_is_kept_and_run_again_until_it_passes(start, tmp_path):
    """In the end by the stand-in for vLLM, on the CPU that it runs on."""
    failing = start("vllm", "/bin/false")
    assert failing.wait() == 1
    found = {"install": "passed", "profile_small": "failed", "validate_small": "failed"}
    assert steps_of(tmp_path) == found
    stand_in = f"{ROOT}/tests/helpers/fake_vllm"
    again = start("vllm", sys.executable, PYTHONPATH=stand_in)
    printed, _ = again.communicate()
    assert again.returncode == 0, printed
    assert "install passed before" in printed
    assert set(steps_of(tmp_path).values()) == {"passed"}
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path / "files")
    assert main(["table", "info", str(tmp_path / "files/small")]) == 0


def test_ctrl_c_ends_a_step_and_leaves_the_file(start, tmp_path):
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec cat\n")
    hanging.chmod(0o755)
    run = start("vllm", str(hanging))
    assert any(line.startswith("profile_small") for line in run.stdout)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait() == 130
    assert steps_of(tmp_path) == {"install": "passed", "profile_small": "interrupted"}


def test_without_a_product_on_the_device_the_run_ends_and_nothing_else_is_touched(start, tmp_path):
    broken = start("cuda", CUDA_VISIBLE_DEVICES="")
    printed, _ = broken.communicate()
    assert broken.returncode == 1
    assert "install the torch of the driver: pip install" in printed
    assert steps_of(tmp_path) == {"install": "passed", "product": "failed"}
    other = start("cuda", OUT=str(tmp_path))
    assert other.wait() == 2
    assert (tmp_path / "small.yaml").exists()
