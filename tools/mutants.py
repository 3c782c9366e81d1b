"""A mutation sample: changes the package in small random places, one at a time, and counts what
tests notice.

    pip install coverage
    python tools/mutants.py --count 150 --seed 1 --out mutants.jsonl

The first run measures which fast test executes which line (30 to 40 minutes) and keeps that in the
file of --map. Each mutant then takes 5 to 20 seconds. A run that was stopped continues with the
same command. All changes are made in a temporary copy of the checkout. `--replay FILE` makes the
changes of an earlier record again, wherever their statement still stands in a function of the same
name, in any file. Results: `killed` (a test failed), `timeout`, `survived`
and `not covered`: no test executes the line in its own process, and none of the tests of its room
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutant_places import Place, Places, room_of, statement_at

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "flashnas"
# loaded once; the process of each mutant is forked from this one
PRELOADED = ("torch._dynamo", "scipy.stats", "pandas", "pyarrow.parquet", "optuna", "tokenizers")
# what a CPU cannot run; such a place is drawn only where a test executes its line
ACCELERATOR = re.compile(r"operators/backends/|cuda|nvml|triton|nccl", re.IGNORECASE)
MAX_BYTES = 12 << 30  # of a process of tests: a mutant may take memory without end
MIN_TESTS, MAX_TESTS = 8, 25
MAX_TEST_SECONDS = 15  # of the tests of one mutant, as the map states them
MAX_MAPPED_TESTS = 80  # of one line
MAX_CASES = 3  # of one parametrised test, before other tests are taken
FAMILY_SECONDS, FAMILY_SHARE = 25, 0.15  # after so long, a share of a test's further cases runs


def family(test: str) -> str:
    return test.split("[")[0]


class Recorder:
    """A plugin of pytest: seconds and failures of tests; with a `coverage`, the lines that each
    executes.
    """

    def __init__(self, coverage: Any = None, stop_at: float = float("inf")) -> None:
        self.coverage, self.stop_at = coverage, stop_at
        self.seconds, self.families = defaultdict[str, float](float), defaultdict[str, float](float)
        self.passed, self.failed, self.rng = list[str](), list[str](), random.Random(0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if time.monotonic() > self.stop_at:
            item.session.shouldstop = "the time of the map is over"
        if self.coverage:
            self.coverage.switch_context(item.nodeid)
        result = yield
        if self.coverage:
            self.coverage.switch_context("")
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        seconds = self.families[family(item.nodeid)]
        if self.coverage and seconds > FAMILY_SECONDS and self.rng.random() > FAMILY_SHARE:
            pytest.skip("its family has taken long")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        self.families[family(report.nodeid)] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class Copy:
    """A temporary copy of the checkout, in which tests run."""

    def __init__(self, folder: Path) -> None:
        self.scratch, self.tree, self.edits = folder, folder / "tree", 0
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for file in files.split("\0"):
            if (ROOT / file).is_file():
                (self.tree / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, self.tree / file)
        os.environ.update(PYTHONPATH=str(self.tree), MPLBACKEND="Agg", OMP_NUM_THREADS="1")
        for module in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)

    @contextlib.contextmanager
    def changed(self, place: Place) -> Iterator[None]:
        path = self.tree / place.file
        source = path.read_bytes()
        self.write(path, source[: place.start] + place.text.encode() + source[place.end :])
        try:
            yield
        finally:
            self.write(path, source)

    def write(self, path: Path, source: bytes) -> None:
        """With a date of its own: Python compares only the date and the size with what it has
        compiled.
        """
        path.write_bytes(source)
        self.edits += 1
        os.utime(path, (1_000_000_000 + self.edits,) * 2)

    def run(
        self, arguments: list[str], timeout_s: float, task: Callable[..., Any] | None = None
    ) -> Outcome:
        """What pytest says of these arguments in a process of its own; `task` may run it there."""
        answer = self.scratch / "answer.json"
        answer.unlink(missing_ok=True)
        if not (child := os.fork()):
            try:
                self.enter()
                answer.write_text(json.dumps((task or self.test)(arguments)))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        waited_s, cpu_s, ended = 0.0, 0.0, 0
        try:
            while not ended and waited_s + cpu_s < timeout_s:
                last = time.monotonic()
                while not ended and time.monotonic() < last + 1:
                    time.sleep(0.05)
                    ended = os.waitpid(child, os.WNOHANG)[0]
                cpu_s, ready = session_cpu_s(child)
                waited_s += 0 if ready else time.monotonic() - last
        finally:  # with what the tests left running
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if not ended:
                os.waitpid(child, 0)
        if not ended:
            return Outcome("timeout", [])
        code, failed = json.loads(answer.read_text()) if answer.exists() else (70, [])
        return Outcome("failed" if code else "passed", failed)

    def enter(self) -> None:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(self.scratch / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, target in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(target, stream)
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        os.chdir(self.tree)
        sys.modules["__main__"] = types.ModuleType(
            "__main__"
        )  # processes that tests start import its file
        sys.path[:] = [str(self.tree), *(path for path in sys.path[1:] if path != str(ROOT))]

    def test(self, arguments: list[str], recorder: Recorder | None = None) -> tuple[int, list[str]]:
        recorder = recorder or Recorder()
        base = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.scratch / 'temp'}"]
        return int(pytest.main([*base, *arguments], plugins=[recorder])), recorder.failed


def session_cpu_s(session: int) -> tuple[float, bool]:
    """CPU seconds of its processes, and whether one is ready to run: a busy machine is not a
    timeout.
    """
    ticks, ready = 0, False
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))
                ready = ready or fields[0] in "RD"
    return ticks / os.sysconf("SC_CLK_TCK"), ready


class Outcome(NamedTuple):
    result: str
    failed: list[str]


class Map:
    """Which tests execute a line."""

    def __init__(self, content: dict[str, Any], sources: dict[str, str]) -> None:
        self.tests: list[tuple[str, float, int]] = content["tests"]
        self.lines: dict[str, dict[str, list[int]]] = content["lines"]
        self.sources = sources

    @staticmethod
    def measure(
        copy: Copy, minutes: float, tree: str, arguments: list[str]
    ) -> tuple[int, list[str]]:
        """Runs the fast tests and writes map.json.gz into the scratch folder."""
        import coverage

        tracer = coverage.Coverage(
            data_file=str(copy.scratch / "coverage"),
            config_file=False,
            source=[str(copy.tree / PACKAGE)],
        )
        recorder = Recorder(tracer, time.monotonic() + 60 * minutes)
        tracer.start()
        code, failed = copy.test(arguments, recorder)
        tracer.stop()
        data = tracer.get_data()
        files = {
            str(Path(file).relative_to(copy.tree)): data.contexts_by_lineno(file)
            for file in data.measured_files()
        }
        counts = Counter(test for lines in files.values() for test in set().union(*lines.values()))
        passed = sorted(set(recorder.passed) - set(failed))
        numbers = {test: number for number, test in enumerate(passed)}

        def best(file: str, tests: list[str]) -> list[int]:
            ranked = sorted(
                set(tests) & numbers.keys(),
                key=lambda test: (
                    room_of(test) != room_of(file),
                    counts[test],
                    recorder.seconds[test],
                    test,
                ),
            )
            return [numbers[test] for test in ranked[:MAX_MAPPED_TESTS]]

        content = {
            "tree": tree,
            "failed": failed,
            "tests": [(test, round(recorder.seconds[test], 3), counts[test]) for test in passed],
            "lines": {
                file: {line: best(file, tests) for line, tests in lines.items()}
                for file, lines in files.items()
            },
        }
        with gzip.open(copy.scratch / "map.json.gz", "wt") as stream:
            json.dump(content, stream)
        return code, failed

    def of_lines(self, places: Iterable[tuple[str, int]]) -> list[int]:
        return sorted(
            {test for file, line in places for test in self.lines.get(file, {}).get(str(line), [])}
        )

    def of_file(self, file: str) -> list[int]:
        return sorted({test for tests in self.lines.get(file, {}).values() for test in tests})

    def covering(self, place: Place) -> tuple[list[int], bool]:
        """The tests to run, and whether they are known to execute the line."""
        own = self.of_lines([(place.file, place.line)]) or self.of_lines(
            [(place.file, place.first_line)]
        )
        if place.function and own:
            return own, True
        if not place.function or str(place.line) in self.lines.get(
            place.file, {}
        ):  # runs at import
            word = re.compile(rf"\b{place.name or place.function.split('.')[0]}\b")
            users = [
                (file, number)
                for file, source in self.sources.items()
                if word.search(source)
                for number, line in enumerate(source.splitlines(), 1)
                if word.search(line)
            ]
            if tests := (
                self.of_lines(user for user in users if user[0] == place.file)
                or self.of_lines(users)
                or self.of_file(place.file)
            ):
                return tests, True
        room = [
            number for number, (test, *_) in enumerate(self.tests) if room_of(test) == place.room
        ]
        return self.of_file(place.file) or room, False

    def ranked(self, numbers: Iterable[int], room: str) -> list[tuple[str, float, int]]:
        """Those of the same room first, then those that execute few files; few cases of one
        test.
        """
        cases = Counter[str]()
        ranked = []
        for test in sorted(
            (self.tests[number] for number in numbers),
            key=lambda test: (room_of(test[0]) != room, test[2], test[1]),
        ):
            cases[family(test[0])] += 1
            ranked.append((cases[family(test[0])] > MAX_CASES, test))
        return [test for _, test in sorted(ranked, key=lambda pair: pair[0])]

    def choose(self, place: Place, unfit: set[str]) -> tuple[list[str], float, bool]:
        """Names of tests, their seconds together, and whether they execute the line."""
        numbers, covered = self.covering(place)
        ranked = self.ranked(numbers, place.room)
        if (
            len(ranked) < MIN_TESTS
        ):  # where a result is kept in memory, only the first test executes the line
            ranked += self.ranked(set(self.of_file(place.file)) - set(numbers), place.room)
        chosen, seconds = list[str](), 0.0
        for name, duration, _ in ranked:
            if (
                name not in unfit
                and len(chosen) < MAX_TESTS
                and seconds + duration < MAX_TEST_SECONDS
            ):
                chosen.append(name)
                seconds += duration
        if not chosen:
            chosen = [
                name for name, *_ in sorted(ranked, key=lambda test: test[1]) if name not in unfit
            ][:1]
            seconds = 2 * MAX_TEST_SECONDS
        return chosen, seconds, covered


def draw(files: dict[str, bytes], count: int, seed: int, lines: Map) -> list[Place]:
    """The sample: each room has a share by its lines that can be changed."""
    rooms: dict[str, dict[tuple[str, int], list[Place]]] = defaultdict(lambda: defaultdict(list))
    for file, source in sorted(files.items()):
        for place in Places(file, source).places:
            if not ACCELERATOR.search(f"{file} {place.function}") or lines.of_lines(
                [(file, place.line)]
            ):
                rooms[place.room][file, place.line].append(place)
    total = sum(map(len, rooms.values()))
    shares = {room: count * len(by_line) / total for room, by_line in rooms.items()}
    quotas = {room: int(share) for room, share in shares.items()}
    for room in sorted(shares, key=lambda room: quotas[room] - shares[room])[
        : count - sum(quotas.values())
    ]:
        quotas[room] += 1
    sample = []
    for room, by_line in rooms.items():
        rng = random.Random(f"{seed} {room}")
        for key in rng.sample(sorted(by_line), len(by_line))[: quotas[room]]:
            kind = rng.choice(sorted({place.kind for place in by_line[key]}))
            sample.append(rng.choice([place for place in by_line[key] if place.kind == kind]))
    random.Random(seed).shuffle(sample)
    return sample


def replayed(
    files: dict[str, bytes], records: list[dict[str, Any]]
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The mutants of an earlier record that a test noticed and whose statement still stands, once
    each.
    """
    wanted = {
        (
            record["function"].split(".")[-1],
            record["statement_before"],
            record["statement_after"],
        ): record
        for record in records
        if record["result"] in ("killed", "timeout")
    }
    names = {name for name, *_ in wanted}
    for file, source in sorted(files.items()):
        for place in Places(file, source).places:
            name = place.function.split(".")[-1]
            if name in names:
                texts = statements(source, place)
                key = name, texts["statement_before"], texts["statement_after"]
                if key in wanted:
                    yield place, wanted.pop(key)
    for record in wanted.values():
        print(
            "its statement is gone:",
            record["file"],
            record["function"],
            repr(record["before"]),
            flush=True,
        )


def replay(copy: Copy, files: dict[str, bytes], path: Path, out: Path) -> None:
    """Makes earlier mutants again. The tests that ran then run first, then all fast tests of the
    room and of the rooms of those that noticed it.
    """
    fast = "not slow and not gpu"
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", fast, "tests"],
        cwd=copy.tree,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    done = {json.loads(line)["id"] for line in out.open()} if out.exists() else set()
    counts = Counter[str]()
    for place, record in replayed(files, list(map(json.loads, path.open()))):
        if place.id in done:
            continue
        tests = [
            test for test in dict.fromkeys([*record["by"], *record["tests"]]) if test in listed
        ]
        rooms = sorted({place.room, *map(room_of, record["by"])})
        of_rooms = ["-m", fast, *(f"tests/{room}" for room in rooms)]
        result, unfit = "survived", list[str]()
        for arguments in ([tests] if tests else []) + [of_rooms]:
            while result == "survived":
                with copy.changed(place):
                    outcome = copy.run(["-x", *arguments, *unfit], 600)
                if outcome.result == "passed":
                    break
                clean = copy.run(["-x", *outcome.failed], 600) if outcome.failed else None
                if outcome.result == "timeout" or clean is None or clean.result == "passed":
                    result = "killed"
                unfit += [f"--deselect={test}" for test in outcome.failed]
        counts[result] += 1
        with out.open("a") as stream:
            stream.write(
                json.dumps(
                    {
                        "id": place.id,
                        "was": record["id"],
                        "result": result,
                        "by": outcome.failed[:1],
                    }
                )
                + "\n"
            )
        print(
            f"{result:12}{place.file}:{place.line} {record['before']!r} -> {place.text!r}",
            flush=True,
        )
    print(dict(counts))


def statements(source: bytes, place: Place) -> dict[str, str]:
    """The statement before and after, in the layout of `ast.unparse`, by which a replay finds it
    again.
    """
    changed = source[: place.start] + place.text.encode() + source[place.end :]
    after = place.start + len(place.text.encode())
    return {
        "statement_before": statement_at(source, place.start, place.end),
        "statement_after": statement_at(changed, place.start, after),
    }


def judge(place: Place, copy: Copy, lines: Map, fit: set[str], unfit: set[str]) -> dict[str, Any]:
    """Runs the tests on the change. One that fails counts only if it passes without the change."""
    while True:
        chosen, seconds, covered = lines.choose(place, unfit)
        timeout_s = 30 + 4 * seconds
        with copy.changed(place):
            outcome = copy.run(["-x", *chosen], timeout_s) if chosen else Outcome("passed", [])
        failed = [test for test in outcome.failed if test in chosen]
        answer = {"tests": chosen, "by": failed[:1]}
        if outcome.result == "passed":
            fit.update(chosen)
            return {"result": "survived" if covered and chosen else "not covered", **answer}
        suspects = failed or chosen
        if not fit.issuperset(suspects):
            clean = copy.run(["-x", *suspects], timeout_s)
            if clean.result != "passed":
                unfit.update(clean.failed if set(clean.failed) & set(suspects) else suspects)
                continue
            fit.update(suspects)
        return {"result": "timeout" if outcome.result == "timeout" else "killed", **answer}


def report(records: list[dict[str, Any]]) -> str:
    results = ("killed", "timeout", "survived", "not covered")
    lines = [f"{'room':14}{'mutants':>12}" + "".join(f"{result:>12}" for result in results)]
    for room in [*sorted({record["room"] for record in records}), "all"]:
        of_room = [record["result"] for record in records if room in ("all", record["room"])]
        counts = (len(of_room), *map(of_room.count, results))
        lines.append(f"{room:14}" + "".join(f"{count:12}" for count in counts))
    alive = [record for record in records if record["result"] in ("survived", "not covered")]
    lines.extend(
        "{result:12}{file}:{line}  {before}  ->  {after}".format(**record)
        for record in sorted(alive, key=lambda record: (record["file"], record["line"]))
    )
    return "\n".join(lines)


def make_map(copy: Copy, path: Path, minutes: float, tree: str) -> None:
    print(f"measuring which test executes which line, for {minutes:g} minutes at most", flush=True)
    started = time.monotonic()
    copy.run(
        ["-m", "not slow and not gpu", "tests"],
        60 * minutes + 900,
        functools.partial(Map.measure, copy, minutes, tree),
    )
    if not (copy.scratch / "map.json.gz").exists():
        sys.exit((copy.scratch / "log.txt").read_text()[-3000:])
    shutil.copy(copy.scratch / "map.json.gz", path)
    print(f"{path}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--count", type=int, default=150, help="mutants in all (default 150)")
    add("--seed", type=int, default=1, help="another seed draws other mutants (default 1)")
    add(
        "--replay",
        type=Path,
        metavar="FILE",
        help="only the mutants of this record that a test noticed",
    )
    add(
        "--out", type=Path, required=True, help="JSON Lines, one line for each mutant; is continued"
    )
    add(
        "--map",
        type=Path,
        help="which test executes which line; measured if missing (default OUT.map.gz)",
    )
    add("--map-min", type=float, default=60, help="minutes for the map at most (default 60)")
    add(
        "--budget-min",
        type=float,
        default=1e9,
        help="no further mutant starts after so many minutes",
    )
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.budget_min
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    map_path = (options.map or options.out.with_name(options.out.name + ".map.gz")).resolve()
    with tempfile.TemporaryDirectory(prefix="mutants_", ignore_cleanup_errors=True) as scratch:
        copy = Copy(Path(scratch))
        files = {
            str(path.relative_to(copy.tree)): path.read_bytes()
            for path in sorted((copy.tree / PACKAGE).rglob("*.py"))
        }
        if options.replay:
            replay(copy, files, options.replay, options.out)
            return
        tree = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
        if not map_path.exists():
            make_map(copy, map_path, options.map_min, tree)
        with gzip.open(map_path, "rt") as stream:
            content = json.load(stream)
        records = [json.loads(line) for line in options.out.open()] if options.out.exists() else []
        if {content["tree"], *(record["tree"] for record in records)} != {tree}:
            sys.exit(f"{map_path} or {options.out} is of another state of {PACKAGE}/; move it away")
        lines = Map(content, {file: source.decode() for file, source in files.items()})
        fit, unfit = set[str](), set(content["failed"])
        sample = draw(files, options.count, options.seed, lines)
        done = {record["id"] for record in records}
        for number, place in enumerate(sample, 1):
            if place.id in done or time.monotonic() > end:
                continue
            started = time.monotonic()
            record = {
                "id": place.id,
                "tree": tree,
                "room": place.room,
                "file": place.file,
                "line": place.line,
                "function": place.function,
                "kind": place.kind,
                "before": files[place.file][place.start : place.end].decode(),
                "after": place.text,
                **statements(files[place.file], place),
                **judge(place, copy, lines, fit, unfit),
            }
            record["seconds"] = round(time.monotonic() - started, 1)
            records.append(record)
            with options.out.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            print(
                f"{number}/{len(sample)}",
                "{result:12}{file}:{line} {before!r} -> {after!r} ({seconds} s)".format(**record),
                flush=True,
            )
        print(report(records))


if __name__ == "__main__":
    main()
