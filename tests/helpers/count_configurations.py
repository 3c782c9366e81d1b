"""Counts the configurations that Triton's autotuner would try for layers on a GPU, without one and
without compiling any: that is what the first minutes of the tests of a GPU are made of.

    python tests/helpers/count_configurations.py 'd(head_dim=64) 256' 'gd 2048'    # prints the sums
"""

import contextlib
import os
import sys

import compile_kernels
import torch


def main(cases):
    os.environ |= {"FLA_CACHE_RESULTS": "0", "TORCHDYNAMO_DISABLE": "1"}
    compiler = compile_kernels.Compiler(90)
    compiler.install()
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    tried = []

    def bench(tuner, *words, config, **options):
        tried.append(config)
        return [0.0] * 3

    Autotuner._bench, JITFunction.run = bench, lambda *words, **options: None
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None
    from flashnas.operators.backends.core import Core

    Core.of = lambda core, x: core.kernels("cuda", x.dtype)
    torch.autocast = lambda *_, **__: contextlib.nullcontext()
    for case in cases:
        notation, width = case.rsplit(" ", 1)
        compile_kernels.compile_operator(compiler, notation, int(width))
        print(len(tried))


if __name__ == "__main__":
    main(sys.argv[1:])
