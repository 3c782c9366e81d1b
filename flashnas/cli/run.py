"""The commands that are more than a function of the API: `search`, with --dry-run its plan, and
`train`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from flashnas.api.search import SearchOptions, default_out
from flashnas.api.train import TrainOptions
from flashnas.base.errors import CandidateError
from flashnas.base.settings import option
from flashnas.cli.command import command_line, show
from flashnas.cli.progress import SearchProgress, TrainingProgress

DIVERGED = 4  # of a training that ended with NaN, divergence or without memory


@dataclass(frozen=True, kw_only=True)
class SearchCommandOptions(SearchOptions, where="search"):
    """The options of the search, and those that only the command line has."""

    dry_run: bool = option(
        False,
        "print what would be trained, how many tokens and FLOPs; train nothing",
        yaml=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # known before the search begins, because the command that continues it names the folder
        if self.out is None:
            object.__setattr__(self, "out", default_out(self, {}))


def search(options: SearchCommandOptions, as_json: bool) -> int:
    from flashnas.api import search as api

    if options.dry_run:
        from flashnas.api.search import plan

        show(plan(options, note=lambda text: print(text, file=sys.stderr)), as_json)
        return 0
    with SearchProgress(sys.stderr, "searching") as progress:
        result = api.search(options, progress=progress, command=command_line())
    if as_json:
        print(json.dumps(result.summary))
    else:
        show(
            "\n".join(
                [
                    *filter(None, (str(result), result.effort())),
                    f"report  {result.path / 'report.html'}; beside it pareto.png and pareto/",
                ]
            ),
            as_json,
        )
    return 0


def train(options: TrainOptions, as_json: bool) -> int:
    """`flashnas train`."""
    from flashnas.api import train as api

    with TrainingProgress(sys.stderr, "reading the text") as progress:
        try:
            result = api.train(options, progress=progress, command=command_line())
        except CandidateError as error:
            print(f"flashnas train: {error}", file=sys.stderr)
            return DIVERGED
    show(result, as_json)
    return 0
