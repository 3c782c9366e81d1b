"""Samplers of flashnas and of other libraries: hypervolume regret against the true front over
trained tokens.

Command (from the repository root; it continues where it was interrupted):

    python benchmarks/search.py --python /path/to/other/venv/bin/python

`--python` names interpreters with the libraries that this one lacks
(benchmarks/search_requirements.txt says why there are two). A library that none of them has is
named in the output, and its rows are missing.

Nothing is trained: candidates get the losses and learning curves of a table or a formula
(search_problems.py). What a search sees carries the noise of a short training; what is scored does
not. Regret is 1 minus the hypervolume found as a share of that of the true front, of candidates
that were trained to the end. Each method proposes 5 candidates at a time and has the same tokens.
search_methods.py says how each library is used.

Every finished search is a line of benchmarks/results/search.jsonl. benchmarks/results/search.md and
search.png are made from all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from search_methods import METHODS, Meter, Spent
from search_problems import PROBLEMS, bench_file, make_problem
from search_report import write_report

RESULTS = Path(__file__).parent / "results"
TRAININGS = {
    "surface": 60,
    "rows": 30,
    "model": 60,
}  # tokens of a search, in whole trainings


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bench", help="folder of a bench; the shipped one")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--python", nargs="+", default=[], help="further interpreters, for libraries missing here"
    )
    parser.add_argument("--no-report", action="store_true", help="searches alone")
    parser.add_argument(
        "--report-only", action="store_true", help="of the searches that are recorded"
    )
    return parser.parse_args()


def digest_of(problem: str, source: str | None) -> str:
    """What results depend on beside code: the bench."""
    if problem == "surface":
        return ""
    return hashlib.sha256(bench_file(source).read_bytes()).hexdigest()[:16]


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # a line that a kill cut short
    return found


def append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(line) + "\n")


def run_searches(arguments: argparse.Namespace, path: Path, methods: list[str]) -> None:
    """Every search that is not recorded yet, seed after seed, so that an interrupted run holds
    whole seeds.
    """
    done = {
        (line["problem"], line["bench"], line["method"], line["seed"]) for line in read_lines(path)
    }
    for problem_name in arguments.problems:
        bench = digest_of(problem_name, arguments.bench)
        for seed in range(arguments.seeds):
            open_ = [name for name in methods if (problem_name, bench, name, seed) not in done]
            if not open_:
                continue
            print(f"{problem_name} {seed}: {' '.join(open_)}", file=sys.stderr, flush=True)
            for name in open_:
                meter = Meter(
                    make_problem(problem_name, seed, arguments.bench), seed, TRAININGS[problem_name]
                )
                started = time.process_time()
                with contextlib.suppress(Spent):
                    METHODS[name].run(meter)
                append(
                    path,
                    {
                        "problem": problem_name,
                        "bench": bench,
                        "method": name,
                        "seed": seed,
                        "volumes": [round(volume, 6) for volume in meter.volumes()],
                        "candidates": len(meter.done),
                        "cpu_seconds": round(time.process_time() - started, 1),
                    },
                )


def add_fronts(arguments: argparse.Namespace, path: Path) -> None:
    """The volume of the true front for each problem and seed, as lines of the method `front`."""
    done = {
        (line["problem"], line["bench"], line["seed"])
        for line in read_lines(path)
        if line["method"] == "front"
    }
    for problem_name in arguments.problems:
        bench = digest_of(problem_name, arguments.bench)
        for seed in range(arguments.seeds if problem_name == "surface" else 1):
            if (problem_name, bench, seed) not in done:
                volume = make_problem(problem_name, seed, arguments.bench).best_volume()
                append(
                    path,
                    {
                        "problem": problem_name,
                        "bench": bench,
                        "method": "front",
                        "seed": seed,
                        "volumes": [round(volume, 6)],
                    },
                )


def main() -> None:
    arguments = parse_arguments()
    path = arguments.results / "search.jsonl"
    if arguments.report_only:
        report(arguments, path)
        return
    here = [name for name in arguments.methods if not METHODS[name].missing]
    elsewhere = [name for name in arguments.methods if METHODS[name].missing]
    for other in arguments.python:
        if elsewhere:
            subprocess.run(
                [other, __file__, *sys.argv[1:], "--no-report", "--methods", *elsewhere], check=True
            )
    run_searches(arguments, path, here)
    if not arguments.no_report:
        report(arguments, path)


def report(arguments: argparse.Namespace, path: Path) -> None:
    """The table and picture of all lines, and the versions of what is installed here."""
    add_fronts(arguments, path)
    lines = [
        line
        for line in read_lines(path)
        if line["problem"] in arguments.problems
        and line["seed"] < arguments.seeds
        and line["bench"] == digest_of(line["problem"], arguments.bench)
    ]
    print(write_report(lines, arguments.results, TRAININGS, arguments.seeds, arguments.bench))
    packages = dict.fromkeys(
        method.distribution or "flashnas" for method in METHODS.values() if not method.missing
    )
    print(
        f"python {platform.python_version()}, "
        + ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    )


if __name__ == "__main__":
    main()
