"""`flashnas proxy-trust`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

PLAIN_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", help="finished run folder, such as experiments/runs/first_search")
    add("--results", metavar="FILE", help="analyse a table of trainings (CSV) and train nothing")
    add("--architectures", type=int, default=24, help="how many, the front first, then spread over the ranking"
                                                      " (default: 24)")
    add("--seeds", type=int, default=2, help="trainings of each kind, the run's own one included (default: 2)")
    add("--longer", type=int, default=4, help="tokens of a long training over those of the run (default: 4)")
    add("--wider", metavar="N|none", default="none", help="also train networks N times as wide (default: none)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="worker processes, one thread each (default: all"
                                                                 " cores)")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from flashnas.base.errors import ConfigError

    if (options.run is None) == (options.results is None):
        raise ConfigError("proxy-trust takes either a run folder or --results FILE")
    if options.workers < 1:
        raise ConfigError(f"--workers must be at least 1; got {options.workers}")
    if options.wider != "none" and not options.wider.isdecimal():
        raise ConfigError(f"--wider must be a whole number or 'none'; got {options.wider!r}")

    from flashnas.report.terminal_trust import headline, trust_text, verdict
    from flashnas.report.trust_figure import write_trust_figure
    from flashnas.report.trust_section import FOUND, PICTURE
    from flashnas.study.folder import write_atomic
    from flashnas.study.run import Run
    from flashnas.trust.study import FILE, Plan, study, study_results

    if options.results is not None:
        results = Path(options.results)
        table, trust = study_results(results)
    else:
        plan = Plan(architectures=options.architectures, seeds=options.seeds, longer=options.longer,
                    wider=None if options.wider == "none" else int(options.wider))
        searched = Run.load(options.run)
        results = searched.path / FILE
        with TrustProgress(sys.stderr) as progress:
            table, trust = study(searched, plan, workers=options.workers, progress=progress.update)
    picture = results.parent / PICTURE
    found = trust.to_dict()
    write_trust_figure(table, headline(found), picture)
    summary = {"run": options.run, "results": str(results), "picture": str(picture), "verdict": verdict(found),
               **found}
    if options.run is not None:
        write_atomic(results.parent / FOUND, json.dumps(summary))  # for flashnas report
    if options.json:
        print(json.dumps(summary))
    else:
        print(trust_text(found))
        print(f"\ntrainings {results}\npicture   {picture}")
    return 0


class TrustProgress:
    """Trainings done and time left on stderr: one line redrawn on a terminal, elsewhere one every 15 seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._last, self._width = 0.0, 0

    def __enter__(self) -> TrustProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write("\n")

    def update(self, done: int, total: int, remaining_s: float) -> None:
        from flashnas.cli.progress import duration

        now = time.monotonic()
        if not self._live and now - self._last < PLAIN_S and done < total:
            return
        self._last = now
        text = f"[{done}/{total}] trainings, {duration(remaining_s)} left"
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
