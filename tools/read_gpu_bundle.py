"""Show what `make gpu` found on a machine, from the bundle that tools/gpu_bundle.py wrote there.

    python tools/read_gpu_bundle.py flashnas_gpu.zip
    python tools/read_gpu_bundle.py flashnas_gpu.zip --unpack bundle    # its files to a new folder

Exit code 1 says that a step did not pass. A bundle is a foreign file: its archive is checked before
anything is unpacked, and its text is shown without what a terminal obeys.
"""

from __future__ import annotations

import argparse
import re
import stat
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.documents import convert
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.foreign import check_regular, parse_json
from flashnas.base.text import duration, first_line, printable

MAX_TAIL_LINES = 12  # of the log of a step that did not pass
MAX_TAIL_BYTES = 2000
MAX_ZIP_MB = 200  # unpacked
MAX_ZIP_FILES = 1000
ZIP_NAME = re.compile(r"(?!\.)[\w.-]{1,100}(/(?!\.)[\w.-]{1,100}){0,8}", re.ASCII)
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack without a limit


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of `make gpu`; `status` is passed, failed, over its limit, interrupted or not
    started.
    """

    name: str
    limit_s: float
    status: str
    seconds: float
    command: str
    counts: str = ""


@dataclass(frozen=True, kw_only=True)
class Steps:
    device: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What the machine has to compile and hold kernels, and what is to be done where it lacks
    it.
    """

    check: str
    value: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Test:
    """One case of the self-test of `flashnas doctor`."""

    operator: str
    dtype: str
    backend: str
    status: str
    runs: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Tests:
    tests: tuple[Test, ...]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What benchmarks/training_steps.py writes of one network."""

    network: str
    tokens_per_s: float
    share_of_peak: float
    memory_bytes: float
    first_steps_s: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Predictions of one metric against networks that the fit has not seen; errors are relative."""

    metric: str
    count: int
    mean_error: float
    max_error: float
    spearman: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    metrics: tuple[Metric, ...]


def read_zip(path: Path) -> dict[str, bytes]:
    """The content of each file of a zip archive, by its name: `table/meta.yaml`. Refused are links,
    names that could lead out of a folder or are there twice, and sizes beyond the limits, which are
    counted before anything is unpacked."""
    place = printable(check_regular(path, ConfigError, max_mb=MAX_ZIP_MB))
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if not part.is_dir()]
            if len(parts) > MAX_ZIP_FILES:
                raise ConfigError(
                    f"{place}: must hold at most {MAX_ZIP_FILES:,} files; got {len(parts):,}"
                )
            if (size_mb := sum(part.file_size for part in parts) / 1e6) > MAX_ZIP_MB:
                raise ConfigError(
                    f"{place}: must unpack to at most {MAX_ZIP_MB} MB; got {size_mb:,.0f} MB"
                )
            content: dict[str, bytes] = {}
            for part in parts:
                inside = f"{place}: {printable(part.filename)}"
                if not ZIP_NAME.fullmatch(part.filename) or part.filename in content:
                    raise ConfigError(f"{inside}: must be a plain name that is there once")
                if stat.S_ISLNK(part.external_attr >> 16) or part.compress_type not in ZIP_METHODS:
                    raise ConfigError(f"{inside}: must be a regular file, stored or deflated")
                with archive.open(
                    part
                ) as file:  # read() without a size may unpack 2 GB before it counts
                    content[part.filename] = file.read(part.file_size)
            return content
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as caught:
        raise ConfigError(
            f"{place}: damaged, not readable as a zip archive: {first_line(caught)}"
        ) from None


def shown(path: Path, files: dict[str, bytes]) -> tuple[list[str], bool]:
    """The text of a bundle, and whether all its steps passed."""

    def read(name: str, kind: Any) -> Any:
        place = f"{path}: {name}"
        return convert(parse_json(files[name], place, ConfigError), kind, place, ConfigError)

    if "steps.json" not in files:
        raise ConfigError(f"{path}: is not a bundle of `make gpu`; it holds no steps.json")
    record = read("steps.json", Steps)
    failed = [step for step in record.steps if step.status != "passed"]
    count = len(record.steps)
    lines = [f"`make gpu` on {record.device}: {count - len(failed)} of {count} steps passed"]
    for check in read("install.json", tuple[Check, ...]) if "install.json" in files else ():
        problem = f"; {check.problem}" if check.problem else ""
        lines.append(f"{check.check}: {check.value or 'missing'}{problem}")
    lines += [
        f"{step.name:<24} {step.status:<15} {duration(step.seconds)} of {duration(step.limit_s)}"
        + (f": {step.counts}" if step.counts else "")
        for step in record.steps
    ]
    tests = read("doctor.json", Tests).tests if "doctor.json" in files else ()
    ran = [test for test in tests if test.status != "refused"]
    if ran:
        lines.append(
            f"self-test: {sum(test.status == 'passed' for test in ran)} of {len(ran)} passed"
        )
    lines += [
        f"{test.operator} by {test.runs or test.backend} in {test.dtype}, {test.status}:"
        f" {test.reason}"
        for test in ran
        if test.status != "passed"
    ]
    for name in files:
        if name.startswith("train_") and name.endswith(".json"):
            training = read(name, Training)
            lines.append(
                f"{training.network}: {training.tokens_per_s:,.0f} tokens/s,"
                f" {training.share_of_peak:.1%} of the peak, {training.memory_bytes / 2**30:.2f}"
                " GiB,"
                f" first steps {training.first_steps_s:.0f} s"
            )
    for step in record.steps:
        log = files.get(f"{step.name}.log", b"").splitlines()
        if step.name.startswith("validate_") and step.status == "passed" and log:
            place = f"{path}: {step.name}.log"
            said = convert(parse_json(log[-1], place, ConfigError), Validated, place, ConfigError)
            lines += [
                f"{step.name} {each.metric}: error {each.mean_error:.1%} in the mean of"
                f" {each.count}, {each.max_error:.1%} at most, Spearman {each.spearman}"
                for each in said.metrics
            ]
    for step in failed:
        lines.append(f"{step.name}, {step.status}: {step.command}")
        log = files.get(f"{step.name}.log", b"")[-MAX_TAIL_BYTES:].decode(errors="replace")
        lines += [f"  {line}" for line in log.strip().splitlines()[-MAX_TAIL_LINES:]]
    lines += [
        f"it holds a latency table; after --unpack DIR: flashnas table info DIR/{table}"
        for table, found, _ in (name.partition("/meta.yaml") for name in files)
        if found
    ]
    return [printable(line) for line in lines], not failed


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Write the files to a folder, which must not exist yet."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--unpack", type=Path, metavar="DIR", help="also write the files to this new folder"
    )
    options = parser.parse_args()
    try:
        files = read_zip(options.bundle)
        lines, passed = shown(options.bundle, files)
        if options.unpack is not None:
            unpack(files, options.unpack)
    except (FlashnasError, OSError) as error:
        parser.error(str(error))
    print("\n".join(lines))
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
