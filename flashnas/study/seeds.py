"""Several seeds for the front: one training tells networks apart only above the noise between seeds.

The networks of the front are the best of many under one seed, and therefore partly lucky. Their means over further
seeds show what they are, and others take the place of some. This is repeated until all members have all seeds.
A network that is not on the front under its first seed, by bad luck, is not tried again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashnas.executors.job import Job
from flashnas.runs.trial import Outcome, Trial, outcome_key
from flashnas.study.trajectory import Trajectory

AVERAGED = ("loss", "bits_per_byte")


def train_under_seeds(trajectory: Trajectory, members: Callable[[], Sequence[Trial]], seeds: Sequence[int], *,
                      make_job: Callable[[Any, int], Job],
                      known_score: Callable[[Any, int], dict[str, Any] | None]) -> None:
    """Train the members of the front under further seeds until the front no longer changes; its trials then have means.

    Args:
        trajectory: of the search, at its end; what is recorded already is not trained again.
        members: the trials on the front by their figures at that moment.
        seeds: further ones, besides that of the search.
        make_job: network and seed -> its training.
        known_score: network and seed -> its score by a bench, or None. What an earlier run knows as a mean of seeds is
            trained under the others only.
    """
    over: set[str] = set()
    while fresh := [trial for trial in members() if trial.hash not in over]:
        further = {trial.hash: _further(trajectory, trial.hash, seeds) for trial in fresh}
        todo = {outcome_key(trial.hash, seed=seed): (trial, seed) for trial in fresh for seed in further[trial.hash]}
        jobs = {}
        for key, (trial, seed) in todo.items():
            if key in trajectory.outcomes:
                continue
            network = trajectory.networks[trial.hash]
            known = known_score(network, seed)
            if known is None:
                jobs[key] = make_job(network, seed)
            else:
                _remember(trajectory, trial, seed, known, "")
        if jobs:
            trajectory.progress.note(f"training {len({todo[key][0].hash for key in jobs})} networks of the front under"
                                     f" {len(seeds)} further seed{'s' if len(seeds) > 1 else ''}")
        trajectory.seeds_left = len(jobs)
        for key, ended in trajectory.pool.run(jobs, on_wait=trajectory.report):
            trajectory.seeds_left -= 1
            _remember(trajectory, *todo[key], ended.result, ended.reason)
        for key, (trial, seed) in todo.items():
            if trajectory.outcomes[key].score is None:
                trajectory.progress.note(f"trial {trial.number} failed under seed {seed}, which its mean leaves out:"
                                         f" {trajectory.outcomes[key].reason}")
        over.update(trial.hash for trial in fresh)
        means = {trial.hash: _mean(trajectory, trial.hash, further[trial.hash]) for trial in fresh}
        for found_hash, mean in means.items():
            mean.update(trajectory.foresee(trajectory.networks[found_hash], mean["loss"]))
        trajectory.trials[:] = [dataclasses.replace(trial, **means.get(trial.hash, {})) for trial in trajectory.trials]
    trajectory.folder.write_trials(trajectory.trials)


def _remember(trajectory: Trajectory, trial: Trial, seed: int, score: dict[str, Any] | None, reason: str) -> None:
    outcome = Outcome(hash=trial.hash, notation=trial.notation, score=score, reason=reason, seed=seed)
    trajectory.folder.database.remember(outcome, params={}, distributions={},
                                        values=trajectory.values_of(trajectory.networks[trial.hash], outcome))


def _further(trajectory: Trajectory, network_hash: str, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds that are not in the mean that an earlier run knows; they begin after that of the search."""
    score = trajectory.outcomes[network_hash].score or {}
    return seeds[int(score.get("seeds_tried", 1)) - 1:]


def _mean(trajectory: Trajectory, network_hash: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of a trial that seeds change: means over those that did not fail, and the loss' standard error. The
    first outcome may be a mean itself, which counts as often as it has seeds."""
    keys = [network_hash, *(outcome_key(network_hash, seed=seed) for seed in seeds)]
    fields = [outcome.fields() for key in keys
              if (outcome := trajectory.outcomes[key]).score is not None]
    counts = np.array([found.get("seeds") or 1 for found in fields])
    number = int(counts.sum())

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=counts))

    means: dict[str, Any] = {name: mean([found[name] for found in fields]) for name in AVERAGED
                             if all(found.get(name) is not None for found in fields)}
    scores = {name: mean([found["scores"][name] for found in fields]) for name in fields[0].get("scores", {})}
    squares = sum(count * (found["loss"] - means["loss"])**2 + count * (count - 1) * (found.get("loss_se") or 0.0)**2
                  for count, found in zip(counts, fields, strict=True))
    return {**means, "scores": scores, "seeds": number,
            "loss_se": float(math.sqrt(squares / (number - 1) / number)) if number > 1 else None}
