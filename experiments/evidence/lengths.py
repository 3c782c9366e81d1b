"""What more tokens bring: the law of lengths that prices short trainings, fitted to published trainings
of one network on two numbers of tokens.

    python experiments/evidence/lengths.py     # the constants of flashnas.study.next_trainings, and a table

    loss(D) - loss(D') = slope (N / 1e9)^size (D^-beta - D'^-beta) / beta,    D in 1e11 tokens

N: active parameters without embeddings. Least squares of logarithms, publications equal. In the table
each publication is predicted by the law of the others, by the law of size and tokens of the full loss,
and by two published fits: the mean logarithm of predicted over published, and its root mean square.

Expected, written before the table was first printed: an exponent near 0.3, which 2203.15556 and
2404.10102 have, a smaller slope than theirs, and a root mean square below 0.2 of the publication
that is left out; of the law of the full loss, after a look at 2609.24797, two to four times too much.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from flashnas.loss.load import loss_model
from flashnas.observations.read_losses import read_experts, read_published
from flashnas.study.next_trainings import LENGTHS, PUBLISHED_LAWS, falls

Pairs = dict[str, np.ndarray]  # source, params, tokens, longer, nats


def pairs() -> Pairs:
    """Neighbouring lengths of one network in one publication."""
    networks = defaultdict(dict)
    for row in [*read_published(), *read_experts()]:
        embedding = row.vocab * row.hidden if row.vocab > 2 else 0
        size = (row.active or row.params) - embedding
        key = row.source, row.operators, row.qk_norm, round(row.params / 1e6), round(size / 1e6)
        networks[key].setdefault(row.tokens, (row.nats, size))
    found = []
    for (source, *_), lengths in networks.items():
        ordered = sorted(lengths)
        for one, other in itertools.pairwise(ordered):
            nats, size = lengths[one]
            found.append((source, size, one, other, nats - lengths[other][0]))
    names = ("source", "params", "tokens", "longer", "nats")
    return dict(zip(names, map(np.array, zip(*found, strict=True)), strict=True))


def take(found: Pairs, index: np.ndarray) -> Pairs:
    return {name: values[index] for name, values in found.items()}


def by(law: tuple[float, ...], found: Pairs) -> np.ndarray:
    return falls(found["params"], found["tokens"], found["longer"] / found["tokens"] - 1, law)


def fit(found: Pairs) -> tuple[float, ...]:
    counts = {source: np.sum(found["source"] == source) for source in set(found["source"])}
    weights = np.array([counts[source] for source in found["source"]]) ** -0.5

    def errors(law: np.ndarray) -> np.ndarray:
        return weights * np.log(by(tuple(law), found) / found["nats"])

    return tuple(least_squares(errors, LENGTHS).x.tolist())


def main() -> None:
    found, model = pairs(), loss_model()
    print("slope, beta, size:", [round(value, 4) for value in fit(found)])
    slope, lines = model.coefficients()["law"][0], []
    for source in dict.fromkeys(found["source"].tolist()):
        own = take(found, found["source"] == source)
        laws = {"left out": by(fit(take(found, found["source"] != source)), own)}
        ends = (model.law.by_size(own["params"], own[name]) for name in ("tokens", "longer"))
        laws["law of the full loss"] = slope * -np.subtract(*reversed([*ends]))
        for (b, beta), name in zip(PUBLISHED_LAWS, ("2203.15556", "2404.10102"), strict=True):
            laws[name] = b * (own["tokens"] ** -beta - own["longer"] ** -beta)
        line: dict[str, object] = {"publication": source, "pairs": len(own["nats"])}
        for name, predicted in laws.items():
            error = np.log(predicted / own["nats"])
            line[f"{name}: mean"] = error.mean()
            line[f"{name}: rms"] = np.sqrt(np.mean(error**2))
        lines.append(line)
    print(pd.DataFrame(lines).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
