"""What llama.cpp's attention in one pass, its default, costs on a CPU: milliseconds of a step by
context.

    python experiments/llama_cpp_cpu/attention.py    # about a minute of one core
"""

from __future__ import annotations

import statistics

import flashnas as fn
from flashnas.profiling.llama_cpp.target import LlamaCpp

NETWORKS = {
    "a in every second layer": "512(vocab=8192): 6x(m2(head_dim=64,state=64) f a(head_dim=64) f)",
    "one a in twelve layers": "512(vocab=8192): 11x(m2(head_dim=64,state=64) f) a(head_dim=64) f",
}
CONTEXTS = (240, 1000, 1900)
STEPS, ROUNDS = 48, 3


def main() -> None:
    """Print a row for each network and kind of attention."""
    print(f"{'network':<26}{'attention':<12}", *(f"context {context:>5}" for context in CONTEXTS))
    steps = [range(context + 1 - STEPS, context + 1) for context in CONTEXTS]
    for name, notation in NETWORKS.items():
        network = fn.Architecture.parse(notation)
        for flash in (False, True):
            rounds = [
                LlamaCpp(flash_attention=flash).times(network, 1, [], steps).steps
                for _ in range(ROUNDS)
            ]
            medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
            print(
                f"{name:<26}{'one pass' if flash else 'plain':<12}",
                *(f"{value:10.2f} ms" for value in medians),
            )


if __name__ == "__main__":
    main()
