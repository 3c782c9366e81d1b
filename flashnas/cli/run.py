"""The command that is more than a function of the API: `search`, with --dry-run its plan."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from flashnas.api.search import SearchOptions, default_out
from flashnas.base.settings import option
from flashnas.cli.command import command_line, show
from flashnas.cli.progress import SearchProgress


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
