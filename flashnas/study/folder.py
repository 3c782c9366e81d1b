"""What a run keeps on disk: run.yaml, the Optuna study, trials.parquet, pareto/NN.yaml, and measured.json where
finalists were timed. Nothing finished is lost.

The study holds each trained network the moment it is finished, in the order of completion; trials.parquet is the
trajectory in order. A continued run replays the trajectory and finds its networks in the study.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flashnas.base.errors import RunError
from flashnas.base.yaml import read_yaml
from flashnas.study.trial import Trial

MEASURED = "measured.json"
JSON_COLUMNS = ("genotype", "curve", "scores", "backends")
Outcome = dict[str, Any]  # {"hash", "notation", "score": dict | None, "reason": str}


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` as a whole, so that a reader or a crash never sees half a file."""
    payload = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def fingerprint(data: Any) -> str:
    """A short hash of JSON-ready data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]


class RunRecord:
    """The run folder of one search, open for writing by one process at a time."""

    def __init__(self, path: Path, *, question: dict[str, Any], facts: dict[str, Any], resume: bool,
                 storage: str | None = None, objectives: int = 2) -> None:
        """Create the folder, or continue it; raises RunError when it exists, is busy or answers another question."""
        self.path = path
        config_path = path / "run.yaml"
        if config_path.exists():
            self._check_same(read_yaml(config_path), question, resume)
        elif path.exists() and any(path.iterdir()):
            raise RunError(f"{path}: exists and is no run folder (it has no run.yaml); choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = open(path / ".lock", "w")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{path}: another process is writing this run") from None
        self.config = {**facts, "question": question}
        if not config_path.exists():
            self.write_config()
        self._study = self._open_study(storage, fingerprint(question), objectives)
        self.memory: dict[str, Outcome] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and "hash" in trial.user_attrs:
                self.memory.setdefault(trial.user_attrs["hash"], dict(trial.user_attrs["outcome"]))

    def _check_same(self, recorded: dict[str, Any], question: dict[str, Any], resume: bool) -> None:
        asked = json.loads(json.dumps(question))
        known = json.loads(json.dumps(recorded.get("question", {})))
        for key in sorted({*asked, *known}):
            if asked.get(key) != known.get(key):
                hint = ("; the run folder belongs to another space" if key.startswith("space") else "")
                raise RunError(f"{self.path}/run.yaml: question.{key} is {known.get(key)!r}, but this search asks"
                               f" {asked.get(key)!r}{hint}; choose another --out or the same question")
        if not resume:
            raise RunError(f"{self.path}: holds a run already; continue it with --resume or choose another --out")

    def _open_study(self, url: str | None, identity: str, objectives: int) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage: BaseStorage | str
        if url is None:
            journal = self.path / "study.journal"
            _drop_torn_line(journal)
            storage = JournalStorage(JournalFileBackend(str(journal)))
        else:
            storage = url
        try:
            return optuna.create_study(storage=storage, study_name=f"{self.path.name}-{identity}",
                                       directions=["minimize"] * objectives, load_if_exists=True)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            line = str(error).strip().splitlines()[0]
            raise RunError(f"storage {url or self.path / 'study.journal'}: cannot be opened: {line}") from None

    def remember(self, outcome: Outcome, *, params: dict[str, Any], distributions: dict[str, Any],
                 values: Sequence[float] | None) -> None:
        """Record one finished training at once; `values`: its objectives, all minimised, None if it failed."""
        self._study.add_trial(optuna.trial.create_trial(
            state=TrialState.COMPLETE if values is not None else TrialState.FAIL,
            values=values,
            params=params, distributions=distributions,
            user_attrs={"hash": outcome["hash"], "notation": outcome["notation"], "outcome": outcome}))
        self.memory[outcome["hash"]] = outcome

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """Figures of finalists that were timed in this run, by hash of the architecture."""
        path = self.path / MEASURED
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def remember_measured(self, figures: dict[str, dict[str, float]]) -> None:
        """Add timed finalists; a continued run does not time them again."""
        write_atomic(self.path / MEASURED, json.dumps({**self.measured, **figures}, indent=1))

    def write_config(self, **updates: Any) -> None:
        """Write run.yaml with the given entries replaced."""
        self.config.update(updates)
        write_atomic(self.path / "run.yaml", yaml.safe_dump(json.loads(json.dumps(self.config, default=str)),
                                                            sort_keys=False, width=120))

    def write_trials(self, trials: Sequence[Trial]) -> None:
        """Write the trajectory so far to trials.parquet."""
        rows = [{**trial.to_dict(), **{name: json.dumps(getattr(trial, name)) for name in JSON_COLUMNS}}
                for trial in trials]
        frame = pd.DataFrame(rows).astype({"hidden": "Int64", "params": "Int64", "proxy_params": "Int64",
                                           "tokens": "Int64", "seed": "Int64"})
        with _temporary(self.path) as name:
            frame.to_parquet(name, index=False)
            os.replace(name, self.path / "trials.parquet")

    def write_front(self, entries: Sequence[dict[str, Any]]) -> list[Path]:
        """Replace pareto/ by these architectures, one YAML file each; returns their paths in order."""
        folder, fresh = self.path / "pareto", self.path / ".pareto.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for number, entry in enumerate(entries, start=1):
            text = yaml.safe_dump(json.loads(json.dumps(entry)), sort_keys=False, width=120)
            write_atomic(fresh / f"{number:02d}.yaml", text)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
        return sorted(folder.glob("*.yaml"))


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[str]:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".part.")
    os.close(handle)
    try:
        os.chmod(name, 0o644)
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _drop_torn_line(journal: Path) -> None:
    """Cut a last line that a killed process left unfinished; Optuna would refuse to append after it."""
    if not journal.exists():
        return
    data = journal.read_bytes()
    if data and not data.endswith(b"\n"):
        with open(journal, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
