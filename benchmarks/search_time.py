"""CPU time of whole searches, from the start of Python to the printed answer and report.html: by
flashnas 0.2.0 and by this tree, side by side, at about 1,000, 15,000 and 200,000 networks.

    python benchmarks/search_time.py              # some minutes of one core

CPU-seconds are user and system time of the process of the search, with one thread. Both trees run
by turns in the same Python, each with a cache that a search before has filled, and about two thirds
of the networks meet each budget. The tree of 0.2.0 is taken from the repository (REVISION). It
imports msgspec: `pip install msgspec` first.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from flashnas.base.text import range_of
from flashnas.space.load import load_space

ROOT = Path(__file__).resolve().parent.parent
REVISION = "881128c9"  # 0.2.0
BLOCKS = """
template: layerwise
widths: [768, 896, 1024, 1280, 1536, 1792, 2048, 2304, 2560]
layers:
  depth: [4, 7]
  choices: [a f m2 f m2 f, m2 f m2 f m2 f, gd f gd f gd f, d f m2 f d f]
"""


def cpu_s(tree: Path, search: list[str], scratch: Path) -> float:
    """User and system time of one search by the flashnas of a tree."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "FLASHNAS_CACHE": str(scratch / "cache" / tree.name),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users compile a module once
    out = tempfile.mkdtemp(dir=scratch)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "flashnas", "search", *search, "--out", f"{out}/run"],
        cwd=out,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert Path(out, "run", "report.html").exists()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        old = scratch / "flashnas-0.2.0"
        packed = f"{old}.tar"
        subprocess.run(["git", "archive", "--output", packed, REVISION], cwd=ROOT, check=True)
        shutil.unpack_archive(packed, old, filter="data")
        blocks = scratch / "blocks.yaml"
        blocks.write_text(BLOCKS)
        granite = load_space("granite").restricted(range_of("0.5B..2B"))
        searches = [
            (granite, ["--space", "granite", "--params", "0.5B..2B", "--budget-ms", "17700"]),
            (load_space("served"), ["--budget-ms", "27000"]),
            (load_space(blocks), ["--space", str(blocks), "--budget-ms", "12700"]),
        ]
        for tree in (old, ROOT):
            cpu_s(tree, searches[0][1], scratch)  # compiles modules and fills the cache
        print("| networks | CPU-s 0.2.0 | CPU-s now | ratio |\n|--:|--:|--:|--:|")
        for space, search in searches:
            times = [[cpu_s(tree, search, scratch) for tree in (old, ROOT)] for _ in range(repeats)]
            before, now = (statistics.median(column) for column in zip(*times, strict=True))
            count = int(space.count_networks())
            print(f"| {count:,} | {before:.1f} | {now:.1f} | {now / before:.2f} |", flush=True)


if __name__ == "__main__":
    main()
