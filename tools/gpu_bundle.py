"""Everything that a GPU can tell about flashnas, in one file to attach to an issue. `make gpu` runs
it:

    python tools/gpu_bundle.py                  # on the first CUDA device; --device cpu tries the
    command itself

It runs the steps that it prints first, each in a process of its own with its own limit. A step that
fails or exceeds its limit is kept with its log, and the next one follows. The same command again
continues after Ctrl-C: steps that passed are kept, all others run again; --fresh, or another commit
of flashnas, begins anew. `python tools/read_gpu_bundle.py flashnas_gpu.zip` shows a bundle.

The runner itself needs the standard library only, so that it also reports an environment in which
torch is broken. Left out of the bundle are serial numbers of the GPU, the name of the machine, and
the path of the home folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
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
WIDTHS = "[1024, 2048]"  # of nemotron_flash; with all seven, kernels are compiled for an hour
STOP_S = 20  # for a step to write what it has, after SIGINT
MAX_FILE_BYTES = 20_000_000  # a larger file stays out of the bundle
PRIVATE = re.compile(
    r"(?im)^.*\b(serial number|uuid|asset tag|bus id|board part|pid|process name)\b.*\n?"
)


@dataclass
class Step:
    """One step: the command, the seconds that it may take, and what came of it."""

    name: str
    limit_s: int
    command: tuple[str, ...]
    status: str = "not started"  # passed, failed, over its limit, interrupted
    seconds: float = 0.0

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
    own = (PYTHON, str(Path(__file__).resolve()), "--device", device, "--out", str(folder))
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
        Step("install", 300, (*own, "--step", "install")),
        Step("warm_up", 2700, (*own, "--step", "warm_up")),
        Step(
            "doctor",
            1800,
            (*FLASHNAS, "doctor", "--device", device, "--out", str(folder / "doctor.json")),
        ),
        Step(
            "tests",
            3600,
            (
                PYTHON,
                "-m",
                "pytest",
                "tests/gpu",
                "-m",
                "gpu" if device == "cuda" else "not gpu",
                "-rfE",
                "--tb=short",
                "-p",
                "no:cacheprovider",
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


# -- steps that are no command of flashnas ---------------------------------------------------------


def install(device: str, folder: Path) -> int:
    """Write what this machine has to compile and hold kernels; the number of problems."""
    checks: list[dict[str, str]] = []

    def check(name: str, value: str, problem: str = "") -> None:
        checks.append({"check": name, "value": value, "problem": "" if value else problem})
        print(f"{name:<16}{value or 'missing'}{'' if value or not problem else ': ' + problem}")

    cuda = device == "cuda"
    gpu = _output(
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap",
        "--format=csv,noheader",
    )
    check("system", f"{platform.platform()}, Python {platform.python_version()}")
    check("GPU and driver", gpu, "nvidia-smi finds no GPU: install the driver" if cuda else "")
    toolkit = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{toolkit}/bin") or "nvcc"
    release = re.search(r"release .*", _output(nvcc, "--version"))
    check("nvcc", release.group() if release else "")  # only what is built from source needs it
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang", "cc"))), ""
    )
    check(
        "C compiler",
        compiler and _output(compiler, "--version").partition("\n")[0],
        "Triton compiles its launcher: install gcc" if cuda else "",
    )
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    check(
        "Python.h",
        str(header) if header.exists() else "",
        f"Triton's launcher includes it: install python3.{sys.version_info[1]}-dev" if cuda else "",
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check("memory", f"{pages / 2**30:.0f} GiB")
    for name, path in (
        ("shared memory", Path("/dev/shm")),
        ("disk, kernels", Path.home()),
        ("disk, here", ROOT),
    ):
        check(name, f"{shutil.disk_usage(path).free / 2**30:.0f} GiB free" if path.exists() else "")
    check("commit", _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"))
    (folder / "install.json").write_text(json.dumps(checks, indent=1) + "\n")
    (folder / "packages.txt").write_text(
        _output(PYTHON, "-m", "pip", "list", "--format=freeze") + "\n"
    )
    if smi := _output("nvidia-smi", "-q"):
        (folder / "nvidia_smi.txt").write_text(PRIVATE.sub("", smi + "\n"))
    return sum(bool(entry["problem"]) for entry in checks)


def warm_up(device: str, folder: Path) -> int:
    """Compile the kernels of every operator, several operators at a time, so that the tests after
    it do not wait for a compiler; the number of operators that failed."""
    from flashnas.operators import OPERATORS

    # operators that are timed side by side disturb each other: what fla chose by such timings is
    # not kept
    environment = {**os.environ, "FLA_CACHE_RESULTS": "0"}
    program = (
        "import sys; from flashnas.testing.self_test import check_layer as check\n"
        "for dtype in ('float32', 'bfloat16'):\n"
        "    test = check(sys.argv[1], 'auto', dtype, sys.argv[2])\n"
        "    print(test.operator, dtype, test.runs, test.status, test.reason)\n"
    )

    def compile_one(kind: str) -> int:
        done = subprocess.run(
            [PYTHON, "-c", program, kind, device],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        return int(done.returncode != 0)

    with ThreadPoolExecutor(min(6, max(1, (os.cpu_count() or 1) // 2))) as pool:
        return sum(pool.map(compile_one, OPERATORS))


def _output(*command: str) -> str:
    """What a program prints, or an empty string where it is missing or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# -- the whole -------------------------------------------------------------------------------------


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
    parser.add_argument("--fresh", action="store_true", help="forget what earlier calls did")
    parser.add_argument("--step", choices=("install", "warm_up"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.out.resolve()
    if options.step:
        return min(
            1, {"install": install, "warm_up": warm_up}[options.step](options.device, folder)
        )

    record = folder / "steps.json"
    now = {
        "device": options.device,
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
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
    plan = steps(options.device, folder)
    if unknown := set(options.only or ()) - {step.name for step in plan}:
        parser.error(
            f"--only: there is no step {unknown.pop()}; there are"
            f" {', '.join(step.name for step in plan)}"
        )
    passed = {
        entry["name"]: entry for entry in before.get("steps", ()) if entry["status"] == "passed"
    }
    print(
        f"{len(plan)} steps on {options.device}, at most"
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
        print(f"{step.status} after {step.seconds:.0f} s", flush=True)
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
    pack(folder, options.bundle)
    print(
        f"\n{options.bundle} holds all results and logs. Read it with: python"
        f" tools/read_gpu_bundle.py {options.bundle.name}\n"
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
