"""Run the Triton kernels that our layers launch, without a GPU: ttsem executes Triton's IR on a CPU,
and stops at an access outside of a tensor, at a race and at an undefined value.

    python3.12 -m venv kernels
    kernels/bin/pip install 'ttsem[triton]==0.1.0' flash-linear-attention einops pyyaml msgspec
    PYTHONPATH=.:tools kernels/bin/python -m ttsem.sanitize tools/run_kernels.py -- --tokens 70

Each operator is checked as `flashnas doctor` checks it on a GPU: outputs, states, gradients and a
step against the float64 reference, in bfloat16. It takes one to four minutes an operator. An
autotuned kernel runs in its first configuration. `--mamba-ssm FOLDER` takes mamba-ssm for `m2`, as
tools/compile_kernels.py does. The exit code is 1 if a kernel is at fault or a number is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from compile_kernels import use_sources

OPERATORS = (
    "d(head_dim=32)",
    "gd(head_dim=32,k_heads=1,expand_v=2)",
    "gla(head_dim=32)",
    "m2(head_dim=16,state=16,groups=2)",
    "kda(head_dim=32)",
    "r7(head_dim=32)",
)


def run() -> int:  # ttsem gives a function of the name main words of its own
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("operators", nargs="*", default=list(OPERATORS), help="notations")
    parser.add_argument("--tokens", type=int, default=70, help="of each sequence")
    parser.add_argument("--width", type=int, default=64, help="of the layer")
    parser.add_argument("--mamba-ssm", type=Path, metavar="FOLDER", help="unpacked sources")
    options = parser.parse_args()
    os.environ["FLA_CACHE_RESULTS"] = "0"  # what is not timed must not be remembered
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    if options.mamba_ssm:
        use_sources(options.mamba_ssm)
    from triton.runtime.autotuner import Autotuner

    from flashnas.operators.backends.core import LIBRARIES
    from flashnas.testing import forms, self_test

    Autotuner._bench = lambda *_, **__: [0.0] * 3  # nothing is timed
    forms.replayed = lambda call: call()  # there are no graphs; the step runs once more
    for library in LIBRARIES.values():  # ttsem gives their kernels tensors of the CPU
        object.__setattr__(library, "devices", ("cuda", "cpu"))
    wrong = 0
    for operator in options.operators:
        backend = "mamba-ssm" if options.mamba_ssm and operator.startswith("m2") else "fla"
        test = self_test.check_layer(
            operator, backend, "bfloat16", tokens=options.tokens, hidden=options.width
        )
        errors = ", ".join(f"{form} {error:.0e}" for form, error in test.errors.items())
        print(f"{operator} by {test.runs}: {test.status} {test.reason}{errors}", flush=True)
        wrong += test.status != "passed"
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
