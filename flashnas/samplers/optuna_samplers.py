"""Optuna's samplers over the space's encoding, `nsga2` and `tpe`, in a study in memory.

The first candidates, of which a sampler has yet to learn, are drawn from the space. A uniform draw
of the encoding is another distribution: over `nemotron_flash` it gives deeper and worse networks
(benchmarks/README.md).

Objectives are (loss, latency_ms) or those of the goals; a candidate that no width fits violates the
constraint `budget` (Optuna 5: <= 0 is feasible) and a failed one is a FAIL trial. A draw outside
the budget, or one that was seen before, costs nothing: it is dropped (FAIL) and drawn again, since
such draws would fill NSGA-II's generations and TPE's start.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from flashnas.samplers.sampler import Genotype, Sampler, check_whole
from flashnas.trials.trial import Trial

REDRAWS = 16  # draws of the sampler for one candidate, before mutation helps out


class OptunaSampler(Sampler):
    """A study in memory behind ask/tell; subclasses choose the sampler. first: candidates that are
    drawn from the space before the sampler's own."""

    def __init__(self, *, sampler: optuna.samplers.BaseSampler, first: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.first = first
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            directions=["minimize"] * len(self._exact_objectives), sampler=sampler
        )
        self._distributions = self.space.distributions()
        self._trials: deque[optuna.Trial] = deque()  # of the pending candidates, in the order asked

    def _propose(self, count: int) -> Iterator[Genotype]:
        for _ in range(count):
            genotype, trial = self._draw()
            self._trials.append(trial)
            yield genotype

    def _draw(self) -> tuple[Genotype, optuna.Trial]:
        if len(self.history) + len(self.pending) < self.first:
            return self._as_trial(self.draw_random())
        for _ in range(REDRAWS):
            trial = self.study.ask(self._distributions)
            genotype = self.space.decode(trial.params)
            if self.fresh(genotype):
                return genotype, trial
            self.study.tell(trial, state=TrialState.FAIL)
        return self._as_trial(self.draw_fresh(lambda: self.space.mutate(genotype, self.rng)))

    def _as_trial(self, genotype: Genotype) -> tuple[Genotype, optuna.Trial]:
        self.study.enqueue_trial(dict(self.space.encode(genotype)))
        return genotype, self.study.ask(self._distributions)

    def _learn_unasked(self, trial: Trial) -> None:
        self._trials.appendleft(self._as_trial(trial.genotype)[1])
        self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        asked = self._trials.popleft()
        if not trial.feasible:
            asked.set_constraint("budget", max(self._excess(trial.genotype), 1e-9))
            self.study.tell(asked, [float("inf")] * len(self._exact_objectives))
        elif not trial.complete:
            self.study.tell(asked, state=TrialState.FAIL)
        else:
            asked.set_constraint("budget", 0.0)
            self.study.tell(asked, trial.point)


class Nsga2(OptunaSampler):
    """NSGA-II; `population` is small so that tens of candidates make several generations."""

    name = "nsga2"

    def __init__(self, *, seed: int, population: int = 10, **shared: Any) -> None:
        check_whole("nsga2: population", population, 2)
        sampler = optuna.samplers.NSGAIISampler(
            population_size=population, seed=_sampler_seed(seed)
        )
        super().__init__(seed=seed, sampler=sampler, first=population, **shared)


class Tpe(OptunaSampler):
    """Multivariate TPE; the pending candidates of a cycle are treated as bad ones, so that a cycle
    is spread out."""

    name = "tpe"
    max_proposals = 500

    def __init__(self, *, seed: int, startup: int = 10, **shared: Any) -> None:
        check_whole("tpe: startup", startup, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=startup,
                multivariate=True,
                constant_liar=True,
                seed=_sampler_seed(seed),
            )
        super().__init__(seed=seed, sampler=sampler, first=startup, **shared)


def _sampler_seed(seed: int) -> int:
    """32 bits for Optuna's samplers, of another stream than `self.rng`."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
