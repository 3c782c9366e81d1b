"""tools/gpu_bundle.py keeps steps that fail, exceed their limit or are interrupted."""

import json
import os
import signal
import sys
import zipfile

import gpu_bundle
import pytest
from gpu_bundle import PYTHON, Step

from flashnas.cli.main import main

pytestmark = pytest.mark.usefixtures("signals_heard")


def statuses(bundle):
    """Of the steps that a bundle holds."""
    with zipfile.ZipFile(bundle) as archive:
        return {
            step["name"]: step["status"] for step in json.loads(archive.read("steps.json"))["steps"]
        }


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
def test_what_fails_is_kept_and_run_again(run):
    slow = "import time; time.sleep(60)"
    code, bundle = run(good="print('fine')", slow=slow, bad=f"1 / 0  # {gpu_bundle.ROOT}/x")
    assert code == 1
    assert statuses(bundle) == {"good": "passed", "slow": "over its limit", "bad": "failed"}
    code, bundle = run(good="raise SystemExit(3)", slow=slow, bad="print('mended')")
    assert code == 1
    assert statuses(bundle) == {"good": "passed", "slow": "over its limit", "bad": "passed"}
    with zipfile.ZipFile(bundle) as archive:
        assert archive.read("bad.log") == b"mended\n"
        assert b"KeyboardInterrupt" in archive.read("slow.log")


@pytest.mark.slow
def test_the_vllm_of_a_stranger_makes_a_table_that_a_bundle_holds(tmp_path, monkeypatch):
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
    assert statuses(tmp_path / "b.zip")["validate_small"] == "passed"
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path / "files")
    assert main(["table", "info", str(tmp_path / "files/small")]) == 0


def test_ctrl_c_ends_a_step_and_the_next_call_continues(run):
    parent = os.getpid()
    code, bundle = run(
        first=f"import os, time; os.kill({parent}, {int(signal.SIGINT)}); time.sleep(60)",
        second="1",
    )
    assert code == 130
    assert statuses(bundle) == {"first": "interrupted", "second": "not started"}
    assert run(first="1", second="1")[0] == 0


def test_without_a_product_on_the_device_the_run_ends(run, capsys):
    code, bundle = run(product="print('no device'); raise SystemExit(1)", second="1")
    assert code == 1
    assert "no device" in capsys.readouterr().out
    assert statuses(bundle) == {"product": "failed", "second": "not started"}


@pytest.mark.parametrize(("skipped", "status"), [(3, "failed"), (2, "passed")])
def test_tests_that_are_skipped_are_not_passed(run, tmp_path, skipped, status):
    suite = f'<testsuites><testsuite tests="3" failures="0" errors="0" skipped="{skipped}"/>'
    report = f"{suite}</testsuites>"
    code, bundle = run(tests=f"open({str(tmp_path / 'run/tests.xml')!r}, 'w').write({report!r})")
    assert code == (status == "failed")
    assert statuses(bundle) == {"tests": status}


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
