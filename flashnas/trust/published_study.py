"""The study behind `flashnas proxy-trust --published`: train the proxy of each published row, then hold the
losses, and models that have not seen the row's publication, against the published ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.hints import duration
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import prepare_dataset
from flashnas.evidence.agreement import Pair, PublishedTrust, measure
from flashnas.evidence.foretold import all_models, in_common, summary
from flashnas.evidence.load import fitted
from flashnas.evidence.proxies import RULES, proxies
from flashnas.evidence.trainings import PublishedRow
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import Recipe
from flashnas.training.store import Pace, PlannedTraining, Progress, TrainingRow, TrainingStore, train_missing

FILE = "published.jsonl"
HEADER = {"flashnas_published": 1}
FULL_WIDTH = 2048   # of the paper's networks; the middle proxy of a group is as wide as theirs would be
LIMIT_S = 4 * TIMEOUT_S  # published networks are up to 64 operators deep


@dataclass(frozen=True, kw_only=True)
class ProxyTraining(TrainingRow):
    """A training of a proxy, by its notation. recipe, data: digests of the recipe, and of text and
    tokenizer."""

    proxy: str
    recipe: str
    data: str
    seed: int

    @cached_property
    def key(self) -> tuple[str, str, str, int]:
        return self.proxy, self.recipe, self.data, self.seed


@dataclass(frozen=True, kw_only=True)
class PublishedPlan:
    """What to train: the proxies of `rows` with each seed from 0 on.

    rule: one of proxies.RULES. bench: take what a shipped bench has of the same recipe, text, vocabulary and
    seed. train: what neither the folder nor a bench has; otherwise rows without a training have no short
    loss.
    """

    rows: Sequence[PublishedRow]
    recipe: Recipe
    data: str
    rule: str = "params"
    seeds: int = 1
    bench: bool = True
    train: bool = True

    def networks(self, vocab: int) -> list[Architecture]:
        """The proxy of each row."""
        recipe = self.recipe
        return proxies(self.rows, width=max(1, FULL_WIDTH // recipe.width_factor),
                       width_factor=recipe.width_factor,
                       depth_factor=recipe.depth_factor, least_head_dim=recipe.least_head_dim, vocab=vocab,
                       rule=self.rule)


@dataclass(frozen=True)
class PublishedStudy:
    """trust: of the short losses. models: all pairs by each model, `short` among them."""

    trust: PublishedTrust
    rows: Sequence[PublishedRow]
    models: dict[str, list[Pair]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: that of `trust`; models, and models_common over the pairs that all have."""
        return {**self.trust.to_dict(), **{
            key: {name: summary(self.rows, pairs) for name, pairs in models.items()}
            for key, models in (("models", self.models), ("models_common", in_common(self.models)))}}


def study_published(plan: PublishedPlan, folder: Path, *, workers: int, progress: Progress,
                    note: Callable[[str], None] = lambda _: None) -> PublishedStudy:
    """Train what FOLDER/published.jsonl and the bench lack, then measure. Proxies that two rows share are
    trained once.

    Raises:
        RunError: the folder cannot be written to, its file is damaged, or another study trains there.
    """
    dataset = prepare_dataset(plan.data, plan.recipe)
    networks = plan.networks(dataset.vocab)
    recipe = dataclasses.replace(plan.recipe, width_factor=1,
                                 depth_factor=1)  # the networks have their size already
    planned = [PlannedTraining(
        ProxyTraining(proxy=network.notation, recipe=plan.recipe.digest, data=dataset.digest, seed=seed),
        network.notation, Job(architecture=network, dataset=str(dataset.folder), recipe=recipe.to_dict(),
                              seed=seed),
        len(network.operators)) for seed in range(plan.seeds)
        for network in {network.notation: network for network in networks}.values()]
    with TrainingStore(folder / FILE, HEADER, ProxyTraining) as store:
        answered = {}
        if plan.bench:
            answered = _from_bench([item for item in planned if not store.has(item.row.key)], plan.recipe,
                                   dataset.digest, dataset.vocab)
        pace, trained = Pace(), {**store.rows, **answered}
        for item in planned:
            if item.row.key in trained:
                pace.add(trained[item.row.key].seconds, item)
        missing = [item for item in planned if item.row.key not in trained]
        if plan.train and missing:
            note(_foreseen(missing, len(planned), pace, workers))
            with WorkerPool(run_job, workers=workers, timeout_s=LIMIT_S) as pool:
                train_missing(planned, store, pool, progress, workers=workers, known=answered, pace=pace)
        trained = {**store.rows, **answered}
    rows = {item.row.key: row for item in planned if (row := trained.get(item.row.key))}
    by_proxy: dict[str, list[float]] = {}
    for item in planned:
        row = rows.get(item.row.key)
        by_proxy.setdefault(item.row.proxy, []).append(math.nan if row is None or row.loss is None
                                                       else row.loss)
    losses = np.array([np.mean(by_proxy[network.notation]) for network in networks])
    seconds = [row.seconds or 0.0 for row in rows.values()]
    facts = {"recipe": plan.recipe.to_dict(), "data": dataset.source, "rule": plan.rule, "seeds": plan.seeds,
             "trainings": len(rows), "from_bench": len(answered), "missing": len(planned) - len(rows),
             "failed": sum(row.loss is None for row in rows.values()), "core_seconds": sum(seconds),
             "core_seconds_each": max(seconds, default=0.0), "results": str(folder / FILE)}
    reads = plan.recipe.digest == fitted()["recipe"] and plan.rule == RULES[0]
    short = [None if math.isnan(loss) else (network, loss) for network, loss
             in zip(networks, losses, strict=True)]
    return PublishedStudy(dataclasses.replace(measure(plan.rows, losses), facts=facts), plan.rows,
                          all_models(plan.rows, losses, short if reads else None))


def _foreseen(missing: Sequence[PlannedTraining[Any]], total: int, pace: Pace, workers: int) -> str:
    words = f"{len(missing)} of {total} trainings are missing and start now"
    if seconds := pace.seconds(missing):
        words += (f", about {seconds / 60:,.0f} core-minutes at the pace of the others,"
                  f" {duration(seconds / workers)} with {workers} worker{'s' if workers > 1 else ''}")
    return f"{words}; --no-train leaves them out"


def _from_bench(planned: Sequence[PlannedTraining[ProxyTraining]], recipe: Recipe, dataset: str, vocab: int,
                ) -> dict[Any, ProxyTraining]:
    """The trainings that a shipped bench has."""
    rows: dict[Any, ProxyTraining] = {}
    for seed in sorted({item.row.seed for item in planned}):
        answers = find_answers(None, recipe, dataset=dataset, vocab=vocab, seed=seed)
        if isinstance(answers, Answers):
            rows |= {item.row.key: item.row.ended(score, "") for item in planned if item.row.seed == seed
                     and (score := answers.trained(item.job.architecture))}
    return rows
