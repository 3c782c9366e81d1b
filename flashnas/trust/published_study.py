"""The study behind `flashnas proxy-trust --published`: train the proxy of each published row, then hold the losses, and
models that have not seen the row's publication, against the published ones. Every finished training is in a CSV at
once; an interrupted study continues from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.base.files import hold_lock
from flashnas.base.hints import duration
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.evidence.agreement import Pair, PublishedTrust, measure
from flashnas.evidence.foretold import all_models, in_common, summary
from flashnas.evidence.load import fitted
from flashnas.evidence.proxies import RULES, proxies
from flashnas.evidence.trainings import PublishedRow
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.runs.identity import fingerprint
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import Recipe
from flashnas.trust.table import TrustTable, read_texts

FILE = "published.csv"
FULL_WIDTH = 2048   # of the paper's networks; the middle proxy of a group is as wide as theirs would be
KEY = ["proxy", "recipe", "data", "seed"]
FIGURES = ("loss", "bits_per_byte", "tokens", "tokens_per_s", "proxy_params")  # of a ProxyScore
COLUMNS = (*KEY, *FIGURES, "seconds", "reason")
LIMIT_S = 4 * TIMEOUT_S  # published networks are up to 64 operators deep
Progress = Callable[[int, int, float], None]  # trainings done, all, seconds left


@dataclass(frozen=True, kw_only=True)
class PublishedPlan:
    """What to train: the proxies of `rows` under `recipe` on the text `data`, with each seed from 0 on.

    rule: how the sizes of a proxy follow from its row, one of published_proxies.RULES. bench: take trainings that a
    shipped bench has, of the same recipe, text, vocabulary and seed. train: what neither the folder nor a bench has;
    otherwise rows without a training have no short loss.
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
        return proxies(self.rows, width=max(1, FULL_WIDTH // recipe.width_factor), width_factor=recipe.width_factor,
                       depth_factor=recipe.depth_factor, least_head_dim=recipe.least_head_dim, vocab=vocab,
                       rule=self.rule)


@dataclass(frozen=True)
class PublishedStudy:
    """trust: of the short losses. rows: published ones. models: all pairs by each model, `short` among them."""

    trust: PublishedTrust
    rows: Sequence[PublishedRow]
    models: dict[str, list[Pair]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: that of `trust`; models and models_common, the same over the pairs that all models have."""
        return {**self.trust.to_dict(), "models": self._summaries(self.models),
                "models_common": self._summaries(in_common(self.models))}

    def _summaries(self, models: dict[str, list[Pair]]) -> dict[str, Any]:
        return {name: summary(self.rows, pairs) for name, pairs in models.items()}


def study_published(plan: PublishedPlan, folder: Path, *, workers: int, progress: Progress,
                    note: Callable[[str], None] = lambda _: None) -> PublishedStudy:
    """Train what FOLDER/published.csv and the bench lack, then measure. Proxies that two rows share are trained once.

    Args:
        plan: what to train.
        folder: of the results.
        workers: processes.
        progress: see Progress.
        note: called with what is going to be trained, in words.

    Raises:
        RunError: the folder cannot be written to, its table is damaged, or another study trains there.
    """
    dataset = prepare_dataset(plan.data, plan.recipe)
    networks = plan.networks(dataset.vocab)
    recipe = dataclasses.replace(plan.recipe, width_factor=1, depth_factor=1)  # the networks have their size already
    names = [network.notation for network in networks]
    recipe_key = recipe_digest(plan.recipe)
    keys = [(name, recipe_key, dataset.digest, seed) for seed in range(plan.seeds) for name in dict.fromkeys(names)]
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written to: {error.strerror}") from None
    with hold_lock(folder / f".{FILE}.lock", RunError(f"{folder}: another proxy-trust is training there")):
        trainings = TrustTable(path, COLUMNS, read_trainings)
        known = read_trainings(path)
        done = set(map(tuple, known[KEY].to_numpy().tolist()))
        by_name = dict(zip(names, networks, strict=True))
        answered = _from_bench([key for key in keys if key not in done], by_name, plan.recipe, dataset
                               ) if plan.bench else pd.DataFrame(columns=list(COLUMNS))
        done |= set(map(tuple, answered[KEY].to_numpy().tolist()))
        missing = [key for key in keys if key not in done]
        took = [(seconds, len(by_name[proxy].operators)) for proxy, digest, seconds
                in pd.concat([known, answered] if len(answered) else [known])[["proxy", "recipe", "seconds"]
                                                                            ].to_numpy().tolist()
                if digest == recipe_key and proxy in by_name and seconds]
        if plan.train and missing:
            note(_foreseen(missing, len(keys), by_name, took, workers))
            _train(missing, len(keys), trainings, dataset, recipe, by_name, workers, progress, took or [(1.0, 1)])
    table = pd.concat([read_trainings(path), answered]) if len(answered) else read_trainings(path)
    table = table.set_index(KEY).reindex(keys).reset_index()
    means = table.groupby("proxy")["loss"].apply(lambda losses: losses.mean(skipna=False))
    losses = means.loc[names].to_numpy(float)
    trained = table[table["seconds"].notna()]
    facts = {"recipe": plan.recipe.to_dict(), "data": dataset.source, "rule": plan.rule, "seeds": plan.seeds,
             "trainings": len(trained), "from_bench": len(answered), "missing": len(table) - len(trained),
             "failed": int(trained["loss"].isna().sum()), "core_seconds": float(trained["seconds"].sum()),
             "core_seconds_each": float(trained["seconds"].max()) if len(trained) else 0.0, "results": str(path)}
    reads = recipe_key == fitted()["recipe"] and plan.rule == RULES[0]
    short = [None if math.isnan(loss) else (network, loss) for network, loss in zip(networks, losses, strict=True)]
    return PublishedStudy(dataclasses.replace(measure(plan.rows, losses), facts=facts), plan.rows,
                          all_models(plan.rows, losses, short if reads else None))


def _foreseen(missing: Sequence[tuple[str, str, str, int]], total: int, networks: dict[str, Architecture],
              took: Sequence[tuple[float, int]], workers: int) -> str:
    """What will be trained, and for how long if others took `took`."""
    words = f"{len(missing)} of {total} trainings are missing and start now"
    if took:
        operators = sum(len(networks[key[0]].operators) for key in missing)
        pace = sum(seconds for seconds, _ in took) / sum(each for _, each in took)
        words += (f", about {operators * pace / 60:,.0f} core-minutes at the pace of the others,"
                  f" {duration(operators * pace / workers)} with {workers} worker{'s' if workers > 1 else ''}")
    return f"{words}; --no-train leaves them out"


def recipe_digest(recipe: Recipe) -> str:
    """16 hex digits of all that a recipe says about a training; its name says nothing."""
    return fingerprint({**recipe.to_dict(), "name": ""})


def read_trainings(path: Path) -> pd.DataFrame:
    """One row a training; one that failed has no loss. A last line that a killed process left unfinished is ignored.

    Raises:
        RunError: naming file, line and rule.
    """
    table = read_texts(path)
    for column in COLUMNS:
        if column not in table.columns:
            raise RunError(f"{path}: column {column!r} is missing")
    for column in ("seed", "seconds", *FIGURES):
        numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
        wrong = numbers.isna() & ((table[column] != "") | (column in ("seed", "seconds")))
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise RunError(f"{path}:{row + 2}: {column} must be a number; got {table[column].iloc[row]!r}")
        table[column] = numbers.astype("int64" if column == "seed" else "float64")
    return table.drop_duplicates(KEY, keep="last").reset_index(drop=True)


def _from_bench(keys: Sequence[tuple[str, str, str, int]], networks: dict[str, Architecture], recipe: Recipe,
                dataset: Dataset) -> pd.DataFrame:
    """The trainings that a shipped bench has, as rows of the table."""
    found: list[dict[str, Any]] = []
    for seed in sorted({key[3] for key in keys}):
        answers = find_answers(None, recipe, dataset=dataset.digest, vocab=dataset.vocab, seed=seed)
        if not isinstance(answers, Answers):
            continue
        scores = {key: answers.trained(networks[key[0]]) for key in keys if key[3] == seed}
        found += [{**dict(zip(KEY, key, strict=True)), **{name: score[name] for name in (*FIGURES, "seconds")},
                   "reason": ""} for key, score in scores.items() if score]
    return pd.DataFrame(found, columns=list(COLUMNS))


def _train(missing: Sequence[tuple[str, str, str, int]], total: int, trainings: TrustTable, dataset: Dataset,
           recipe: Recipe, networks: dict[str, Architecture], workers: int, progress: Progress,
           took: list[tuple[float, int]]) -> None:
    """took: seconds and operators of trainings that ended, or a first guess."""
    jobs = {str(number): Job(architecture=networks[key[0]], dataset=str(dataset.folder), recipe=recipe.to_dict(),
                             seed=key[3]) for number, key in enumerate(missing)}
    cost = {number: len(networks[key[0]].operators) for number, key in enumerate(missing)}  # a guess: operators
    left = dict(enumerate(missing))

    def waiting() -> None:
        pace = sum(seconds for seconds, _ in took) / sum(operators for _, operators in took)
        progress(total - len(left), total, pace * sum(cost[number] for number in left) / max(1, workers))

    with WorkerPool(run_job, workers=workers, timeout_s=LIMIT_S) as pool:
        for number, ended in pool.run(jobs, on_wait=waiting):
            key = left.pop(int(number))
            score, reason = ended.result, ended.reason
            seconds = score["seconds"] if score else 0.0
            figures = {name: score[name] for name in FIGURES} if score else {}
            trainings.add({**dict(zip(KEY, key, strict=True)), "seconds": seconds, "reason": reason, **figures})
            if score:
                took.append((seconds, cost[int(number)]))
    progress(total, total, 0.0)
