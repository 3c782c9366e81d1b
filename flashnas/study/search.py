"""The whole flow on one page: space -> architecture -> latency -> short training -> search ->
front.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashnas.base.process import terminate_as_interrupt
from flashnas.base.registry import foreign_errors
from flashnas.runs.folder import check_out
from flashnas.runs.snapshot import Progress
from flashnas.study.config import SearchConfig
from flashnas.study.finish import finish
from flashnas.study.opening import executor_of, opened
from flashnas.study.prepare import prepare


def run_search(
    config: SearchConfig,
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    command: str = "",
    **objects: Any,
) -> dict[str, Any]:
    """Search, and leave a run folder. resume: continue the run in `out` if there is one; else an
    existing run is an error. objects: in place of names in `config`, as `prepare`.

    Returns:
        The object of `flashnas search --json`: run, front, trials (counts by state), from_bench (of
        the
            complete ones, those whose score a bench or an earlier run had), failures (reason ->
            count), seconds, and what `flashnas.study.record.Record.tokens` counts.

    Raises:
        FlashnasError: in one line, for whatever the user can change.
    """
    check_out(out, resume=resume, evaluated=objects.get("evaluator") is not None)
    with terminate_as_interrupt():
        question = prepare(config, note=progress.note, **objects)
        with (
            _place_of_a_full_disk(out),
            foreign_errors(("progress object", progress), *question.foreign(), direct=False),
        ):
            executor = executor_of(question, progress.note)
            with (
                opened(
                    question, executor, out, resume=resume, progress=progress, command=command
                ) as loop,
                executor,
            ):
                before = loop.folder.ended_as(config.given()) if question.timing is None else None
                if before is not None:
                    return before
                loop.folder.write_config(options=config.given())
                for line in (*question.notes, *question.evidence_lines()):
                    progress.note(line)
                if question.config.trials and question.recipe is not None:
                    progress.note(str(loop.record.clock))
                if question.config.trials:
                    loop.search(executor)
                else:
                    loop.answer_by_evidence()
                return finish(loop)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error
