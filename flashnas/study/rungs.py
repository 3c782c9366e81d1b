"""Where the trainings of a search pause, and with what it is decided who trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flashnas.base.fingerprint import fingerprint
from flashnas.bench.answers import find_curves
from flashnas.data.dataset import Dataset
from flashnas.search.forecast import Curve, meaningful_from
from flashnas.study.config import AUTO, NONE, SearchConfig, share_of
from flashnas.training.recipe import Recipe

# Spearman's correlation with the final losses from which on the order at a rung is trusted
MIN_RANK = 0.9
MIN_NETWORKS = 20    # of a bench that says where this holds
MAX_LISTED = 12       # points of a curve in a message
TRUSTED_SHARE = 0.75   # of a training, where no bench says it: that of the recipe `cpu`


@dataclass(frozen=True)
class Rungs:
    """The rungs of one search; without tokens no training pauses. tokens: after which trainings pause,
    increasing. whole: of a finished training. chance: of entering the front, with which a paused candidate
    trains on. curves: of finished trainings of the recipe that a bench holds."""

    tokens: tuple[int, ...] = ()
    whole: int = 0
    chance: float = 0.0
    curves: Sequence[Curve] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        return fingerprint([[list(point) for point in curve] for curve in self.curves])


def find_rungs(config: SearchConfig, recipe: Recipe, dataset: Dataset, note: Callable[[str], None]) -> Rungs:
    """The rungs of a search that trains, as `rungs_of`. A bench's curves, under any seed, teach the forecast,
    and say where the order of losses can be trusted."""
    if not config.rungs:
        return Rungs()
    bench, curves = find_curves(config.bench_table, recipe, dataset=dataset.digest, vocab=dataset.vocab
                                ) if config.bench else ("", [])
    return rungs_of(config, recipe.curve_at, f"the curve of recipe {recipe.name!r} (curve_points"
                    f" {recipe.curve_points})", note, bench=bench, curves=curves)


def rungs_of(config: SearchConfig, points: Sequence[int], owner: str, note: Callable[[str], None], *,
             bench: str = "", curves: Sequence[Curve] = ()) -> Rungs:
    """The rungs that a search asks for. points: tokens, or fidelities of an evaluator, at which there are
    losses; the last is the end. owner: whose points these are, in words. note: receives a line where the
    rungs were chosen, and where one is too early. bench, curves: of the same trainings.

    Raises:
        SettingError: a rung is not one of the points, or is too early by the bench; or none is late enough.
    """
    whole = points[-1]
    trusted, why = _trusted_from(whole, bench, curves)
    if config.rungs == (AUTO,):
        tokens = tuple(point for point in points[:-1] if point >= trusted)
        if not tokens:
            config.wrong("rungs", f"{AUTO} needs a point of {owner} before its end, at {trusted:,} tokens or"
                                  f" later; got {_listed(points)}")
        note(f"rungs at {_listed(tokens)} of {whole:,} tokens: {why}")
    else:
        tokens = _shares(config, points) or config.rungs
        for value in tokens:
            if value not in points[:-1]:
                got = f"{value:,}" if isinstance(value, int) else ",".join(config.rungs)
                config.wrong("rungs", f"must be points of {owner} before its end at {whole:,} tokens"
                                      f" ({_listed(points[:-1])}); got {got}; shares such as 50%,75% suit any"
                                      f" number of tokens, and {NONE} trains every candidate to the end")
        if tokens[0] < trusted:
            if len(curves) >= MIN_NETWORKS and not config.early_rungs:
                rule = f"must be at {trusted:,} tokens or later" if trusted < whole else "must be left out"
                config.wrong("rungs",
                             f"{rule}: {why}; got {tokens[0]:,}; --early-rungs takes it all the same")
            note(f"the rung at {tokens[0]:,} tokens is early; losses are in order from {trusted:,} on: {why}")
    return Rungs(tokens, whole, config.rung_chance, curves)


def _shares(config: SearchConfig, points: Sequence[int]) -> tuple[int, ...]:
    """Rungs that are shares of the training, each as the first point there or later before the end."""
    shares = [share for value in config.rungs if (share := share_of(value)) is not None]
    reached = [next(point for point in points if point >= share * points[-1] - 0.5) for share in shares]
    return tuple(dict.fromkeys(point for point in reached if point < points[-1]))


def _trusted_from(whole: int, bench: str, curves: Sequence[Curve]) -> tuple[int, str]:
    """The tokens from which on the order of losses is trusted, and why, in words."""
    if len(curves) >= MIN_NETWORKS:
        measured = meaningful_from(curves, least=MIN_RANK)
        over = (f"over the {len(curves)} networks of bench {bench} the rank correlation with the final losses"
                " is")
        return (whole, f"{over} below {MIN_RANK:g} until the end") if measured is None else (
            measured, f"{over} {MIN_RANK:g} or more from there on")
    return round(TRUSTED_SHARE * whole), f"no bench says where, and {TRUSTED_SHARE:.0%} is the default"


def _listed(tokens: Sequence[int]) -> str:
    shown = [f"{value:,}" for value in tokens]
    return ", ".join(shown if len(shown) <= MAX_LISTED else
                     [*shown[:MAX_LISTED - 1], "..", shown[-1]]) or "none"
