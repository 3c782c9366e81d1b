"""What a search opens before its first evaluation: its folder, its record and its state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flashnas.executors import Executor
from flashnas.runs.folder import RunFolder
from flashnas.runs.snapshot import Progress
from flashnas.study.asynchronous import Asynchronous
from flashnas.study.cycles import Cycles
from flashnas.study.executor import side_by_side
from flashnas.study.identity import identity_of, run_facts
from flashnas.study.loop import State
from flashnas.study.question import Question
from flashnas.study.record import Record


@contextlib.contextmanager
def opened(question: Question, executor: Executor, out: Path, *, resume: bool, progress: Progress,
           command: str,
           kind: type[State] | None = None) -> Iterator[State]:
    """The state of a search with its folder, before the first evaluation; kind: None: as the question
    asks."""
    with RunFolder(out, identity=identity_of(question), facts=run_facts(question, out, command, executor),
                   resume=resume, storage=question.config.storage, note=progress.note) as folder:
        record = Record(question, folder, progress, side_by_side(question, executor, progress.note))
        yield (kind or (Asynchronous if question.config.asynchronous else Cycles))(record)
