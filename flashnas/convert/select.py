"""Choose a layout: what single changes say of sets of them, how sure that is, and the exact choice.

Single changes are measured alone. The KL of a set is more than their sum; a power law of the sum
is fitted to sets that were measured, and its errors on sets that it has not seen, each left out in
turn, are the model's uncertainty. The law rises with the sum, so that the set of the lowest
expected KL within a budget is that of the lowest sum, which dynamic programming finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.base.text import INTERVAL_90
from flashnas.convert.choices import KEPT, Choice, Layout, key_of
from flashnas.convert.measure import LayoutScore

STEPS, RECALL_STEPS = 2000, 40  # of milliseconds and of recall, by which the choice is exact
RESAMPLES = 100
DECIDED = 0.9  # share of resamples that choose the same
LEAST_KL = 1e-5  # nats; below it a change is free
LEAST_RECALL = 0.02  # share that is left where nothing is recalled, so that it has a logarithm


@dataclass(frozen=True, eq=False)
class SingleScores:
    """The single changes. choices [C]; kl [C, N]: of each document; recalled [C, P]: the share of
    the teacher's recall that is left, of each prompt."""

    choices: Sequence[Choice]
    kl: np.ndarray
    recalled: np.ndarray

    @classmethod
    def of(cls, choices: Sequence[Choice], measured: Sequence[LayoutScore]) -> SingleScores:
        return cls(
            choices,
            np.array([entry.kl for entry in measured]),
            np.array([entry.recalled for entry in measured]).reshape(len(measured), -1),
        )

    def resampled(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`means` over documents and prompts that are drawn with replacement."""
        documents = generator.integers(self.kl.shape[1], size=self.kl.shape[1])
        prompts = generator.integers(max(self.recalled.shape[1], 1), size=self.recalled.shape[1])
        return self.kl[:, documents].mean(1), log_lost(self.recalled[:, prompts])

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """[C] of KL, and `log_lost`."""
        return self.kl.mean(1), log_lost(self.recalled)

    @property
    def agreement(self) -> float:
        """Rank correlation of the KL on the even and on the odd documents."""
        even, odd = self.kl[:, ::2].mean(1), self.kl[:, 1::2].mean(1)
        return float(np.corrcoef(even.argsort().argsort(), odd.argsort().argsort())[0, 1])

    def rows(self, layout: Layout) -> list[int]:
        """The places of a layout's choices."""
        keys = {choice.key: row for row, choice in enumerate(self.choices)}
        return [keys[choice.key] for choice in layout]


def log_lost(recalled: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the mean share of recall that is left [.., P] -> [..]; of a set of
    changes, whose shares multiply, these add up. 0 without prompts."""
    if not recalled.size:
        return np.zeros(recalled.shape[:-1])
    return -np.log(np.clip(recalled.mean(-1), LEAST_RECALL, 1))


def most_lost(recall: float) -> float:
    """What `log_lost` may add up to for a share of the recall; infinite for 0."""
    return -float(np.log(recall)) if recall else float("inf")


def cheapest(
    choices: Sequence[Choice],
    kl: np.ndarray,
    lost: np.ndarray,
    save_ms: float,
    most_lost: float,
) -> Layout | None:
    """The layout of the lowest summed KL that saves enough and loses at most so much recall.

    Exact up to STEPS of the milliseconds, rounded down, and RECALL_STEPS of the recall, rounded.

    Args:
        kl, lost: of each choice [C]; lost as `log_lost`.
        save_ms: milliseconds to save at least.
        most_lost: sum of these at most; infinite: recall does not count.

    Returns:
        None where no layout saves that much.
    """
    layers = sorted({choice.layer for choice in choices})
    step, room = save_ms / STEPS, 0 if np.isinf(most_lost) else RECALL_STEPS
    saves = [int(choice.saved_ms / step) if save_ms > 0 else STEPS for choice in choices]
    loses = [0] * len(choices)
    if room:
        unit = max(most_lost, 1e-9) / RECALL_STEPS
        loses = [round(max(float(value), 0.0) / unit) for value in lost]
    costs = np.maximum(kl, LEAST_KL)
    # lowest sum of the layers from one on, by what is left to save and what may still be lost
    rest = [np.full((STEPS + 1, room + 1), np.inf)]
    rest[0][0] = 0.0
    left = np.arange(STEPS + 1)
    by_layer = [[n for n, choice in enumerate(choices) if choice.layer == at] for at in layers]
    for rows in reversed(by_layer):
        best = rest[-1].copy()
        for n in rows:
            if loses[n] <= room:
                then = rest[-1][np.maximum(left - saves[n], 0), : room + 1 - loses[n]]
                np.minimum(best[:, loses[n] :], then + costs[n], out=best[:, loses[n] :])
        rest.append(best)
    if not np.isfinite(rest[-1][STEPS, room]):
        return None
    found, to_save, to_lose = [], STEPS, room
    for rows, after in zip(by_layer, reversed(rest[:-1]), strict=True):
        options = [(float(after[to_save, to_lose]), -1)]
        options += [
            (float(after[max(to_save - saves[n], 0), to_lose - loses[n]] + costs[n]), n)
            for n in rows
            if loses[n] <= to_lose
        ]
        _, n = min(options)
        if n >= 0:
            found.append(choices[n])
            to_save, to_lose = max(to_save - saves[n], 0), to_lose - loses[n]
    return tuple(found)


@dataclass(frozen=True)
class LayoutPrediction:
    """Of a set on documents that nothing was chosen by: KL in nats per token and recall as a share
    of the teacher's, each with its 90 % interval."""

    kl: float
    kl_low: float
    kl_high: float
    recall: float
    recall_low: float
    recall_high: float


@dataclass(frozen=True)
class SetLaw:
    """log KL of a set = offset + power x log of the sum of its changes; log of the recall that is
    left = slope x the sum of theirs. kl_sd: of the logarithm, of sets that the law has not seen;
    document_sd: of the logarithm of a mean over documents. recall_sd: of the share."""

    offset: float
    power: float
    kl_sd: float
    document_sd: float
    slope: float
    recall_sd: float
    sets: int

    def predict(self, scores: SingleScores, layout: Layout) -> LayoutPrediction:
        kl, lost = scores.means
        rows = scores.rows(layout)
        log_kl = self.offset + self.power * np.log(max(kl[rows].sum(), LEAST_KL))
        # the singles and the fresh documents are different draws
        half = INTERVAL_90 * np.hypot(self.kl_sd, np.sqrt(2) * self.document_sd)
        recall = float(np.exp(-self.slope * lost[rows].sum()))
        wide = INTERVAL_90 * self.recall_sd
        return LayoutPrediction(
            *np.exp([log_kl, log_kl - half, log_kl + half]).tolist(),
            *(min(max(value, 0.0), 1.0) for value in (recall, recall - wide, recall + wide)),
        )


def fit_law(
    scores: SingleScores, layouts: Sequence[Layout], measured: Sequence[LayoutScore]
) -> SetLaw:
    """The law of sets that were measured on the documents of the single changes."""
    kl, lost = scores.means
    sums = [scores.rows(layout) for layout in layouts]
    x = np.log([max(float(kl[rows].sum()), LEAST_KL) for rows in sums])
    y = np.log([max(float(np.mean(entry.kl)), LEAST_KL) for entry in measured])
    features = np.stack([np.ones(len(x)), x], 1)
    (offset, power), hat = np.linalg.lstsq(features, y, rcond=None)[0], np.linalg.pinv(features)
    leverage = np.einsum("nk,kn->n", features, hat)
    unseen = (y - features @ [offset, power]) / (1 - leverage)
    noise = [float(np.std(entry.kl, ddof=1) / np.mean(entry.kl)) for entry in measured]
    losses = np.array([lost[rows].sum() for rows in sums])
    found = np.array([log_lost(np.array(entry.recalled)) for entry in measured])
    slope = float(losses @ found / (losses @ losses)) if losses.any() else 1.0
    return SetLaw(
        offset=float(offset),
        power=max(float(power), 0.01),
        kl_sd=float(np.sqrt(np.mean(unseen**2))),
        document_sd=float(np.median(noise) / np.sqrt(scores.kl.shape[1])),
        slope=slope,
        recall_sd=float(np.sqrt(np.mean((np.exp(-found) - np.exp(-slope * losses)) ** 2))),
        sets=len(layouts),
    )


def random_layouts(
    scores: SingleScores, saves_ms: tuple[float, float], count: int, seed: int
) -> list[Layout]:
    """Different layouts as a choice makes them: the cheapest ones of scores that are multiplied by
    random factors, for random savings in a range."""
    generator = np.random.default_rng(seed)
    kl, lost = scores.means
    found: dict[str, Layout] = {}
    for _ in range(20 * count):
        save = generator.uniform(*saves_ms)
        noisy = kl * np.exp(generator.normal(0, 0.7, len(kl)))
        layout = cheapest(scores.choices, noisy, lost, save, np.inf)
        if layout and len(found) < count:
            found.setdefault(key_of(layout), layout)
    return list(found.values())


def placed(
    kinds: Sequence[str],
    choices: Sequence[Choice],
    layout: Layout,
    generator: np.random.Generator | None,
) -> Layout:
    """As many changes of each kind as a layout has, elsewhere: at random, or without a generator
    evenly spaced. kinds: of all layers; each kind is placed apart."""
    found = []
    for kind in dict.fromkeys(kinds):
        names = [choice.name for choice in layout if kinds[choice.layer] == kind]
        layers = sorted({choice.layer for choice in choices if kinds[choice.layer] == kind})
        at = [int((n + 0.5) * len(layers) / len(names)) for n in range(len(names))]
        if generator is not None:
            at = generator.choice(len(layers), len(names), replace=False).tolist()
        wanted = {(layers[place], name) for place, name in zip(at, names, strict=True)}
        found += [choice for choice in choices if (choice.layer, choice.name) in wanted]
    return tuple(sorted(found, key=lambda choice: choice.layer))


def verdicts(
    scores: SingleScores, layout: Layout, save_ms: float, most_lost: float, slope: float
) -> list[dict[str, Any]]:
    """Choose anew on resampled documents and prompts: for each layer what it becomes, the shares of
    the resamples by what they make of it, and whether that decides."""
    generator = np.random.default_rng(0)
    chosen = {choice.layer: choice.name for choice in layout}
    counts: dict[int, Counter[str]] = {choice.layer: Counter() for choice in scores.choices}
    for _ in range(RESAMPLES):
        kl, lost = scores.resampled(generator)
        other = cheapest(scores.choices, kl, slope * lost, save_ms, most_lost) or layout
        names = {choice.layer: choice.name for choice in other}
        for layer, count in counts.items():
            count[names.get(layer, KEPT)] += 1
    found = []
    for layer, count in counts.items():
        name = chosen.get(layer, KEPT)
        shares = {other: times / RESAMPLES for other, times in count.most_common()}
        sure = shares.get(name, 0.0) >= DECIDED
        found.append({"layer": layer, "chosen": name, "shares": shares, "decided": sure})
    return found
