"""`flashnas export`."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of trained weights, or with --init-seed a preset, pareto/NN.yaml or"
                                         " notation")
    add("--to", required=True, metavar="TARGET", help="hf (transformers, lm-evaluation-harness) or nemotron-flash"
                                                      " (runtimes that load the released Nemotron-Flash)")
    add("--out", required=True, metavar="DIR", help="folder to write; must not hold anything yet")
    add("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    add("--init-seed", type=int, metavar="N", help="draw the weights of an architecture, to time it in a runtime")
    add("--tokenizer", metavar="FILE", help="tokenizer.json to include (default: that of the trained weights)")
    add("--raw-logits", action="store_true", help="nemotron-flash: allow a head whose rows are not of norm 1, for"
                                                  " runtimes that do not divide by it")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    from flashnas.export.exporter import export_network
    from flashnas.export.source import load_source

    source = load_source(options.source, init_seed=options.init_seed, tokenizer=options.tokenizer)
    report = export_network(source, options.to, options.out, dtype=options.dtype, raw_logits=options.raw_logits)
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{report['out']}: {report['notation']}\n{report['params']:,} parameters in {report['dtype']},"
          f" {report['source']}")
    found = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in report["parity"].items())
    print(f"checked against the original (largest difference / largest logit): {found}")
    for note in report["notes"]:
        print(f"note: {note}")
    return 0
