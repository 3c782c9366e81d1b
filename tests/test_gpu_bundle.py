"""tools/gpu_bundle.py keeps steps that fail, exceed their limit or are interrupted;
read_gpu_bundle.py reads all.
"""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from unittest import mock

import gpu_bundle
import gpu_steps
import pytest
import read_gpu_bundle
import torch
from gpu_bundle import PYTHON, Step

from flashnas.cli.main import main

pytestmark = pytest.mark.usefixtures("signals_heard")


@pytest.fixture
def read(monkeypatch, capsys):
    """Calls tools/read_gpu_bundle.py: its exit code, output and error line."""

    def call(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["read_gpu_bundle.py", *map(str, words)])
        try:
            code = read_gpu_bundle.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs made-up steps: name -> Python, and a limit of 1 s for `slow`."""

    def call(*words, **programs):
        monkeypatch.setattr(
            gpu_bundle,
            "steps",
            lambda device, folder: [
                Step(name, 1 if name == "slow" else 60, (PYTHON, "-S", "-c", program))
                for name, program in programs.items()
            ],
        )
        asked = f"gpu_bundle.py --device cpu --out {tmp_path}/run --bundle {tmp_path}/b.zip"
        monkeypatch.setattr(sys, "argv", [*asked.split(), *words])
        return gpu_bundle.main(), tmp_path / "b.zip"

    return call


@pytest.mark.slow
def test_what_fails_is_kept_and_read_back(run, read, tmp_path):
    code, bundle = run(
        good="print('fine')",
        slow="import time; time.sleep(60)",
        bad=f"1 / 0  # {gpu_bundle.ROOT}/x",
    )
    assert code == 1
    (tmp_path / "run/train_a.json").write_text(
        json.dumps(
            {
                "network": "64: a",
                "tokens_per_s": 9,
                "share_of_peak": 0.25,
                "memory_bytes": 2**30,
                "first_steps_s": 1,
            }
        )
    )
    code, bundle = run(
        good="raise SystemExit(3)", slow="import time; time.sleep(60)", bad="print('mended')"
    )
    code, text, _ = read(bundle, "--unpack", tmp_path / "files")
    assert code == 1
    assert (tmp_path / "files/bad.log").read_text() == "mended\n"
    assert "2 of 3 steps passed" in text, "what passed runs once"
    assert re.search("good +passed .*\nslow +over its limit .*\nbad +passed", text)
    assert "KeyboardInterrupt" in text, "the end of the log of what failed"
    assert "25.0%" in text


@pytest.mark.slow
def test_the_vllm_of_a_stranger_makes_a_table_that_a_bundle_holds(tmp_path, monkeypatch, read):
    """By the stand-in for vLLM, on the CPU that it runs on."""
    space = tmp_path / "small.yaml"
    space.write_text(
        "template: served\nfamilies: [granite]\nvocab: 320\nparams: 1M..40M\nlayers: [4, 9]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(gpu_bundle.ROOT / "tests/helpers/fake_vllm"))
    monkeypatch.setattr(gpu_bundle, "WORKLOADS", ("chat", "batch=1,prompt=16,generated=32"))
    monkeypatch.setattr(gpu_bundle, "VALIDATED", 3)
    words = f"gpu_bundle.py --vllm-python {sys.executable} --family {space} --out {tmp_path}/run"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--bundle", f"{tmp_path}/b.zip"])
    assert gpu_bundle.main() == 0
    code, text, _ = read(tmp_path / "b.zip", "--unpack", tmp_path / "files")
    assert code == 0
    assert re.search("profile_small +passed .*\nvalidate_small +passed", text)
    assert re.search(r"validate_small latency_ms: error [\d.]+% in the mean of 3", text)
    assert main(["table", "info", str(tmp_path / "files/small")]) == 0


def test_ctrl_c_ends_a_step_and_the_next_call_continues(run, read):
    parent = os.getpid()
    code, bundle = run(
        first=f"import os, time; os.kill({parent}, {int(signal.SIGINT)}); time.sleep(60)",
        second="1",
    )
    assert code == 130
    assert re.search("first +interrupted .*\nsecond +not started", read(bundle)[1])
    assert run(first="1", second="1")[0] == 0
    assert read(bundle)[0] == 0


def test_without_a_product_on_the_device_the_run_ends(run, read, capsys):
    code, bundle = run(product="print('no device'); raise SystemExit(1)", second="1")
    assert code == 1
    assert "no device" in capsys.readouterr().out
    assert re.search("product +failed .*\nsecond +not started", read(bundle)[1])


@pytest.mark.parametrize(("skipped", "status"), [(3, "failed"), (2, "passed")])
def test_tests_that_are_skipped_are_not_passed(run, read, tmp_path, skipped, status):
    suite = f'<testsuites><testsuite tests="3" failures="0" errors="0" skipped="{skipped}"/>'
    report = f"{suite}</testsuites>"
    code, bundle = run(tests=f"open({str(tmp_path / 'run/tests.xml')!r}, 'w').write({report!r})")
    assert code == (status == "failed")
    words = f"tests +{status} .*: {3 - skipped} passed, 0 failed, {skipped} skipped"
    assert re.search(words, read(bundle)[1])


@pytest.mark.parametrize(
    ("driver", "machine", "option"),
    [
        ("570.86.15", "x86_64", "-c constraints/cuda12.txt"),
        ("570.86.15", "aarch64", f"-c constraints/cuda12.txt {gpu_steps.AARCH64_INDEX}"),
        ("580.65.06", "aarch64", "-c constraints/cuda13.txt"),
        ("", "aarch64", ""),
    ],
)
def test_the_driver_decides_which_torch_is_installed(
    tmp_path, monkeypatch, driver, machine, option
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{f'echo {driver}' if driver else 'exit 9'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_steps.constraints() == option
    assert not option or (gpu_bundle.ROOT / option.split()[1]).exists()
    words = ["make", "-n", "gpu", f"VENV={tmp_path / 'venv'}"]
    plan = subprocess.run(words, cwd=gpu_bundle.ROOT, capture_output=True, text=True, check=True)
    assert "pip install --quiet $(" in plan.stdout, "constraints, before any other torch is there"
    assert plan.stdout.count("pip install") == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("exit 1", "flashnas needs Python 3.11 or later: make gpu PYTHON=/path/to/python3.11"),
        ('[ "$1" = -c ] || { mkdir -p "$3/bin"; touch "$3/bin/python"; exit 1; }', ""),
    ],
    ids=["too old", "without venv"],
)
def test_make_leaves_no_half_environment(tmp_path, program, words):
    """Which the next call would take for a whole one."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    # `make test` hands its flags down, so that directories would be printed
    command = ["make", "--no-print-directory", "gpu", f"PYTHON={python}"]
    command.append(f"VENV={tmp_path / 'venv'}")
    done = subprocess.run(command, cwd=gpu_bundle.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.startswith(words)
    assert not (tmp_path / "venv").exists()


def test_a_product_says_which_torch_to_install(tmp_path, capsys):
    assert gpu_steps.product("cpu", tmp_path) == 0
    if torch.cuda.is_available():
        return
    assert gpu_steps.product("cuda", tmp_path) == 1
    assert re.search(
        r"Error: .*\nThis torch is a CPU build, .*: pip uninstall torch\nInstall the torch of the"
        r" driver: pip install -c .* -e '\.\[gpu\]'\n",
        capsys.readouterr().out,
    )


def test_the_advice_for_aarch64_is_not_the_install_that_led_there(tmp_path, monkeypatch, capsys):
    """With an old driver: the release of constraints/cuda12.txt is a CPU build on PyPI."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(gpu_steps, "output_of", lambda *_: "570.86.15")
    monkeypatch.setattr(torch, "ones", mock.Mock(side_effect=AssertionError("no CUDA")))
    assert gpu_steps.product("cuda", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "For aarch64 PyPI has no CUDA build before torch 2.11" in lines[-2]
    assert gpu_steps.AARCH64_INDEX in lines[-1]


def test_a_folder_of_something_else_is_not_deleted(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/precious").touch()
    with pytest.raises(SystemExit):
        run(first="1")
    assert (tmp_path / "run/precious").exists()


def test_the_steps_name_what_exists():
    """The commands of both devices: scripts that are there, and options that flashnas has."""
    for device in gpu_bundle.NETWORK:
        for step in gpu_bundle.steps(device, gpu_bundle.ROOT / "run"):
            words = step.command[1:]
            if words[:2] == gpu_bundle.FLASHNAS[1:]:
                assert main([*words[2:3], "--help"]) == 0
            elif words[0] != "-m":
                assert (gpu_bundle.ROOT / words[0]).exists()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../x", "plain name"),
        ("/x", "plain name"),
        ("a/.x", "plain name"),
        ("link", "regular file"),
        ("bomb", "at most 200 MB"),
        ("x", "no steps.json"),
    ],
)
def test_an_archive_that_is_wrong_on_purpose_is_refused(tmp_path, read, name, rule):
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        part = zipfile.ZipInfo(name)
        if name == "link":
            part.external_attr = 0o120777 << 16
        if name == "bomb":
            with archive.open(part, "w", force_zip64=True) as file:
                for _ in range(201):
                    file.write(bytes(10**6))
        else:
            archive.writestr(part, "/etc/passwd")
    code, text, line = read(tmp_path / "b.zip")
    assert (code, text) == (2, "")
    assert rule in line
