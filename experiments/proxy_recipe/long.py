"""Do four times the tokens order published pairs better? `cpu` and `cpu-long` over the rows that both have trained.

    python experiments/proxy_recipe/long.py     # reads cpu/published.jsonl and cpu-long/published.jsonl; seconds
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from levers import clear_pairs, right

from flashnas.data.dataset import prepare_dataset
from flashnas.evidence.agreement import Agreement, measure
from flashnas.evidence.trainings import read_published
from flashnas.training.recipe import Recipe
from flashnas.training.store import read_table
from flashnas.trust.published_study import FILE, ProxyTraining, PublishedPlan

HERE = Path(__file__).parent


def losses_of(name: str) -> np.ndarray:
    """The loss of each published row by that recipe; NaN where it is not trained."""
    recipe = Recipe.load(str(HERE / f"{name}.yaml") if name == "cpu-long" else name)
    plan = PublishedPlan(rows=read_published(), recipe=recipe, data="sotu")
    known = read_table(HERE / name / FILE, ProxyTraining).set_index("proxy")["loss"]
    vocab = prepare_dataset(plan.data, plan.recipe).vocab
    return np.array([known.get(network.notation, np.nan) for network in plan.networks(vocab)])


def words(found: Agreement) -> str:
    interval = "" if found.interval is None else f" ({found.interval[0]:.0%} to {found.interval[1]:.0%})"
    return f"{found.right:g} of {found.pairs}, {found.share:.0%}{interval}"


def main() -> None:
    """Print the pairs of each group."""
    rows, short, long = read_published(), losses_of("cpu"), losses_of("cpu-long")
    both = ~np.isnan(short) & ~np.isnan(long)
    print(f"{both.sum()} of {len(rows)} rows")
    one, four = (measure(rows, np.where(both, losses, np.nan)) for losses in (short, long))
    for name, first, second in (("all", one.overall, four.overall), ("agreed", one.consensus, four.consensus),
                                *((name, one.groups[name], four.groups[name]) for name in one.groups)):
        if first.pairs:
            print(f"{name:<24} cpu {words(first):<36} cpu-long {words(second)}")
    print(f"Spearman: cpu {one.overall.spearman:.2f}, cpu-long {four.overall.spearman:.2f}")
    pairs = [pair for some in clear_pairs(rows, both).values() for pair in some]
    change = right(long, pairs) - right(short, pairs)
    print(f"pairs that cpu-long gains: {change[change > 0].sum():g}, loses: {-change[change < 0].sum():g}")


if __name__ == "__main__":
    main()
