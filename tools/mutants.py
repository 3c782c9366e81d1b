"""How much the tests notice: small random changes of the code, and the tests that catch each.

    python tools/mutants.py draw     # 40 patches in tests/mutants/, of the rooms study, space, latency, loss
    python tools/mutants.py run      # which tests catch each, in tests/mutants/caught.csv: 25 minutes;
                                     # 0.2.0.csv beside it is that of the revision that they were drawn from

A patch that no longer applies because its code moved is looked for by its changed line in all files;
one whose statement is gone is counted as gone. `run` continues where it was interrupted; it works in
the checkout, and restores each file.
"""

import argparse
import ast
import copy
import csv
import difflib
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests" / "mutants"
ROOMS = ("study", "space", "latency", "loss")
# what was about to be deleted when the patches were drawn
LEFT_OUT = re.compile(r"training_time|/plan|importers|dense_or_sparse|publications|progress")
PATCH_COUNT = 40
TIMEOUT_S = 900
NEAREST = 8  # test files that are run for a patch
PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "--maxfail=3", "--tb=no", "-p", "no:cacheprovider"),
    *("-m", "not gpu and not slow"),
)
SWAPS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def changed(node: ast.AST) -> ast.AST | None:
    """The same node with one small change; None where it has none."""
    other = copy.deepcopy(node)
    if isinstance(other, ast.Compare) and type(other.ops[0]) in SWAPS:
        other.ops[0] = SWAPS[type(other.ops[0])]()
    elif isinstance(other, ast.BinOp | ast.BoolOp) and type(other.op) in SWAPS:
        other.op = SWAPS[type(other.op)]()
    elif isinstance(other, ast.UnaryOp) and isinstance(other.op, ast.Not | ast.USub):
        return other.operand
    elif isinstance(other, ast.Constant) and type(other.value) in (int, float):
        other.value += 1
    else:
        return None
    return other


def candidates(source: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 0, with the changed line."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        if (other := changed(node)) is not None:
            # columns of ast are bytes
            line = lines[node.lineno - 1].encode()
            text = ast.unparse(other).encode()
            yield (
                node.lineno - 1,
                (line[: node.col_offset] + text + line[node.end_col_offset :]).decode(),
            )


def draw() -> None:
    """Write patches of random lines, every file as likely as it is long."""
    chance = random.Random(0)
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / "flashnas" / room).rglob("*.py")):
            if not LEFT_OUT.search(str(path)):
                source = path.read_text(encoding="utf-8")
                found += [(path, source, *entry) for entry in candidates(source)]
    PATCHES.mkdir(exist_ok=True)
    for number, (path, source, index, line) in enumerate(chance.sample(found, PATCH_COUNT), 1):
        lines = source.splitlines(keepends=True)
        after = [*lines[:index], line + "\n", *lines[index + 1 :]]
        name = path.relative_to(ROOT)
        patch = difflib.unified_diff(lines, after, f"a/{name}", f"b/{name}")
        (PATCHES / f"{number:02}.patch").write_text("".join(patch), encoding="utf-8")


def place(patch: str) -> tuple[Path, str, str] | None:
    """The file that a patch changes today, its text before and after; None if the line is gone."""
    named = ROOT / re.findall(r"^\+\+\+ b/(.*)$", patch, re.M)[0]
    lines = patch.splitlines()[3:]
    before = [line[1:] for line in lines if line[0] in " -"]
    old, new = (next(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    others = sorted(path for path in (ROOT / "flashnas").rglob("*.py") if path != named)
    for around in (3, 1, 0):
        at = before.index(old) if before.count(old) == 1 else len(before) // 2
        wanted = "\n".join(before[max(0, at - around) : at + around + 1])
        replaced = wanted.replace(old, new)
        for path in (named, *others):
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            # as a whole line, and in one place alone
            if f"\n{text}\n".count(f"\n{wanted}\n") == 1:
                return path, text, f"\n{text}\n".replace(f"\n{wanted}\n", f"\n{replaced}\n")[1:-1]
    return None


def nearest(path: Path, before: str, after: str) -> list[str]:
    """The test files that have most to do with a changed function: that import its module, name it,
    or are of its room."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    index = next(
        n
        for n, pair in enumerate(zip(before.splitlines(), after.splitlines(), strict=False))
        if len(set(pair)) > 1
    )
    names = [
        node.name
        for node in ast.walk(ast.parse(before))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.lineno <= index + 1 <= (node.end_lineno or 0)
    ]

    def weight(file: Path) -> float:
        text = file.read_text(encoding="utf-8")
        named = sum(len(re.findall(rf"\b{name}\b", text)) > 0 for name in names)
        return 2 * text.count(module) + 2 * named + (file.parent.name == path.parent.name)

    files = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda file: (-weight(file), file))
    return [str(file.relative_to(ROOT)) for file in files[:NEAREST]]


def catching(patch: str) -> tuple[str, list[str]]:
    """What became of a patch, and up to three tests that fail with it."""
    placed = place(patch)
    if placed is None:
        return "gone", []
    path, before, after = placed
    path.write_text(after, encoding="utf-8")
    try:
        done = subprocess.run(
            [*PYTEST, *nearest(path, before, after)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "caught", ["endless"]
    finally:
        path.write_text(before, encoding="utf-8")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    return ("caught" if failed else "missed"), failed


def run() -> None:
    """Add a row to caught.csv for each patch that has none."""
    table = PATCHES / "caught.csv"
    rows = list(csv.reader(table.open(encoding="utf-8"))) if table.exists() else []
    known = {row[0] for row in rows}
    for path in sorted(PATCHES.glob("*.patch")):
        if path.name in known:
            continue
        state, tests = catching(path.read_text(encoding="utf-8"))
        with table.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([path.name, state, " ".join(tests)])
        print(path.name, state, *tests, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("draw", "run"))
    {"draw": draw, "run": run}[parser.parse_args().action]()


if __name__ == "__main__":
    main()
