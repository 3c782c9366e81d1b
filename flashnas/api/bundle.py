"""What `make gpu` found on a machine, read back.

tools/gpu_bundle.py writes such a file: `steps.json`, a log of each step, `install.json`, `doctor.json`,
`train_*.json` and a latency table in `table/`. Whatever is missing belongs to a step that did not finish.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from flashnas.api.calling import Figures, check_out
from flashnas.base.errors import ConfigError
from flashnas.base.files import disk_errors
from flashnas.base.foreign import parse_json, read_zip
from flashnas.base.schema import convert
from flashnas.base.settings import Settings

T = TypeVar("T")

MAX_TAIL_LINES = 12   # of a log, in the text
MAX_TAIL_BYTES = 2000


@dataclass(frozen=True, kw_only=True)
class BundleStep:
    """One step of `make gpu`; `status` is passed, failed, over its limit, interrupted or not started."""

    name: str
    limit_s: float
    status: str
    seconds: float
    command: str


@dataclass(frozen=True, kw_only=True)
class InstallCheck:
    """What the machine has to compile and hold kernels, and what is to be done where it lacks it."""

    check: str
    value: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class OperatorTest:
    """One case of the self-test, as `flashnas doctor --out` writes it."""

    operator: str
    dtype: str
    backend: str
    status: str
    runs: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingSteps:
    """What benchmarks/training_steps.py writes of one network."""

    network: str
    tokens_per_s: float
    share_of_peak: float
    memory_bytes: float
    first_steps_s: float


@dataclass(frozen=True, kw_only=True)
class _Steps:
    device: str
    steps: tuple[BundleStep, ...]


@dataclass(frozen=True, kw_only=True)
class _SelfTest:
    tests: tuple[OperatorTest, ...]


def read_bundle(options: Settings, path: Path) -> Figures:
    """The bundle in a file; its files are written to the folder `options.unpack`, if that is given."""
    from flashnas.report.terminal_device import bundle_text

    files = read_zip(path, ConfigError)
    if "steps.json" not in files:
        raise ConfigError(f"{path}: is not a bundle of `make gpu`; it holds no steps.json")

    def read(name: str, kind: type[T]) -> T:
        place = f"{path}: {name}"
        return convert(parse_json(files[name], place, ConfigError), kind, place, ConfigError)

    record = read("steps.json", _Steps)
    folder: Path | None = getattr(options, "unpack", None)
    if folder is not None:
        check_out(options, "unpack", empty=True)
        with disk_errors(f"doctor.unpack: {folder}", ConfigError):
            for name, content in files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    checks = read("install.json", tuple[InstallCheck, ...]) if "install.json" in files else ()
    tests = read("doctor.json", _SelfTest).tests if "doctor.json" in files else ()
    trainings = [read(name, TrainingSteps) for name in files
                 if name.startswith("train_") and name.endswith(".json")]
    return Figures({
        "path": str(path), "device": record.device, "checks": list(map(asdict, checks)),
        "steps": [{**asdict(step), "tail": _tail(step, files)} for step in record.steps],
        "tests": list(map(asdict, tests)), "trainings": list(map(asdict, trainings)),
        "table": "table/meta.yaml" in files, "unpacked": None if folder is None else str(folder),
        "healthy": all(step.status == "passed" for step in record.steps)}, bundle_text)


def _tail(step: BundleStep, files: dict[str, bytes]) -> str:
    """The last lines of the log of a step that did not pass."""
    if step.status == "passed":
        return ""
    log = files.get(f"{step.name}.log", b"")[-MAX_TAIL_BYTES:].decode(errors="replace")
    return "\n".join(log.strip().splitlines()[-MAX_TAIL_LINES:])
