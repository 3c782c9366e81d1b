"""Is the recall that a choice promises kept? On simulated models whose recall is known, and on both draws.

    python experiments/convert/recall.py simulated              # 20 CPU-seconds
    python experiments/convert/recall.py simulated --by-hits    # how choices were made before
    python experiments/convert/recall.py recorded               # seconds; reads results/*_measured.jsonl

A simulated probe has a margin, which its prompt shares in part; a layer that goes lowers it by an
amount of its own around the mean of the layer, and sets cost more or less than their sum. All that
is chosen is chosen by the package's own code.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from flashnas.conversion.choices import Choice, Layout, key_of
from flashnas.conversion.found import LayoutPrediction
from flashnas.conversion.law import SampledSet, SetLaw, SingleScores, fit_law
from flashnas.conversion.recall import RecallLaw
from flashnas.conversion.select import lowest_kl, sample_sets
from flashnas.training.teacher_text import TextScore

RESULTS = Path(__file__).parent / "results"
LAYERS, KEYS, DOCUMENTS, POOL = 30, 8, 12, 300
WORLDS = 15
COUNTS = (3, 5, 9)  # layers that go
FLOOR = 0.9
MODEL_MS, SAVED_MS = 24_435.2, 551.6  # of the recorded model, and by a layer of attention


class SimulatedModel:
    """Layers with known losses. Draws of prompts: 0 scored, 1 fresh, 2 many, whose mean is the truth."""

    def __init__(self, seed: int, prompts: int) -> None:
        self.generator = generator = np.random.default_rng(seed)
        self.lost = generator.gamma(0.6, 0.35, LAYERS)  # nats
        carrying = generator.choice(LAYERS, 7, replace=False)
        self.lost[carrying] = generator.uniform(1, 8, 7)
        self.kl = generator.lognormal(-2.4, 0.5, LAYERS)
        self.kl[carrying[:2]] = 2.0
        self.factors: dict[tuple[int, ...], float] = {}
        self.draws = [self._probes(count) for count in (prompts, prompts, POOL)]

    def _probes(self, prompts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Margins [P, K], those that the model itself does, and what each layer takes [L, P, K]."""
        generator, shape = self.generator, (prompts, KEYS)
        margins = generator.normal(generator.normal(1.4, 0.7, (prompts, 1)), 1.6, shape)
        taken = self.lost[:, None, None] * generator.exponential(1, (LAYERS, *shape))
        taken *= generator.lognormal(0, 0.3, (prompts, 1))
        taken += generator.normal(0, 0.4, (LAYERS, *shape))
        return margins, margins > 0, taken

    def measure(self, draw: int, layers: tuple[int, ...]) -> TextScore:
        """Of these layers gone."""
        if layers not in self.factors:
            apart = 0.0 if len(layers) == 1 else self.generator.normal(0, 0.15)
            self.factors[layers] = np.exp(apart) * (1 + 0.05 * (len(layers) - 1))
        margins, done, taken = self.draws[draw]
        lost = taken[list(layers)].sum(0) * self.factors[layers]
        kl = self.kl[list(layers)].sum() * (1 + 0.06 * (len(layers) - 1))
        documents = kl * self.generator.lognormal(0, 0.15, DOCUMENTS)
        asked = done.any(1)
        share, nats = (
            ((values * done).sum(1)[asked] / done.sum(1)[asked]).tolist()
            for values in (margins > lost, np.maximum(lost, 0))
        )
        return TextScore(documents.tolist(), [0.0] * DOCUMENTS, share, nats)


class HitsLaw(RecallLaw):
    """As choices were made before: the floor binds on what is expected."""

    def most_lost(self, floor: float) -> float:
        return float(-np.log(floor))


def by_hits(scores: SingleScores) -> SingleScores:
    """Layers by the share of probes that are hit, in place of what their values lose."""
    lost = -np.log(np.clip(scores.recalled.mean(1, keepdims=True), 0.02, 1))
    values = np.repeat(lost, scores.recalled.shape[1], 1)
    return SingleScores(scores.choices, scores.kl, scores.recalled, values)


def rows_of(layout: Layout) -> tuple[int, ...]:
    return tuple(choice.layer // 2 for choice in layout)


def choose_layouts(model: SimulatedModel, seed: int, hits: bool) -> list[tuple[float, ...]]:
    """Floor, predicted recall with its interval, what is true, what fresh prompts show, and KL."""
    choices = [Choice(2 * layer, "none", None, 10.0) for layer in range(LAYERS)]
    scores = SingleScores.of(choices, [model.measure(0, (layer,)) for layer in range(LAYERS)])

    def fit(sets: list[SampledSet], measured: list[TextScore]) -> SetLaw:
        if not hits:
            return fit_law(scores, sets, measured)
        law = fit_law(by_hits(scores), sets, measured)
        if not sets:
            return replace(law, recall=HitsLaw())
        recalled_SP = np.array([score.recalled for score in measured])
        lost_S = np.array([law.scores.sum_lost(entry.layout) for entry in sets])
        return replace(law, recall=HitsLaw.fit(lost_S, recalled_SP.mean(1), recalled_SP))

    law, sets, measured = fit([], []), list[SampledSet](), list[TextScore]()
    for half in range(2):
        found = sample_sets(law, (3.0 * max(COUNTS), 10.0 * max(COUNTS)), FLOOR, 8, 2 * seed + half)
        sets += found
        measured += [model.measure(0, rows_of(entry.layout)) for entry in found]
        law = fit(sets, measured)
    rows = []
    for count in COUNTS:
        layout, floor = lowest_kl(law, 10.0 * count - 1e-6, FLOOR)
        assert layout is not None
        predicted, own = law.predict(layout), rows_of(layout)
        recall = [float(np.mean(model.measure(draw, own).recalled)) for draw in (2, 1)]
        interval = predicted.recall, predicted.recall_low, predicted.recall_high
        rows.append((floor, *interval, *recall, float(model.kl[list(own)].sum())))
    return rows


def simulated(hits: bool) -> None:
    """A line for each number of prompts."""
    for prompts in (3, 6):
        rows = [
            row
            for seed in range(WORLDS)
            for row in choose_layouts(SimulatedModel(seed, prompts), seed, hits)
        ]
        floor, recall, low, high, true, fresh, kl = np.array(rows).T
        print(
            f"{prompts} prompts: to keep {floor.mean():.2f}, predicted {recall.mean():.2f}, true"
            f" {true.mean():.2f}; {np.mean(true < floor - 0.02):.0%} keep less than they were to;"
            f" {np.mean((low <= fresh) & (fresh <= high)):.0%} of fresh prompts inside the 90 %"
            f" interval of ±{np.mean(high - low) / 2:.2f}; KL {kl.mean():.3f}",
            flush=True,
        )


def recorded(seed: int) -> None:
    """Finalists of a draw predicted anew, and what would be chosen now."""
    lines = (RESULTS / f"seed{seed}_measured.jsonl").read_text().splitlines()
    measured = {(entry["draw"], entry["layout"]): entry for entry in map(json.loads, lines)}

    def score(draw: int, layout: str) -> TextScore:
        entry = measured[draw, layout]
        return TextScore(entry["kl"], [0.0] * 8, entry["recalled"], entry["value_lost"])

    scored = [layout for draw, layout in measured if draw == 0]
    singles, sets = scored[:LAYERS], scored[LAYERS:]
    choices = {key: Choice(int(key.split(":")[0]), "none", None, SAVED_MS) for key in singles}
    layouts = {key: tuple(choices[name] for name in key.split(", ")) for _, key in measured}
    scores = SingleScores.of(list(choices.values()), [score(0, key) for key in singles])
    generator = np.random.default_rng(0)
    halves = [
        [generator.permutation(size) < size // 2 for size in (8, scores.recalled.shape[1])]
        for _ in sets
    ]
    pairs = zip(sets, halves, strict=True)
    sampled = [SampledSet(layouts[key], *half) for key, half in pairs]
    law = fit_law(scores, sampled, [score(0, key) for key in sets])
    finalists = [layout for draw, layout in measured if draw == 1][:10]
    for key in finalists:
        predicted, kept = law.predict(layouts[key]), np.mean(score(1, key).recalled)
        inside = predicted.recall_low <= kept <= predicted.recall_high
        print(f"draw {seed}: {key}: {interval(predicted)}, kept {kept:.2f}, inside: {inside}")
    for share in (0.95, 0.9, 0.8):
        layout, floor = lowest_kl(law, (1 - share) * MODEL_MS, FLOOR)
        assert layout is not None
        predicted, key = law.predict(layout), key_of(layout)
        line = f"draw {seed}, {share:.0%} of the time, to keep {floor:.1f}: {key}: {interval(predicted)}"
        if (1, key) in measured:
            line += f", kept {np.mean(score(1, key).recalled):.2f}"
        print(f"{line}; KL {predicted.kl:.3f}")


def interval(predicted: LayoutPrediction) -> str:
    low_high = f"{predicted.recall_low:.2f} to {predicted.recall_high:.2f}"
    return f"recall {predicted.recall:.2f} ({low_high})"


def main() -> None:
    """Simulated or recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("simulated", "recorded"))
    parser.add_argument("--by-hits", action="store_true")
    given = parser.parse_args()
    if given.what == "simulated":
        simulated(given.by_hits)
    else:
        for seed in (1, 2):
            recorded(seed)


if __name__ == "__main__":
    main()
