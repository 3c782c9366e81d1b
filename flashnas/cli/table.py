"""`flashnas table info|import|merge`."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="what a table can answer and where its rows are from")
    info.add_argument("table", metavar="TABLE", help="shipped table or folder")
    fetch = actions.add_parser("import", help="turn public measurements into a table")
    fetch.add_argument("source", choices=["aiconfigurator"], help="whose measurements")
    fetch.add_argument("system", help="system of the source, such as h100_sxm")
    fetch.add_argument("--path", help="wheel or unpacked folder of the source (default: the installed package)")
    fetch.add_argument("--out", required=True, metavar="DIR", help="table folder to write")
    merge = actions.add_parser("merge", help="rows of two tables of one device in one table")
    merge.add_argument("first", help="its rows count where both have one")
    merge.add_argument("second")
    merge.add_argument("--out", required=True, metavar="DIR", help="table folder to write")
    for action in (info, fetch, merge):
        action.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.table_writer import merge

    if options.action == "info":
        table = LatencyTable.load(options.table)
    elif options.action == "import":
        from flashnas.latency.importers.aiconfigurator import import_system

        import_system(options.system, options.path, options.out)
        table = LatencyTable.load(options.out)
    else:
        merge(options.first, options.second, options.out)
        table = LatencyTable.load(options.out)
    print(json.dumps(table.info(), default=str) if options.json else table.describe())
    return 0
