"""`flashnas profile`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--space", default="nemotron_flash", help="shipped search space or YAML file (default: nemotron_flash)")
    add("--workload", action="append", help="named workload or batch=..,prompt=..,generated=..; may be given several"
                                            " times (default: decode-8k)")
    add("--out", metavar="DIR", help="table folder, continued if it exists (default: latency_tables/<device name>)")
    add("--dtype", default="auto", help="float32 or bfloat16 (default: float32 on cpu, bfloat16 on cuda)")
    add("--mode", default="auto", help="eager, compiled (torch.compile, block by block; slow to start) or cuda_graph;"
                                       " each is a row of its own (default: eager on cpu, cuda_graph on cuda)")
    add("--backend", default="auto", help="libraries that compute the operators: auto, torch, fla, mamba-ssm,"
                                         " flash-attn or sdpa; part of each row's stack (default: auto, the best)")
    add("--threads", type=int, default=1, help="torch threads on a CPU (default: 1)")
    add("--seconds", type=float, default=2.0, help="longest time for what is measured together: one width at one length"
                                                 " (default: 2)")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from flashnas.latency.workload import load_workload
    from flashnas.profiling.device_timing import Effort
    from flashnas.profiling.profile import Job, profile
    from flashnas.space import load_operator_space

    job = Job(device=options.device, dtype=options.dtype, mode=options.mode, backend=options.backend,
              threads=options.threads, effort=Effort(seconds=options.seconds))
    space = load_operator_space(options.space, "flashnas profile")
    workloads = [load_workload(text) for text in options.workload or ["decode-8k"]]
    folder = Path(options.out or Path("latency_tables") / job.table_name())
    counts = profile(space, workloads, folder, job,
                     progress=lambda found: tqdm(found, desc="profile", unit="group", file=sys.stderr))
    if options.json:
        print(json.dumps({"table": str(folder), **counts}))
    else:
        disturbed = counts.get("disturbed", 0)
        print(f"{folder}: {counts['measured']} rows measured, {counts['known']} were there;"
              f" use it with --table {folder}")
        if disturbed:
            print(f"the device was slower than usual while {disturbed} rows were measured, twice in a row; delete the"
                  " folder and profile again when nothing else runs", file=sys.stderr)
    return 0
