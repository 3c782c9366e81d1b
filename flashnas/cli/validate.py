"""`flashnas validate`."""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--table", required=True, help="latency table that was measured on this machine")
    add("--space", required=True, help="shipped search space or YAML file whose architectures are built and timed")
    add("-n", "--count", type=int, default=20, help="architectures (default: 20)")
    add("--workload", default="decode-1k", help="named workload or batch=..,prompt=..,generated=.."
                                                " (default: decode-1k)")
    add("--seed", type=int, default=0, help="fixes the architectures (default: 0)")
    add("--mode", help="eager, compiled or cuda_graph (default: the table's)")
    add("--backend", help="libraries that compute the operators (default: the table's)")
    add("--calibrate", action="store_true", help="fit what whole models cost beyond their operators to one half of the"
                                                 " architectures and report on the other")
    add("--allow-other-stack", action="store_true", help="compare even if the table is of another device or stack;"
                                                         " nothing is written")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from flashnas.base.errors import ConfigError
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.finalists import EFFORT
    from flashnas.profiling.setup import job_like
    from flashnas.profiling.validation import store, validate
    from flashnas.profiling.whole_model import time_model
    from flashnas.report.terminal_validation import validation_text
    from flashnas.space import load_operator_space

    least = 8 if options.calibrate else 1
    if options.count < least:
        raise ConfigError(f"-n must be at least {least}{' with --calibrate' if least > 1 else ''}; got {options.count}")
    if options.calibrate and options.allow_other_stack:
        raise ConfigError("--calibrate and --allow-other-stack exclude each other: a table is calibrated on its own"
                          " stack")
    table, space = LatencyTable.load(options.table), load_operator_space(options.space, "flashnas validate")
    workload = load_workload(options.workload)
    model = LatencyModel(table, workload, mode=options.mode)
    job = job_like(table, dtype=model.dtype, mode=options.mode, backend=options.backend, effort=EFFORT,
                   any_stack=options.allow_other_stack, hint="--allow-other-stack compares all the same")
    for hidden in space.hidden_sizes:
        model.check([space.build(space.kinds(), hidden)])
    result = validate(table, space, workload,
                      lambda a: time_model(a, workload, model.batch(a), job).to_dict(),
                      count=options.count, seed=options.seed, calibrate=options.calibrate, mode=options.mode,
                      progress=lambda found: tqdm(found, desc="validate", unit="model", file=sys.stderr))
    if not options.allow_other_stack:
        store(result, space, workload, seed=options.seed, calibrate=options.calibrate)
    report = result.to_dict()
    print(json.dumps(report) if options.json else validation_text(report))
    return 0
