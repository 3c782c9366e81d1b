"""The network that stands for a published row in a short training, and the losses of such trainings.

Publications print operators without sizes: the width follows from the number of parameters
(flashnas/observations/losses.py).
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.observations.losses import ObservedLoss, full_network, full_width, groups_of
from flashnas.observations.read_losses import SHORT_TRAININGS, read_published
from flashnas.training.recipe import Recipe

FULL_WIDTH = 2048  # that the median network of a group has before it is shrunk
STEP = 4  # of the widths of proxies
Short = Sequence[ObservedLoss | None]  # the short training of each row; None where there is none


def proxies(rows: Sequence[ObservedLoss], recipe: Recipe) -> list[Architecture]:
    """The network that a recipe trains for each row.

    Each full-size network has the width at which it has the published number of parameters. All
    widths of a group shrink by one factor, so that the median becomes FULL_WIDTH divided by the
    width factor of the recipe; the widths that can be built are multiples of STEP.

    Args:
        rows: all rows of the groups that are compared.

    Raises:
        ConfigError: for a row that cannot be built near its width, or whose number of parameters no
            width has.
    """
    networks: dict[int, Architecture] = {}
    for members in groups_of(rows).values():
        middle = statistics.median(full_width(rows[index]) for index in members)
        for index in members:
            target = FULL_WIDTH / recipe.width_factor * full_width(rows[index]) / middle
            networks[index] = proxy_near(rows[index], target, recipe)
    return [networks[index] for index in range(len(rows))]


def proxy_near(row: ObservedLoss, target: float, recipe: Recipe) -> Architecture:
    """The row's network at the width closest to the target at which it can be built."""
    first: FlashnasError | None = None
    widths = range(STEP, max(STEP, 2 * round(target)) + 1, STEP)
    for width in sorted(widths, key=lambda width: abs(width - target)):
        try:
            full = full_network(row, width * recipe.width_factor)
            small = full.scaled(recipe.width_factor, recipe.least_head_dim)
            return Architecture(hidden=width, operators=small.operators, vocab=recipe.vocab)
        except FlashnasError as error:
            first = first or ConfigError(f"{row.named} cannot be built at width {width}: {error}")
    assert first is not None
    raise first


def short_trainings(rows: Sequence[ObservedLoss]) -> list[ObservedLoss | None]:
    """The shipped short training of the proxy of each row; None where there is none."""
    shipped = {row.network.hash: row for row in read_published(SHORT_TRAININGS)}
    return [shipped.get(network.hash) for network in proxies(rows, Recipe.load("cpu"))]


def as_small_rows(rows: Sequence[ObservedLoss]) -> list[ObservedLoss]:
    """The short trainings of the networks of published rows, each once, as small rows of the
    publication of the row."""
    found = {}
    for row, short in zip(rows, short_trainings(rows), strict=True):
        if short is not None:
            group = f"short trainings of {row.source}"
            small = dataclasses.replace(short, source=row.source, group=group)
            found.setdefault((row.source, short.place), small)
    counts = Counter(row.source for row in found.values())
    return [row for row in found.values() if counts[row.source] > 1]
