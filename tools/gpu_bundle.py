"""Everything that a GPU can tell about flashnas, in one file to attach to an issue. `make gpu` runs
it:

    python tools/gpu_bundle.py --vllm-python ~/vllm/bin/python  # by vLLM alone: tables of families
    python tools/gpu_bundle.py                                  # flashnas' own code on the first
                                                                # CUDA device; --device cpu tries it

It runs the steps that it prints first, each in a process of its own with its own limit. A step that
fails or exceeds its limit is kept with its log, and the next one follows; without `product`, a
product of two matrices on the device, nothing else can succeed, and the run ends. Tests that are
skipped do not count as passed: where all are, the step has failed. The same command again
continues after Ctrl-C: steps that passed are kept, all others run again; --fresh, or another commit
of flashnas, begins anew. steps.json of the bundle has what each step came to.

The runner itself needs the standard library only, so that it also reports an environment in which
torch is broken. Left out of the bundle are serial numbers of the GPU, the name of the machine, and
the path of the home folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_steps import PYTHON, ROOT, TESTS, output_of

FLASHNAS = (PYTHON, "-m", "flashnas.cli.main")
MIXERS = ("a", "m2", "d", "gd", "kda")  # of the networks that are trained
# what differs between the devices: a network around a mixer, options of its training, (space,
# workload) to profile
NETWORK = {"cuda": "1280(vocab=32768): 8x({} f)", "cpu": "256(vocab=512): {} f"}
TRAINING = {
    "cuda": ("--steps=100",),
    "cpu": (
        "--steps=10",
        "--sequence-tokens=64",
        "--batch-sequences=4",
        "--micro-batch-sequences=4",
    ),
}
SPACES = {
    "cuda": (("tiny", "chat"), ("nemotron_flash.yaml", "decode-1k")),
    "cpu": (("tiny", "batch=1,prompt=16,generated=8"),),
}
# by vLLM: families, the requests of one start, networks that the fit has not seen
FAMILIES = ("granite", "nemotron_h", "qwen3_5")
WORKLOADS = ("decode-8k", "chat", "prefill-2k")
VALIDATED = 8
WIDTHS = "[1024, 2048]"  # of nemotron_flash; with all seven, kernels are compiled for an hour
REQUIRED = "product"  # without this step none can succeed
STOP_S = 20  # for a step to write what it has, after SIGINT
MAX_FILE_BYTES = 20_000_000  # a larger file stays out of the bundle


@dataclass
class Step:
    """One step: the command, the seconds that it may take, and what came of it; `counts`: of
    tests.
    """

    name: str
    limit_s: int
    command: tuple[str, ...]
    status: str = "not started"  # passed, failed, over its limit, interrupted
    seconds: float = 0.0
    counts: str = ""

    def run(self, folder: Path) -> None:
        """Run the command with its output in a log; Ctrl-C and the limit stop it with all that it
        started.
        """
        started = time.monotonic()
        self.status = "interrupted"
        with open(folder / f"{self.name}.log", "wb") as log:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            try:
                self.status = "failed" if process.wait(self.limit_s) else "passed"
            except subprocess.TimeoutExpired:
                self.status = "over its limit"
            finally:
                _stop(process)
                self.seconds = round(time.monotonic() - started, 1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: by SIGINT, upon which pytest writes its report, then for
    certain.
    """
    for how in (signal.SIGINT, signal.SIGKILL):
        try:
            if process.poll() is None or how == signal.SIGKILL:
                os.killpg(process.pid, how)
                process.wait(STOP_S)
        except (ProcessLookupError, PermissionError):
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue


def steps(device: str, folder: Path) -> list[Step]:
    """All steps in their order."""
    own = (PYTHON, str(ROOT / "tools/gpu_steps.py"), device, str(folder))
    table = str(folder / "table")
    measured: list[Step] = []
    for space, workload in SPACES[device]:
        path = str(folder / space) if space.endswith(".yaml") else space
        name = Path(space).stem
        measured += [
            Step(
                f"profile_{name}",
                1200,
                (
                    *FLASHNAS,
                    "profile",
                    "--space",
                    path,
                    "--workload",
                    workload,
                    "--device",
                    device,
                    "--out",
                    table,
                    "--json",
                ),
            ),
            Step(
                f"validate_{name}",
                600,
                (
                    *FLASHNAS,
                    "validate",
                    "--table",
                    table,
                    "--space",
                    path,
                    "--workload",
                    workload,
                    "--count",
                    "4",
                    "--json",
                ),
            ),
        ]
    return [
        Step("install", 300, (*own, "install")),
        Step(REQUIRED, 120, (*own, REQUIRED)),
        Step("warm_up", 2700, (*own, "warm_up")),
        Step("doctor", 1800, (*FLASHNAS, "doctor", "--device", device, "--json")),
        Step(
            "tests",
            3600,
            (
                *TESTS[device],
                "-rfEs",
                "--tb=short",
                f"--junitxml={folder / 'tests.xml'}",
            ),
        ),
        *measured,
        *(
            Step(
                f"train_{mixer}",
                600,
                (
                    PYTHON,
                    "benchmarks/training_steps.py",
                    NETWORK[device].format(mixer),
                    "--device",
                    device,
                    *TRAINING[device],
                    "--out",
                    str(folder / f"train_{mixer}.json"),
                ),
            )
            for mixer in MIXERS
        ),
    ]


def vllm_steps(python: str, folder: Path, families: Sequence[str]) -> list[Step]:
    """For each family a table by vLLM, predictions against networks that the fit has not seen."""
    # cpu: flashnas itself compiles nothing
    own = (PYTHON, str(ROOT / "tools/gpu_steps.py"), "cpu", str(folder))
    found = [Step("install", 300, (*own, "install"))]
    for family in families:
        given = ("--space", family, "--vllm-python", python, "--json")
        workloads = [word for name in WORKLOADS for word in ("--workload", name)]
        name = Path(family).stem
        table = str(folder / name)
        profile = (*FLASHNAS, "profile", "--runtime", "vllm", *given, *workloads, "--out", table)
        validate = (*FLASHNAS, "validate", *given, "--workload", WORKLOADS[0], "--table", table)
        found += [
            Step(f"profile_{name}", 5400, profile),
            Step(f"validate_{name}", 1800, (*validate, "--count", str(VALIDATED))),
        ]
    return found


def count_tests(step: Step, report: Path) -> None:
    """Take the counts of pytest's report; without one that passed, the step has failed."""
    if not report.exists():
        return
    numbers = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ET.parse(report).getroot().iter("testsuite"):
        for name in numbers:
            numbers[name] += int(suite.get(name, 0))
    failed = numbers["failures"] + numbers["errors"]
    passed = numbers["tests"] - failed - numbers["skipped"]
    step.counts = f"{passed} passed, {failed} failed, {numbers['skipped']} skipped"
    if not passed and step.status == "passed":
        step.status = "failed"


def pack(folder: Path, bundle: Path) -> None:
    """Put the files of the folder into a zip; text without what is nobody's business."""
    private = [
        (re.escape(str(path).encode()) + rb"(?=[/\"'\s])", mark)
        for path, mark in ((ROOT, b"."), (Path.home(), b"~"))
        if path != Path("/")
    ]
    private.append((rb'hostname="[^"]*"', b'hostname=""'))
    partial = bundle.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_file() or path.is_symlink() or path.suffix == ".lock":
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                print(f"{name} stays out of the bundle: it has {path.stat().st_size / 1e6:.0f} MB")
                continue
            content = path.read_bytes()
            for pattern, mark in private if path.suffix != ".parquet" else ():
                content = re.sub(pattern, mark, content)
            archive.writestr(name, content)
    partial.replace(bundle)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=tuple(NETWORK), default="cuda")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "gpu_run", help="folder of the logs and results"
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "flashnas_gpu.zip")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="run these steps only")
    parser.add_argument("--vllm-python", metavar="PATH", help="time families in this vLLM alone")
    parser.add_argument(
        "--family", nargs="+", default=FAMILIES, help="or files of spaces, that vLLM times"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier calls did")
    options = parser.parse_args()
    folder = options.out.resolve()
    record = folder / "steps.json"
    now = {
        "device": "vllm" if options.vllm_python else options.device,
        "commit": output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }
    before = json.loads(record.read_text()) if record.exists() and not options.fresh else {}
    if {key: before.get(key) for key in now} != now and folder.exists():
        if any(folder.iterdir()) and not record.exists():
            parser.error(f"--out {folder}: must be a new folder, or one of an earlier call")
        shutil.rmtree(folder)
        before = {}
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "search_spaces/nemotron_flash.yaml").read_text()
    (folder / "nemotron_flash.yaml").write_text(
        re.sub(r"(?m)^widths: .*$", f"widths: {WIDTHS}", text)
    )
    plan = (
        vllm_steps(options.vllm_python, folder, options.family)
        if options.vllm_python
        else steps(options.device, folder)
    )
    if unknown := set(options.only or ()) - {step.name for step in plan}:
        parser.error(
            f"--only: there is no step {unknown.pop()}; there are"
            f" {', '.join(step.name for step in plan)}"
        )
    passed = {
        entry["name"]: entry for entry in before.get("steps", ()) if entry["status"] == "passed"
    }
    print(
        f"{len(plan)} steps on {now['device']}, at most"
        f" {sum(step.limit_s for step in plan) / 3600:.1f} hours; logs are in {folder}"
    )
    for step in plan:
        if entry := passed.get(step.name):
            step.status, step.seconds = entry["status"], entry["seconds"]
        print(
            f"  {step.name:<24}at most {step.limit_s / 60:3.0f} min"
            f"{f', passed before in {step.seconds:.0f} s' if entry else ''}"
        )
    interrupted = False
    for step in plan:
        if step.status == "passed" or (options.only and step.name not in options.only):
            continue
        print(f"{step.name:<26}", end="", flush=True)
        try:
            step.run(folder)
        except KeyboardInterrupt:
            interrupted = True
        if step.name == "tests":
            count_tests(step, folder / "tests.xml")
        counts = f": {step.counts}" if step.counts else ""
        print(f"{step.status} after {step.seconds:.0f} s{counts}", flush=True)
        record.write_text(
            json.dumps(
                {
                    **now,
                    "steps": [{**asdict(step), "command": " ".join(step.command)} for step in plan],
                },
                indent=1,
            )
            + "\n"
        )
        if interrupted:
            break
        if step.name == REQUIRED and step.status != "passed":
            print((folder / f"{step.name}.log").read_text(errors="replace").rstrip())
            break
    pack(folder, options.bundle)
    print(
        f"\n{options.bundle} holds all results and logs, steps.json what each step came to.\n"
        + (
            "The same command continues."
            if interrupted
            else "Please attach it to an issue, also if steps failed."
        )
    )
    failed = [step for step in plan if step.status not in ("passed", "not started")]
    return 130 if interrupted else int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
