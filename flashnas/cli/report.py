"""`flashnas report`."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as experiments/runs/first_search")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from flashnas.report import front_table, write_report
    from flashnas.study.run import Run

    html, png = write_report(options.run)
    if options.json:
        print(json.dumps({"run": options.run, "html": str(html), "png": str(png)}))
    else:
        print(front_table(Run.load(options.run)))
        print(f"report  {html}\npicture {png}")
    return 0
