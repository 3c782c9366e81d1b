"""From published trainings to the constants of the full loss, and how well they foretell what they have not seen.

The spreads follow from the restricted likelihood, in which the levels of the groups have no part, under weak log-normal
priors. Each publication has a reliability of its own, so that one with gaps that nobody else finds pulls less.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from flashnas.architecture import Architecture
from flashnas.architecture.notation import parse_operators
from flashnas.evidence.composition import body_sizes, columns, mix_of
from flashnas.evidence.full_loss import NEW, OWN_SDS, PARTS, FullLoss, Rows, Spreads, Table, response_row
from flashnas.evidence.law import Law, aspect
from flashnas.evidence.proxies import full_network, full_width
from flashnas.evidence.trainings import PublishedRow

FFN_SHARES = Path(__file__).parent / "data" / "published_ffn_share.csv"
# medians of the log-normal priors of the spreads, and the standard deviation of their logarithms
MEDIANS = {"law": 0.15, "law.own": 0.15, "effect": 0.06, "effect.own": 0.03, "beyond.own": 0.15, "noise": 0.012,
           "residual": 0.02, "own_residual": 0.02}
SPREAD_SD, RELIABILITY_SD = 1.0, 0.7
PART_OF = {"effect": "mix", "effect.own": "mix", "residual": "mix", "own_residual": "mix", "beyond.own": "beyond"}
RESIDUALS = ("residual", "own_residual")
FURTHEST, STEPS = 4.0, 80     # of the logarithms from their priors; of the optimiser
WIDTHS = 256                  # a network is built at the nearest multiple of this to count the shares of its parts


def rows_of(trainings: Sequence[PublishedRow], law: Law, *, response: Sequence[float] = (),
            proxies: Sequence[tuple[Architecture, float] | None] | None = None) -> Rows:
    """Published trainings as the model sees them, without groups that stand in a larger one.

    Args:
        trainings: all rows; groups compare within themselves, or within their level.
        law, response: of the model.
        proxies: the short training of each row, network and loss; None where there is none. They count for a group that
            has all of them.
    """
    kept = [place for place, row in enumerate(trainings) if row.group not in contained_groups(trainings)]
    short = {} if proxies is None else {place: one for place in kept if (one := proxies[place]) is not None}
    without = {trainings[place].group for place in kept if place not in short}
    x, shares, ffn = [], [], []
    for place in kept:
        row, width = trainings[place], full_width(trainings[place])
        params = row.params - width * row.vocab
        built = full_network(row, max(WIDTHS, round(width / WIDTHS) * WIDTHS))
        total, active, ffn_params = body_sizes(built.operators, built.hidden)
        counted, mix = params * np.sqrt(active / total), mix_of(row.specs, published=True)
        beyond = 0.0
        if row.group not in without:
            proxy, loss = short[place]
            beyond = float(loss - response_row(proxy) @ np.array(response))
        shape = float(aspect(np.array(counted), np.array(width)))
        x.append(columns(mix, law=float(law.loss(np.array(counted), row.tokens, np.array(width))), params=params,
                         active=params * active / total, ffn=ffn_params, aspect=shape, tokens=row.tokens,
                         beyond=beyond))
        shares.append(mix.shares)
        ffn.append(mix.ffn_share)
    names = [trainings[place] for place in kept]
    return Rows(Table(np.array(x), np.array(shares), np.array(ffn), np.array([row.source for row in names], object)),
                np.array([row.nats for row in names]), np.array([row.level or row.group for row in names], object))


def ffn_rows(law: Law, path: Path = FFN_SHARES) -> Rows:
    """Transformers of one size whose parameters lie more or less in the feed-forward layers."""
    mix = mix_of(tuple(parse_operators("a f")))
    x, nats, level, source = [], [], [], []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            params, width = float(line["params_nonemb"][:-1]) * 1e9, float(line["width"])
            tokens, ratio = float(line["tokens"][:-1]) * 1e9, float(line["mlp_over_attention_params"])
            x.append(columns(mix, law=float(law.loss(np.array(params), tokens, np.array(width))), params=params,
                             active=params, ffn=ratio / (1 + ratio), tokens=tokens,
                             aspect=float(aspect(np.array(params), np.array(width)))))
            nats.append(float(line["value"]))
            level.append(line["group"])
            source.append(line["source"])
    count = len(nats)
    return Rows(Table(np.array(x), np.array([mix.shares] * count), np.array([mix.ffn_share] * count),
                      np.array(source, object)), np.array(nats), np.array(level, object))


def joined(*parts: Rows) -> Rows:
    """All rows of several."""
    table = Table.joined(*(part.table for part in parts))
    return Rows(table, np.concatenate([part.nats for part in parts]), np.concatenate([part.level for part in parts]))


def fit_spreads(rows: Rows, law: Law, parts: Sequence[str] = PARTS, *, robust: bool = True,
                residual: bool = True) -> Spreads:
    """The spreads by restricted maximum likelihood.

    Args:
        rows: what the model learns from.
        law: of size and shape.
        parts: of the model.
        robust: each publication has a reliability of its own; otherwise all have that of 1, new ones, too.
        residual: there is a residual process over the composition.
    """
    publications = sorted(set(rows.table.publication))
    names = list(MEDIANS)
    centre = np.log([*MEDIANS.values(), *([1.0] * len(publications))])
    sds = np.array([SPREAD_SD] * len(names) + [RELIABILITY_SD] * len(publications))
    fixed = {name for name, part in PART_OF.items() if part not in parts} | (set() if residual else set(RESIDUALS))
    free = np.array([name not in fixed for name in names] + [robust] * len(publications))

    def spreads_of(logs: np.ndarray) -> Spreads:
        value = dict(zip(names, map(float, np.exp(logs)), strict=False))
        effects = [name for name in OWN_SDS if name not in ("law", "beyond", "ffn")]
        reliability = dict(zip(publications, map(float, np.exp(logs[len(names):])), strict=True))
        return Spreads(
            common={"law": value["law"], **dict.fromkeys(effects, value["effect"])},
            own={"law": value["law.own"], "beyond": value["beyond.own"], "ffn": value["effect.own"],
                 **dict.fromkeys(effects, value["effect.own"])},
            residual=value["residual"] * residual, own_residual=value["own_residual"] * residual,
            noise=value["noise"], reliability=reliability if robust else {**reliability, NEW: 1.0})

    def whole(some: np.ndarray) -> np.ndarray:
        logs = centre.copy()
        logs[free] = some
        return logs

    def cost(some: np.ndarray) -> float:
        logs = whole(some)
        return FullLoss(rows, spreads_of(logs), law, parts=parts).cost + 0.5 * float(np.sum(((logs - centre) / sds)**2))

    found = minimize(cost, centre[free], method="L-BFGS-B", options={"maxiter": STEPS},
                     bounds=[(value - FURTHEST, value + FURTHEST) for value in centre[free]])
    return spreads_of(whole(found.x))


def fit_reliability(rows: Rows, spreads: Spreads, law: Law, publication: str) -> Spreads:
    """The spreads with the reliability of one more publication, all others as they are."""
    def with_log(log: float) -> Spreads:
        return dataclasses.replace(spreads, reliability={**spreads.reliability, publication: float(np.exp(log))})

    def cost(log: float) -> float:
        return FullLoss(rows, with_log(log), law).cost + 0.5 * (log / RELIABILITY_SD) ** 2

    bound = FURTHEST * RELIABILITY_SD
    return with_log(float(minimize_scalar(cost, bounds=(-bound, bound), method="bounded",
                                          options={"xatol": 0.01}).x))


def contained_groups(trainings: Sequence[PublishedRow]) -> set[str]:
    """Groups whose rows all stand in a larger group, too."""
    known: dict[str, set[tuple[str, str, float]]] = {}
    for row in trainings:
        known.setdefault(row.group, set()).add((row.source, row.operators, row.nats))
    return {group for group, rows in known.items() if any(rows < other for other in known.values())}


def fit_response(networks: Sequence[Architecture], losses: np.ndarray) -> tuple[float, ...]:
    """How the loss of a short training follows ln N, r, `mixed` and the share of gated delta rules; and a constant.

    The response to size and shape is taken at equal mixes. What it leaves is then fitted to the mix.

    Args:
        networks: as they were trained, small; those without a token mixer do not count.
        losses: [N], their means over seeds, nats per token.
    """
    some = [place for place, network in enumerate(networks) if any(spec.mixes_tokens for spec in network.operators)]
    rows = np.array([response_row(networks[place]) for place in some])
    mixes = [mix_of(networks[place].operators) for place in some]
    shares = np.array([mix.shares for mix in mixes])
    ffn = np.array([mix.ffn_share for mix in mixes])
    attention = shares[:, :2].sum(axis=1)
    experts = np.array([np.mean([spec.kind == "moe" for spec in networks[place].operators]) for place in some])
    others = np.c_[rows[:, 2], shares, ffn, ffn**2, attention * (1 - attention), experts]
    loss = np.asarray(losses, float)[some]
    by_size = np.linalg.lstsq(np.c_[rows[:, :2], others], loss, rcond=None)[0][:2]
    by_mix = np.linalg.lstsq(rows[:, 2:], loss - rows[:, :2] @ by_size, rcond=None)[0]
    return (*map(float, by_size), *map(float, by_mix))
