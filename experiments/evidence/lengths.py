"""What more tokens and more parameters bring: the term of tokens in the law, fitted to published
trainings of one network on two numbers of tokens; and how far publications agree on both terms.

    python experiments/evidence/lengths.py     # slope, beta and rise, and three tables; half a minute

    loss(D) - loss(D') = slope (N / 1e9)^rise (D^-beta - D'^-beta) / beta,    D in 1e11 tokens

N: parameters without embeddings, of networks with experts what these count as. Each publication has a
slope of its own; beta and rise are shared, by least squares of logarithms, publications equal; the slope
of the law is the geometric mean.

Tables: 1. Each publication's pairs of lengths, predicted by the others, by the law of 0.2.0 (a coupled one,
fitted to Gemstones alone), and by two published fits: the mean logarithm of predicted over published, and
its root mean square. 2. The slope over the term of size, within networks of one mix; 1 is that of
Gemstones, to which the term is fitted. 3. Pairs of one mix at equal FLOPs (to a tenth), sizes a third or
more apart: errors in nats by the law of 0.2.0 and by the model without the publication, the mean error of
the larger network less the smaller, and how many differences lie inside 90 %.

Expected, written before the first table was first printed: an exponent near 0.3, which 2203.15556 and
2404.10102 have, a smaller slope than theirs, and a root mean square below 0.2 of the publication that
is left out. Seen: an exponent of 0.36, a slope between theirs, and 0.31 to 0.42, because slopes differ by a
factor of 1.8 between publications.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
from experts import sizes_of
from fitting import read_shapes
from scipy.optimize import least_squares

from flashnas.architecture.notation import parse_operators
from flashnas.loss.composition import Table
from flashnas.loss.load import loss_model, rows_of, shipped_model
from flashnas.loss.mix import mix_of, stacks
from flashnas.loss.model import FullLoss
from flashnas.loss.prediction import WITHIN_SDS
from flashnas.observations.losses import dense_twin, pairs_of_nested_groups
from flashnas.observations.read_losses import EXPERTS, read_published

Pairs = dict[str, np.ndarray]  # source, params, tokens, longer, nats
SHAPES_SOURCE = "2502.06857"
# publications whose sizes were trained alike, on any number of tokens
LADDERS = ("2506.05233", "2603.15569", "2604.03444", "2609.24797", "allenai/OLMo-core")
GAMMA = 0.25  # by which experts count as parameters: about that of experts.py
LEAST_RANGE = 0.2  # nats of the term of size, of the networks of a mix
START = (0.3, 0.15)  # beta, rise
# B and beta of B / D^beta, by their arXiv numbers
PUBLISHED = {"2203.15556": (410.7, 0.28), "2404.10102": (2085.43, 0.3658)}
# of 0.2.0: slope of size, then a, alpha, b, delta of (a N^(-alpha / delta) + b / D)^delta
COUPLED = (1.42, 0.78099161, 0.15478093, 0.12891229, 0.42030743)


def pairs() -> Pairs:
    """Neighbouring lengths of one network in one publication."""
    networks = defaultdict(dict)
    experts = read_published(EXPERTS)
    params, active, *_ = sizes_of(experts)
    for row, size in zip(experts, active * (params / active) ** GAMMA, strict=True):
        key = row.source, row.operators, row.hidden
        networks[key].setdefault(row.tokens, (row.nats, size))
    for row in read_published():
        size = (row.active or row.params) - (row.vocab * row.hidden if row.vocab > 2 else 0)
        key = row.source, row.operators, row.qk_norm, round(row.params / 1e6)
        networks[key].setdefault(row.tokens, (row.nats, size))
    for row in read_shapes():
        networks[SHAPES_SOURCE, row.width, row.depth][row.tokens] = row.loss, row.params
    found = []
    for (source, *_), lengths in networks.items():
        for one, other in itertools.pairwise(sorted(lengths)):
            nats, size = lengths[one]
            found.append((source, size, one, other, nats - lengths[other][0]))
    names = ("source", "params", "tokens", "longer", "nats")
    return dict(zip(names, map(np.array, zip(*found, strict=True)), strict=True))


def take(found: Pairs, index: np.ndarray) -> Pairs:
    return {name: values[index] for name, values in found.items()}


def by(law: tuple[float, float, float], found: Pairs) -> np.ndarray:
    """What slope, beta and rise say of pairs."""
    slope, beta, rise = law
    one, other = ((found[name] / 1e11) ** -beta for name in ("tokens", "longer"))
    return slope / beta * (found["params"] / 1e9) ** rise * (one - other)


def fit_lengths(found: Pairs) -> tuple[tuple[float, float, float], dict[str, float]]:
    """Slope, beta and rise; and the slope of each publication."""
    sources, index, counts = np.unique(found["source"], return_inverse=True, return_counts=True)

    def errors(x: np.ndarray) -> np.ndarray:
        ratio = np.log(by((1.0, x[0], x[1]), found) / found["nats"]) + x[2:][index]
        return counts[index] ** -0.5 * ratio

    x = least_squares(errors, [*START, *[-3.0] * len(sources)]).x
    slopes = dict(zip(sources.tolist(), np.exp(x[2:]).tolist(), strict=True))
    return (float(np.exp(x[2:].mean())), float(x[0]), float(x[1])), slopes


def coupled(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The loss by the law of 0.2.0, but for the part of the shape."""
    slope, a, alpha, b, delta = COUPLED
    d = np.clip(tokens, 1e8, 3.5e11) / 1e11
    return slope * (a * (params / 1e9) ** (-alpha / delta) + b / d) ** delta


def lengths_table(found: Pairs, slopes: dict[str, float]) -> pd.DataFrame:
    lines = []
    for source in slopes:
        own = take(found, found["source"] == source)
        left_out, _ = fit_lengths(take(found, found["source"] != source))
        one, other = (coupled(own["params"], own[name]) for name in ("tokens", "longer"))
        laws = {"left out": by(left_out, own), "0.2.0": one - other}
        for name, (b, beta) in PUBLISHED.items():
            laws[name] = b * (own["tokens"] ** -beta - own["longer"] ** -beta)
        line: dict[str, object] = {"publication": source, "pairs": len(own["nats"])}
        for name, predicted in laws.items():
            error = np.log(predicted / own["nats"])
            line[f"{name}: mean"] = error.mean()
            line[f"{name}: rms"] = np.sqrt(np.mean(error**2))
        lines.append(line)
    return pd.DataFrame(lines)


@dataclass(frozen=True)
class Ladder:
    """Trainings of one publication, [N] each. active: parameters without embeddings, and counted, with
    what experts count as. mean, covariance: by the model without the publication."""

    mix: np.ndarray
    active: np.ndarray
    counted: np.ndarray
    tokens: np.ndarray
    table: Table
    nats: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, model: FullLoss, table: Table, nats: np.ndarray, sizes: np.ndarray) -> Ladder:
        """sizes: active parameters, all over active ones, granularity, tokens [4, N]."""
        active, times, fine, tokens = sizes
        mixes = np.c_[table.shares, table.x[:, 3:5], times / 30, fine / 5].round(1)
        prediction = model.predict(table)
        covariance = prediction.shared + np.exp(2 * prediction.unseen**2) * prediction.own
        return cls(
            mix=np.unique(mixes, axis=0, return_inverse=True)[1].ravel(),
            active=active,
            counted=active * times**model.law.gamma * np.exp(model.law.g * fine),
            tokens=tokens,
            table=table,
            nats=nats,
            mean=prediction.mean,
            covariance=covariance + prediction.noise**2 * np.eye(len(nats)),
        )


def ladder(source: str) -> Ladder:
    published = [row for row in read_published() if row.source == source]
    smaller = {small for small, _ in pairs_of_nested_groups(published)}
    dense = [dense_twin(row) for row in published if row.group not in smaller]
    sparse = [row for row in read_published(EXPERTS) if row.source == source]
    model = shipped_model(source)
    rows = rows_of([*dense, *sparse], model.law)
    sizes = [(r.params - (r.vocab > 2) * r.vocab * r.hidden, 1, 0, r.tokens) for r in dense]
    if sparse:
        params, used, log_fine, tokens, _ = sizes_of(sparse)
        sizes.extend(zip(used, params / used, log_fine, tokens, strict=True))
    return Ladder.of(model, rows, rows.nats, np.array(sizes).T)


def gemstones() -> Ladder:
    model = loss_model()
    params, tokens, width, nats = np.array(
        [(row.params, row.tokens, row.width, row.loss) for row in read_shapes()]
    ).T
    mix = mix_of(stacks([parse_operators("a f")] * len(params)))
    sizes = np.c_[params, params, np.full(len(params), 2 / 3)]
    table = Table.of(model.law, mix, sizes, width, tokens, SHAPES_SOURCE)
    ones = np.ones(len(params))
    return Ladder.of(model, table, nats, np.array([params, ones, 0 * ones, tokens]))


def slope_of_size(found: Ladder, factor: float) -> tuple[int, float]:
    """Number of networks, and the slope. factor: of the term of tokens, in the publication."""
    size, nats = [], []
    for mix in np.unique(found.mix):
        of_size, of_tokens = found.table.x[found.mix == mix, :2].T
        if np.ptp(of_size) >= LEAST_RANGE:
            rest = found.nats[found.mix == mix] - factor * of_tokens
            size.extend(of_size - of_size.mean())
            nats.extend(rest - rest.mean())
    return len(size), float(np.dot(size, nats) / np.dot(size, size))


def at_equal_flops(found: Ladder) -> dict[str, float]:
    one, other = np.array([*itertools.combinations(range(len(found.nats)), 2)]).T
    ratio = np.log(found.active[other] / found.active[one])
    flops = ratio + np.log(found.tokens[other] / found.tokens[one])
    alike = (found.mix[one] == found.mix[other]) & (np.abs(flops) < np.log(1.1))
    alike &= np.abs(ratio) > np.log(4 / 3)
    one, other, larger = one[alike], other[alike], np.sign(ratio[alike])
    before = coupled(found.counted, found.tokens)
    errors = [
        (losses[other] - losses[one] - (found.nats[other] - found.nats[one])) * larger
        for losses in (before, found.mean)
    ]
    variances = np.diag(found.covariance)
    spread = np.sqrt(variances[one] + variances[other] - 2 * found.covariance[one, other])
    return {
        "pairs": len(one),
        "0.2.0: rms": np.sqrt(np.mean(errors[0] ** 2)),
        "0.2.0: mean": errors[0].mean(),
        "model: rms": np.sqrt(np.mean(errors[1] ** 2)),
        "model: mean": errors[1].mean(),
        "inside": np.mean(np.abs(errors[1]) < WITHIN_SDS * spread),
        "half-width": np.median(WITHIN_SDS * spread),
    }


def main() -> None:
    found = pairs()
    law, slopes = fit_lengths(found)
    print("slope, beta, rise:", [round(value, 4) for value in law])
    print("slopes:", {name: round(value, 3) for name, value in slopes.items()})
    logs = np.log([*slopes.values()])
    print(f"standard deviation of their logarithms: {logs.std(ddof=1):.2f}\n")
    print(lengths_table(found, slopes).round(2).to_string(index=False), "\n")
    ladders = {SHAPES_SOURCE: gemstones(), **{source: ladder(source) for source in LADDERS}}
    sizes = {}
    for source, each in ladders.items():
        count, sizes[source] = slope_of_size(each, slopes.get(source, law[0]) / law[0])
        print(f"{source}: slope over size {sizes[source]:.2f}, {count} networks")
    logs = np.log([*sizes.values()])
    print(f"mean {np.exp(logs.mean()):.2f}, standard deviation {logs.std(ddof=1):.2f}\n")
    lines = [
        {"publication": source, **at_equal_flops(ladders[source])}
        for source in (SHAPES_SOURCE, "2609.24797", "allenai/OLMo-core")
    ]
    print(pd.DataFrame(lines).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
