"""Several seeds for the front: one training tells networks apart only above the noise between seeds.

The networks of the front are the best of many under one seed, and therefore partly lucky. Their means over
further seeds show what they are, and others take the place of some, until all members have all seeds. A
network that is not on the front under its first seed, by bad luck, is not tried again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashnas.executors import Executor
from flashnas.runs.trial import Trial, outcome_key
from flashnas.study.record import Record

AVERAGED = ("loss", "bits_per_byte")


def train_under_seeds(record: Record, executor: Executor, members: Callable[[], Sequence[Trial]],
                      seeds: Sequence[int]) -> None:
    """Train the members of the front until it no longer changes; its trials then have means. What an earlier
    run knows as a mean of seeds is trained under the others only. members: the trials on the front by their
    figures at that moment. seeds: besides that of the search."""
    question, note = record.question, record.progress.note
    over: set[str] = set()
    while fresh := [trial for trial in members() if trial.hash not in over]:
        # the mean that an earlier run knows has the first seeds in it, which begin with that of the search
        further = {}
        for trial in fresh:
            tried = int((record.outcomes[trial.hash].score or {}).get("seeds_tried", 1))
            further[trial.hash] = seeds[tried - 1:]
        todo = {outcome_key(trial.hash, seed=seed): (trial, seed) for trial in fresh
                for seed in further[trial.hash]}
        jobs = {}
        for key, (trial, seed) in todo.items():
            if key not in record.outcomes:
                network = record.networks[trial.hash]
                score = question.scores.score(network, seed)
                if score is None:
                    jobs[key] = question.job(network, seed)
                else:
                    record.remember(network, score, seed=seed)
        if jobs:
            note(f"training {len({todo[key][0].hash for key in jobs})} networks of the front under"
                 f" {len(seeds)} further seed{'s' if len(seeds) > 1 else ''}")
        record.seeds_left = len(jobs)
        for key, ended in executor.run(jobs, on_wait=record.report):
            record.seeds_left -= 1
            trial, seed = todo[key]
            record.remember(record.networks[trial.hash], ended.result, ended.reason, seed=seed)
        for key, (trial, seed) in todo.items():
            if record.outcomes[key].score is None:
                note(f"trial {trial.number} failed under seed {seed}, which its mean leaves out:"
                     f" {record.outcomes[key].reason}")
        over.update(trial.hash for trial in fresh)
        means = {trial.hash: _mean(record, trial.hash, further[trial.hash]) for trial in fresh}
        for key, mean in means.items():
            mean.update(question.foresee(record.networks[key], mean["loss"]))
        record.trials[:] = [dataclasses.replace(trial, **means.get(trial.hash, {}))
                            for trial in record.trials]
    record.report(now=True)
    record.write()


def _mean(record: Record, key: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of a trial that seeds change: means over those that did not fail, and the loss' standard
    error. The first outcome may be a mean itself, which counts as often as it has seeds."""
    fields = [outcome.fields() for each in (key, *(outcome_key(key, seed=seed) for seed in seeds))
              if (outcome := record.outcomes[each]).score is not None]
    counts = np.array([values.get("seeds") or 1 for values in fields])
    number = int(counts.sum())

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=counts))

    means: dict[str, Any] = {name: mean([values[name] for values in fields]) for name in AVERAGED
                             if all(values.get(name) is not None for values in fields)}
    scores = {name: mean([values["scores"][name] for values in fields])
              for name in fields[0].get("scores", {})}
    squares = sum(count * (values["loss"] - means["loss"])**2
                  + count * (count - 1) * (values.get("loss_se") or 0.0)**2
                  for count, values in zip(counts, fields, strict=True))
    return {**means, "scores": scores, "seeds": number,
            "loss_se": float(math.sqrt(squares / (number - 1) / number)) if number > 1 else None}
