"""Whether experts pay: by memory and by batch, on an H100.

    python experiments/served_answer/dense_or_sparse.py      # a minute on one core

Prints the table of docs/search.md#the-answer. Nothing is trained.
"""

from __future__ import annotations

import tempfile

import flashnas as fn
from flashnas.base.text import parameters, with_interval
from flashnas.reporting.words import shape_of

QUESTIONS = [  # budget in ms, batch, GB
    *((20_000, 1, memory_gb) for memory_gb in (4, 8, 16, 72)),
    *((budget_ms, batch, 72) for budget_ms, batch in ((20_000, 16), (30_000, 16), (60_000, 64))),
]


def main() -> None:
    """One search for each question."""
    print("| budget, batch, memory | best dense | best sparse | sparse less dense | recommended |")
    print("|---|---|---|--:|---|")
    for budget_ms, batch, memory_gb in QUESTIONS:
        with tempfile.TemporaryDirectory() as folder:
            found = fn.search(
                table="h100_sxm",
                experts="any",
                params="..64B",
                workload=f"batch={batch},prompt=0,generated=8192",
                budgets={"latency_ms": budget_ms, "memory_gb": memory_gb},
                out=f"{folder}/run",
            )
        assert found.answer is not None
        two, chosen = found.answer.dense_or_sparse, found.recommended
        cells = [f"{budget_ms / 1000:g} s, {batch}, {memory_gb} GB"]
        for side in (two["dense"], two["sparse"]):
            sizes = f"{parameters(side['params'])}, {side['memory_gb']:.1f} GB"
            cells.append(f"{shape_of(side['notation']).partition(', attention')[0]}: {sizes}")
        cells.append(with_interval(two["difference"], two["sd"]))
        sparse = chosen.architecture.active_params < chosen.architecture.params
        cells.append("sparse" if sparse else "dense")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
