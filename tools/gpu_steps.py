"""The steps of tools/gpu_bundle.py that are no command of flashnas, and what `make gpu` needs before.

    python tools/gpu_steps.py cuda FOLDER install   # also: product, warm_up
    python tools/gpu_steps.py constraints           # the options of pip for the driver of this machine

Only the standard library is imported before a step needs more, so that an environment in which torch
is broken is reported, too.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider")
TESTS = {"cuda": (*PYTEST, "-m", "gpu"), "cpu": (*PYTEST, "-m", "not gpu")}
CUDA_13_DRIVER = 580  # the first major version of the driver that runs programs built for CUDA 13
# PyPI's wheels of torch before 2.11 are CPU builds for aarch64
AARCH64_INDEX = "--extra-index-url https://download.pytorch.org/whl/cu128"
PRIVATE = re.compile(
    r"(?im)^.*\b(serial number|uuid|asset tag|bus id|board part|pid|process name)\b.*\n?"
)


def install(device: str, folder: Path) -> int:
    """Write what this machine has to compile and hold kernels; the number of problems."""
    checks: list[dict[str, str]] = []

    def check(name: str, value: str, problem: str = "") -> None:
        checks.append({"check": name, "value": value, "problem": "" if value else problem})
        print(f"{name:<16}{value or 'missing'}{'' if value or not problem else ': ' + problem}")

    cuda = device == "cuda"
    gpu = output_of(
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap",
        "--format=csv,noheader",
    )
    check("system", f"{platform.platform()}, Python {platform.python_version()}")
    check("GPU and driver", gpu, "nvidia-smi finds no GPU: install the driver" if cuda else "")
    toolkit = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{toolkit}/bin") or "nvcc"
    release = re.search(r"release .*", output_of(nvcc, "--version"))
    check("nvcc", release.group() if release else "")  # only what is built from source needs it
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang", "cc"))), ""
    )
    check(
        "C compiler",
        compiler and output_of(compiler, "--version").partition("\n")[0],
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
    check("commit", output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty"))
    (folder / "install.json").write_text(json.dumps(checks, indent=1) + "\n")
    (folder / "packages.txt").write_text(
        output_of(PYTHON, "-m", "pip", "list", "--format=freeze") + "\n"
    )
    if smi := output_of("nvidia-smi", "-q"):
        (folder / "nvidia_smi.txt").write_text(PRIVATE.sub("", smi + "\n"))
    return sum(bool(entry["problem"]) for entry in checks)


def product(device: str, folder: Path) -> int:
    """Multiply two matrices by torch on the device; 1 if that is impossible."""
    import torch

    print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda or '(none)'}")
    try:
        x = torch.ones(256, 256, device=device)
        found = float((x @ x).sum())
    except Exception as error:  # torch raises AssertionError, RuntimeError, .. by reason
        words = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        print(words)
        if torch.version.cuda is None:
            print(
                "This torch is a CPU build, and pip keeps it where another build of its release is"
                " wanted: pip uninstall torch"
            )
        option = constraints() or "-c FILE"
        if AARCH64_INDEX in option:
            print(
                f"For aarch64 PyPI has no CUDA build before torch 2.11, which wants a driver from"
                f" {CUDA_13_DRIVER} on"
            )
        print(f"Install the torch of the driver: pip install {option} -e '.[gpu]'")
        return 1
    print(f"a product on {device} adds up to {found:.0f}; {256**3} is right")
    return int(found != 256**3)


def warm_up(device: str, folder: Path) -> int:
    """Run the tests that follow, in several processes at a time and whatever they find, so that
    they do not wait for a compiler: Triton keeps what it has compiled. 1 if they cannot be run."""
    command = (*TESTS[device], "--numprocesses", str(warm_up_processes()), "--dist", "worksteal")
    # kernels that are timed side by side disturb each other: what fla chose by such timings is not
    # kept
    environment = {**os.environ, "FLA_CACHE_RESULTS": "0"}
    code = subprocess.run([*command, "--tb=no"], cwd=ROOT, env=environment, check=False).returncode
    return int(code not in (0, 1))  # 1: tests failed, and will do so again


def warm_up_processes() -> int:
    """One for each core but one; each takes about 1 GB of the memory of the GPU."""
    return min(16, max(1, (os.cpu_count() or 1) - 1))


def constraints() -> str:
    """The options by which pip installs a torch that the driver can use; empty without a driver."""
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    major = re.match(r"\d+", driver)
    if not major:
        return ""
    if int(major[0]) >= CUDA_13_DRIVER:
        return "-c constraints/cuda13.txt"
    index = f" {AARCH64_INDEX}" if platform.machine() == "aarch64" else ""
    return f"-c constraints/cuda12.txt{index}"


def output_of(*command: str) -> str:
    """What a program prints, or an empty string where it is missing or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main() -> int:
    if sys.argv[1:] == ["constraints"]:
        print(constraints())
        return 0
    device, folder, step = sys.argv[1:]
    return min(
        1, {"install": install, "product": product, "warm_up": warm_up}[step](device, Path(folder))
    )


if __name__ == "__main__":
    sys.exit(main())
