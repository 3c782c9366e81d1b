"""Do short trainings pay? What the recommended network loses after trainings that were chosen by a
rule, and what these cost as further tokens of the full training.

    python experiments/evidence/buying.py     # buying.csv, calibration.csv, buying.png, the tables

Full trainings that exist are the truth, smaller or shorter ones of the same mixes what can come
before: all groups of a publication that cost at most 75 % of a large one, and trainings by recipe
`cpu`. No publication is known to the model that predicts its rows; an operator is taken out of all of
them in turn, too. Regret is the loss of the recommended row less the lowest one of its group. The
price of trainings is what their hours would bring as further tokens of the full training; a FLOP of a
short training takes 2.7 times as long, as in the product. Rules:

- nothing; everything that is on offer;
- most per FLOP: the set that gains most per FLOP and 0.0005 nats or more, as in 0.2.0, once;
- gain minus price: `flashnas.study.next_trainings`, if it pays; at most 0.5 to 20 % of one full training;
- random: as many trainings of the offer that gain minus price chose; the mean of twenty draws;
- small loss: all of the cheapest offer are trained, and the lowest loss is recommended, as in the paper.

Expected, written before the first run: with all operators published the rule trains nothing in nine
cases of ten and changes nothing. With KDA, which no other publication has, regret and price fall from
0.07 to under 0.015. With an operator taken out it gains a fifth. Everything costs 0.05 to 0.1 more
than it brings. The small loss leaves 0.02 to 0.03 where the small trainings are of a tenth of the size,
before its price. A cap of 1 % is as good as none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cases import NOT_PUBLISHED, PUBLISHED, Case, Offer, all_cases

from flashnas.loss.composition import Rows
from flashnas.loss.load import loss_model
from flashnas.loss.model import CHARGE
from flashnas.loss.own import with_own
from flashnas.study.acquisition import FRESH_DRAWS, FRESH_SEED, Prospects, joint_of
from flashnas.study.next_trainings import LEAST, MOST, Choice, best_choice, chosen_by, falls

HERE = Path(__file__).parent
CAPS = (0.005, 0.01, 0.02, 0.05, 0.2)
DRAWS = 20
LEAST_GAIN = 5e-4  # nats, of the rule of 0.2.0
Chosen = Sequence[tuple[Offer, Sequence[int]]]


class Before:
    """A case before its full training."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.price = functools.partial(falls, loss_model().law, case.params, case.tokens)
        self.prospects = {offer.name: self._prospects(offer) for offer in case.offers}
        self.choices = {
            offer.name: best_choice(self.prospects[offer.name], offer.shares, self.price)
            for offer in case.offers
        }

    def _prospects(self, offer: Offer) -> Prospects:
        model = self.case.model
        rows = as_of(offer.rows, model.publication)
        return Prospects(*joint_of(model, None, self.case.candidates, rows))

    def regret(self, taken: Chosen) -> float:
        """After trainings."""
        parts = [offer.rows.take(np.array(chosen)) for offer, chosen in taken if len(chosen)]
        model, candidates = self.case.model, self.case.candidates
        if parts:
            model = with_own(model, Rows.joined(*parts))
            candidates = as_of(candidates, model.publication)
        values = model.mean(candidates) + CHARGE * model.silence(candidates)
        return float(self.case.regrets[int(np.argmin(values))])

    # -- rules: what is trained --------------------------------------------------------------------

    def by_net(self, cap: float = np.inf) -> Chosen:
        """Gain minus price; nothing where that does not pay."""
        every = [(self.choices[offer.name], offer) for offer in self.case.offers]
        found = [(choice, offer) for choice, offer in every if choice.share <= cap]
        if not found:
            return []
        choice, offer = max(found, key=lambda pair: pair[0].net_nats)
        return [(offer, choice.indices)] if self.estimated_again(offer).pays else []

    def estimated_again(self, offer: Offer) -> Choice:
        prospects, choice = self.prospects[offer.name], self.choices[offer.name]
        fresh = FRESH_DRAWS, FRESH_SEED
        return chosen_by(prospects, choice.indices, offer.shares, self.price, *fresh)

    def per_flop(self) -> Chosen:
        found: tuple[float, Chosen] = (0.0, [])
        for offer in self.case.offers:
            prospects = self.prospects[offer.name]
            order = prospects.greedy(MOST)
            for count in range(LEAST, len(order) + 1):
                chosen = order[:count]
                gain = prospects.gain(chosen)
                rate = gain / float(offer.shares[chosen].sum())
                if gain >= LEAST_GAIN and rate > found[0]:
                    found = rate, [(offer, chosen)]
        return found[1]

    def small_loss(self) -> tuple[float, float]:
        """Regret and share."""
        offer = min(self.case.offers, key=lambda offer: offer.shares.sum())
        best = offer.candidates[int(np.argmin(offer.rows.nats))]
        return float(self.case.regrets[best]), float(offer.shares.sum())


def as_of(rows: Rows, publication: str) -> Rows:
    return type(rows)(**{**vars(rows), "publication": np.full(len(rows), publication, object)})


def share_of(taken: Chosen) -> float:
    return sum(float(offer.shares[list(chosen)].sum()) for offer, chosen in taken)


def lines_of(case: Case) -> Iterator[dict[str, object]]:
    before = Before(case)

    def line(rule: str, regret: float, share: float, trainings: float) -> dict[str, object]:
        return {
            "kind": case.kind,
            "publication": case.publication,
            "case": case.name,
            "rule": rule,
            "trainings": trainings,
            "share": float(f"{share:.3g}"),
            "price": round(float(before.price(share)), 5),
            "regret": round(regret, 5),
        }

    every = [(offer, range(len(offer.shares))) for offer in case.offers]
    rules: dict[str, Chosen] = {"nothing": [], "most per FLOP": before.per_flop()}
    rules["gain minus price"] = chosen = before.by_net()
    rules |= {f"at most {cap:.1%}": before.by_net(cap) for cap in CAPS}
    rules["everything"] = every
    for rule, taken in rules.items():
        count = sum(len(part) for _, part in taken)
        yield line(rule, before.regret(taken), share_of(taken), count)
    generator, regrets, shares = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        drawn = [
            (offer, generator.permutation(len(offer.shares))[: len(part)]) for offer, part in chosen
        ]
        regrets.append(before.regret(drawn))
        shares.append(share_of(drawn))
    count = sum(len(part) for _, part in chosen)
    yield line("random", float(np.mean(regrets)), float(np.mean(shares)), count)
    yield line("small loss", *before.small_loss(), len(case.offers[0].shares))


def gains_of(case: Case) -> Iterator[dict[str, object]]:
    """Of the best set of each offer, whether it pays or not: what it was expected to gain, and did."""
    before = Before(case)
    for offer in case.offers:
        choice = before.estimated_again(offer)
        yield {
            "kind": case.kind,
            "publication": case.publication,
            "case": case.name,
            "offer": offer.name,
            "trainings": len(choice.indices),
            "share": float(f"{choice.share:.3g}"),
            "expected": round(choice.gain_nats, 5),
            "price": round(choice.price_nats, 5),
            "pays": choice.pays,
            "gained": round(before.regret([]) - before.regret([(offer, choice.indices)]), 5),
        }


# -- tables ----------------------------------------------------------------------------------------


def equal(table: pd.DataFrame, by: str, columns: Sequence[str]) -> pd.DataFrame:
    """Means with publications equal; the cases of a publication are first averaged."""
    each = table.groupby(["kind", "publication", "case", by], sort=False)[[*columns]].mean()
    of_publications = each.groupby(["kind", "publication", by], sort=False).mean()
    return of_publications.groupby(["kind", by], sort=False).mean()


def main() -> None:
    cases = all_cases()
    table = pd.DataFrame([line for case in cases for line in lines_of(case)])
    table["in all"] = table.regret + table.price
    table.to_csv(HERE / "buying.csv", index=False)
    print(
        equal(table, "rule", ["trainings", "share", "regret", "price", "in all"])
        .round(4)
        .to_string()
    )
    each = table.groupby(["kind", "publication", "rule"], sort=False)["in all"].mean().unstack()
    print(each.round(4).to_string())
    gains = pd.DataFrame([line for case in cases for line in gains_of(case)])
    gains.to_csv(HERE / "calibration.csv", index=False)
    gains["all"] = "all"
    print(equal(gains, "all", ["expected", "gained"]).round(5))
    print(equal(gains[gains.pays], "all", ["expected", "gained", "price"]).round(5))
    plot(equal(table, "rule", ["regret", "price"]))


def plot(table: pd.DataFrame) -> None:
    """Regret, and the price on top of it, of each rule."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, (PUBLISHED, NOT_PUBLISHED), strict=True):
        part = table.loc[kind][::-1]
        axis.barh(part.index, part.regret, color="#4269d0", label="regret")
        axis.barh(part.index, part.price, left=part.regret, color="#efb118", label="price")
        for place, total in enumerate(part.regret + part.price):
            axis.text(total, place, f" {total:.4f}", va="center", fontsize=8)
        axis.set(title=kind, xlabel="nats of the full training", xlim=(0, 0.16))
    axes[0].legend()
    figure.savefig(HERE / "buying.png", dpi=120)


if __name__ == "__main__":
    main()
