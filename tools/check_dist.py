"""Is the wheel complete? Installs it into a new environment outside the repository and works with
it there.

    python tools/check_dist.py dist/flashnas-0.3.0-py3-none-any.whl    # 2 minutes; no network

The new environment has the packages of the one that runs this script, but for flashnas itself. A
Python process in it that opens or lists something in the repository ends with an error, so that
nothing is taken from there unseen.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "examples" / "flashnas-short-conv"
SITE = Path(sysconfig.get_path("purelib"))
GUARD = f"""
import os, sys
ROOT, ALLOWED = {str(ROOT)!r} + os.sep, {str(SITE)!r} + os.sep
def guard(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and isinstance(arguments[0], (str, os.PathLike)):
        path = os.path.realpath(arguments[0]) + os.sep
        if path.startswith(ROOT) and not path.startswith(ALLOWED):
            os.write(2, f"{{path}} was read from the repository\\n".encode())
            os._exit(99)
sys.addaudithook(guard)
"""
SEARCH = "--trials 2 --evidence none --tokens 4096"
COMMANDS = [
    "flashnas --help",
    "flashnas list spaces",
    "flashnas estimate Nemotron-Flash-1B",  # a shipped table
    f"flashnas search --space tiny --workload chat --budget-ms 500 {SEARCH} --out run",
    "flashnas report run",
    "flashnas train pareto.yaml --tokens 4096 --threads 1 --out trained",
    "flashnas export trained --to hf --out exported",
    "flashnas list plugins",
    "flashnas estimate '1024: 2x(gsc f a f)'",  # the operator of the plugin
    f"flashnas search --space plugin/search_space.yaml --workload chat --budget-ms 500 {SEARCH}"
    " --out plugged",
]


def new_environment(folder: Path, *packages: str) -> Path:
    """An environment with the dependencies of this one, and `packages`; the folder of its
    programs.
    """
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            programs / "python",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            *packages,
        ],
        check=True,
    )
    (own,) = folder.glob("lib/python*/site-packages")
    # a line with a path adds packages; it does not follow the .pth files there, of which one is
    # this repository's
    (own / "dependencies.pth").write_text(f"{SITE}\nimport dist_guard\n")
    (own / "dist_guard.py").write_text(GUARD)
    return programs


def main(wheel: str) -> None:
    """Exit code 0 if every command works."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run(["cp", "-r", PLUGIN, folder / "plugin"], check=True)
        programs = new_environment(
            folder / "environment", str(Path(wheel).resolve()), str(folder / "plugin")
        )
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        environment |= {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "MPLBACKEND": "Agg",
            "FLASHNAS_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        python = [programs / "python", "-c"]
        guarded = subprocess.run(
            [*python, f"open({str(ROOT / 'README.md')!r})"],
            cwd=folder,
            env=environment,
            capture_output=True,
        )
        assert guarded.returncode == 99, "the new environment can read the repository unseen"
        place = subprocess.run(
            [*python, "import flashnas; print(flashnas.__file__)"],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        assert place.startswith(str(folder)), f"flashnas was imported from {place}"
        for command in COMMANDS:
            print(f"== {command}", flush=True)
            words = shlex.split(command)
            if words[1] == "train":
                words[2] = str(min((folder / "run" / "pareto").glob("*.yaml")))
            subprocess.run(
                [programs / "flashnas", *words[1:]],
                check=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
    print(f"{Path(wheel).name} works outside the repository")


if __name__ == "__main__":
    main(*sys.argv[1:])
