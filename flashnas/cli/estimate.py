"""`flashnas estimate`."""

from __future__ import annotations

import argparse
import json

from flashnas.architecture.source import load_architecture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("arch", metavar="ARCH", help="preset, pareto/NN.yaml or notation such as '2048: 3x(d f m2 f)'")
    add("--table", default="h100_sxm", help="shipped latency table or folder (default: h100_sxm)")
    add("--workload", default="decode-8k", help="named workload or batch=..,prompt=..,generated=..")
    add("--stack", help="kernels of the serving stack: fused or unfused (default: the one the table is calibrated for)")
    add("--mode", help="eager, compiled or cuda_graph, of a table with several (default: the table's)")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from flashnas.latency.memory import check_fits
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.workload import load_workload
    from flashnas.report.terminal_estimate import estimate_text

    architecture = load_architecture(options.arch)
    table = LatencyTable.load(options.table)
    workload = load_workload(options.workload)
    model = LatencyModel(table, workload, stack=options.stack, mode=options.mode)
    check_fits(architecture, workload, table.device, model.dtype)
    estimate = model.estimate(architecture)
    if options.json:
        print(json.dumps({"notation": architecture.notation, "hash": architecture.hash, **estimate.to_dict()}))
    else:
        print(estimate_text(architecture, estimate, table, workload))
    return 0
