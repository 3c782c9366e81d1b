"""The share of an H100's peak that one operator can reach in a training, estimated; no GPU has
measured it.

    python benchmarks/training_share.py [--width 1280] [--batch 8] [--tokens 2048]

From rows of the table h100_sxm, which others measured with the kernels of inference engines: the
time of a prompt pass of `batch` sequences of `tokens` tokens, by parts. A backward pass has twice
the products, so that a training takes three times as long and has three times the FLOPs, and the
share is that of the prompt pass. `fused` has one kernel for each norm and gate, `unfused` the
separate kernels of eager torch; a training by flashnas lies between the two. The last column is the
share of the time that rules derive and no row gives.
"""

import argparse

import flashnas as fn
from flashnas.base.errors import MissingRowsError
from flashnas.latency.calibration import Calibration
from flashnas.latency.prediction import LatencyModel
from flashnas.operators import OPERATORS

PEAK = 989e12  # FLOP/s, dense bfloat16
parser = argparse.ArgumentParser()
for name, default in (("width", 1280), ("batch", 8), ("tokens", 2048)):
    parser.add_argument(f"--{name}", type=int, default=default)
options = parser.parse_args()
workload = fn.Workload(batch=options.batch, prompt_tokens=options.tokens)
models = {
    stack: LatencyModel("h100_sxm", workload, calibration=Calibration(stack=stack))
    for stack in ("fused", "unfused")
}
empty = fn.Architecture.parse(f"{options.width}: f").prefill_flops(options.tokens)
print(f"{'operator':9} {'GFLOP':>6} {'fused':>9} {'':5} {'unfused':>9} {'':5} {'not measured':>12}")
for kind in (kind for kind in OPERATORS.shipped if OPERATORS[kind].layer):
    network = fn.Architecture.parse(f"{options.width}: f {kind}")
    flops = options.batch * (network.prefill_flops(options.tokens) - empty)
    columns, derived = [], 0.0
    for model in models.values():
        try:
            parts = [part for part in model.estimate(network).breakdown if part["index"] == 1]
        except MissingRowsError:
            break
        ms = sum(part["ms"] for part in parts)
        derived = (
            sum(part["ms"] for part in parts if part["source"] in ("derived", "roofline")) / ms
        )
        columns.append(f"{ms:6.2f} ms {flops / ms * 1e3 / PEAK:5.0%}")
    if columns:
        print(f"{kind:9} {flops / 1e9:6.0f} {'  '.join(columns)} {derived:12.0%}")
