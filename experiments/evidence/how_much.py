"""How much to search before a training? The short trainings that are proposed before full trainings
of many lengths and sizes, and the price of the paper's search.

    python experiments/evidence/how_much.py      # how_much.csv and the table; half a minute of one core

Networks of the default space, at most as large as stated, by published trainings; an H100 at 40 % of its
FLOP/s. The paper's search trains a hundred proposals on 10B tokens at full width; its price counts the
same utilisation.

Expected, written before the first run: nothing pays below 50B tokens; a per cent or two does from 100B on;
the share falls with the length, and the gain of what is trained stays at 0.004 to 0.01 nats. The paper's
search costs more than 0.1 nats below 500B tokens.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from flashnas.api.search import SearchOptions
from flashnas.architecture import Architecture
from flashnas.study.load import load_problem
from flashnas.study.loop import search
from flashnas.study.next_trainings import body_params, falls, proposed

OUT = Path(__file__).with_suffix(".csv")
PARAMS = ("0.3B", "1B", "2B", "4B")
TOKENS = ("20B", "50B", "100B", "300B", "1T", "5T")
PAPER = 100 * 1e10  # tokens


def line_of(params: str, tokens: str) -> dict[str, object]:
    problem = load_problem(SearchOptions.build(budgets={"params": params}, train_tokens=tokens))
    trials = search(problem)
    best, found = trials.networks[trials.best], proposed(trials)
    assert found is not None
    length = float(problem.training.tokens_of([best])[0])
    sizes = [Architecture.parse(text).params for text in found["networks"]]
    return {
        "params": params,
        "tokens": tokens,
        "full hours": round(problem.training.hours_of(best)),
        "networks": len(sizes),
        "of M": f"{min(sizes) / 1e6:.0f} to {max(sizes) / 1e6:.0f}",
        "on B tokens": found["tokens"] / 1e9,
        "hours": float(f"{found['hours']:.3g}"),
        "share": f"{found['share']:.2%}",
        "gain": round(found["gain"], 4),
        "price": round(found["price"], 4),
        "pays": found["pays"],
        "paper: share": f"{PAPER / length:.0%}",
        "paper: price": round(
            float(falls(problem.scorer.model.law, body_params(best), length, PAPER / length)), 4
        ),
    }


def main() -> None:
    table = pd.DataFrame([line_of(params, tokens) for params in PARAMS for tokens in TOKENS])
    table.to_csv(OUT, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
