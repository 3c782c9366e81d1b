"""Choose a layout: the set of changes of the lowest expected KL within a budget, how sure each of
its layers is, and the sets from which the law of sets is learnt."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import sparse
from scipy.optimize import LinearConstraint, milp

from flashnas.conversion.choices import KEPT, Layout
from flashnas.conversion.found import LayerChoice
from flashnas.conversion.law import SampledSet, SetLaw

RESAMPLES = 50
DECIDED = 0.9  # share of resamples that choose the same


def lowest_kl(law: SetLaw, save_ms: float, floor: float) -> tuple[Layout | None, float]:
    """The layout of `choose`, and the share of recall that it was to keep: the floor, or where no
    layout keeps that, the next tenth that one keeps."""
    while (layout := choose(law, save_ms, floor)) is None and floor:
        floor = max(round(floor - 0.1, 9), 0.0)
    return layout, floor


def choose(law: SetLaw, save_ms: float, floor: float) -> Layout | None:
    """The layout of the lowest KL by the law that saves enough, and whose recall keeps a floor even
    at the lower end of its interval; None where there is none.

    Exact, by an integer program: a variable for each of C changes, 1 where it is made, and one for
    each of Q pairs of changes that cost more together, at least 1 where both are made.
    """
    choices, (first, second, _) = law.scores.choices, law.scores.pairs
    of_changes, of_pairs = law.costs()
    costly = of_pairs > 0
    first = first[costly]
    second = second[costly]
    of_pairs = of_pairs[costly]
    layers = np.array([choice.layer for choice in choices])
    one_of_a_layer = layers == np.unique(layers)[:, None]
    saved = np.array([choice.saved_ms for choice in choices]) / save_ms
    lost = law.recall.slope * law.scores.lost
    rows = np.vstack([one_of_a_layer, -saved, lost])
    at_most = np.ones(len(rows))
    at_most[-2:] = -1, law.recall.most_lost(floor) if floor else np.inf
    changes = sparse.eye_array(len(choices), format="csr")
    pairs = sparse.eye_array(len(first))
    both = sparse.hstack([changes[first] + changes[second], -pairs])
    solved = milp(
        np.concatenate([of_changes, of_pairs]),
        integrality=np.repeat([1, 0], [len(choices), len(first)]),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(
                sparse.hstack([rows, sparse.csr_array((len(rows), len(first)))]), ub=at_most
            ),
            LinearConstraint(both, ub=1),
        ],
    )
    if solved.x is None:
        return None
    return tuple(choice for choice, made in zip(choices, solved.x, strict=False) if made > 0.5)


def sample_sets(
    law: SetLaw, saves_ms: tuple[float, float], recall: float, count: int, seed: int
) -> list[SampledSet]:
    """Different sets as a choice makes them: by a random half of the documents and prompts, for
    random savings in a range, every second one with the floor of recall."""
    generator = np.random.default_rng(seed)
    found: dict[Layout, SampledSet] = {}
    for attempt in range(20 * count):
        halves = [generator.permutation(size) < size // 2 for size in law.scores.sizes]
        save_ms = generator.uniform(*saves_ms)
        layout, _ = lowest_kl(law.at(*halves), save_ms, recall * (attempt % 2))
        if layout:
            found.setdefault(layout, SampledSet(layout, *halves))
        if len(found) == count:
            break
    return list(found.values())


def resampled_layers(
    law: SetLaw, layout: Layout, save_ms: float, floor: float
) -> list[LayerChoice]:
    """What each layer becomes, and how sure that is: choose anew on resampled documents and
    prompts."""
    generator = np.random.default_rng(0)
    others = []
    for _ in range(RESAMPLES):
        drawn = [generator.integers(max(size, 1), size=(size,)) for size in law.scores.sizes]
        other, _ = lowest_kl(law.at(*drawn), save_ms, floor)
        others.append({choice.layer: choice.name for choice in other or ()})
    chosen = {choice.layer: choice.name for choice in layout}
    found = []
    for layer in dict.fromkeys(choice.layer for choice in law.scores.choices):
        counts = Counter(other.get(layer, KEPT) for other in others)
        shares = {name: times / RESAMPLES for name, times in counts.most_common()}
        name = chosen.get(layer, KEPT)
        found.append(LayerChoice(layer, name, shares, shares.get(name, 0.0) >= DECIDED))
    return found
