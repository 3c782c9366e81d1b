"""`flashnas search`, and with --dry-run its plan."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from flashnas.api.search import SearchOptions, default_out, plan, search
from flashnas.base.settings import option
from flashnas.cli.command import command_line, show
from flashnas.cli.progress import SearchProgress

MISSED = 3  # exit code of --strict


@dataclass(frozen=True, kw_only=True)
class SearchCommandOptions(SearchOptions, where="search"):
    """The options of the search, and those that only the command line has."""

    dry_run: bool = option(False, "print what would be trained, how many tokens and about how long; train nothing",
                           yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is None:  # known before the search begins, because the command that continues it names the folder
            object.__setattr__(self, "out", default_out(self, {}))


def run(options: SearchCommandOptions, as_json: bool) -> int:
    if options.dry_run:
        show(plan(options, note=lambda text: print(text, file=sys.stderr)), as_json)
        return 0
    with SearchProgress(sys.stderr) as progress:
        found = search(options, progress=progress, command=command_line())
    if as_json:
        print(json.dumps(found.summary))
    else:
        show("\n".join(filter(None, (str(found), found.effort()))), as_json)
        print(f"report  {found.path / 'report.html'}\npicture {found.path / 'pareto.png'}\n"
              f"front   {found.path / 'pareto'}/")
    over = [Path(entry["config"]).name for entry in found.summary["front"] if entry.get("missed")]
    if over and options.strict:
        print(f"flashnas search: over a budget as measured: {', '.join(over)}", file=sys.stderr)
        return MISSED
    return 0
