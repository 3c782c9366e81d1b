"""Networks that earlier runs trained: read back with their genotypes, as scores that compare and
as observations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import parsed
from flashnas.base.documents import fingerprint
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import difference
from flashnas.latency.metrics import METRICS
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.journal import SCORED
from flashnas.run_folder.recorded_run import RecordedRun, rows, trial_of
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.training.recipe import Recipe
from flashnas.trials.trial import RUN, Trial

# of a score: field of a trial -> its name there
SCORE = {**{name: name for name in SCORED if name != "source"}, "train_seconds": "seconds"}


@dataclass(frozen=True)
class EarlierRuns:
    """The networks that one or several runs trained.

    trained: of each run; a network is None where its class is not at hand, its genotype that of a foreign
    space, if that is the space of the search. facts: what the losses of `by_hash` depend on. by_hash:
    networks with a score of that training, and their runs.
    """

    runs: tuple[RecordedRun, ...]
    trained: tuple[tuple[Trial, ...], ...] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @functools.cached_property
    def by_hash(self) -> dict[str, tuple[RecordedRun, Trial]]:
        found: dict[str, tuple[RecordedRun, Trial]] = {}
        for run, trials in zip(self.runs, self.trained, strict=True):
            for trial in trials if training_of(run) == self.facts else ():
                found.setdefault(trial.hash, (run, trial))
        return found

    def with_facts(self, facts: Mapping[str, Any], *, strict: bool) -> EarlierRuns:
        """The same for a search whose losses depend on these facts. strict: raise RunError where
        those of a run do not compare."""
        for run in self.runs if strict else ():
            if reason := difference(training_of(run), facts):
                raise RunError(f"{run.path}: a search cannot start from its networks: {reason}")
        return dataclasses.replace(self, facts=facts)

    def score(self, network: Any, *, metrics: bool) -> dict[str, Any] | None:
        """The score of a network as `executors.job.run_job` returns it, or None. metrics: also what the
        evaluator returned besides the loss."""
        if network.hash not in self.by_hash:
            return None
        _, trial = self.by_hash[network.hash]

        def known(names: Mapping[str, str]) -> dict[str, Any]:
            found = {name: getattr(trial, own) for own, name in names.items()}
            return {name: value for name, value in found.items() if value is not None}

        further = {name: name for name in (*METRICS, "lower_ms", "upper_ms")}
        return {**known(SCORE), "source": RUN, **({"metrics": known(further)} if metrics else {})}

    def within(self, space: SearchSpace[Any]) -> Iterator[tuple[Any, Any, str]]:
        """Genotype, network and source of those that are networks of a space."""
        for run, trial in self.by_hash.values():
            genotype, network = trial.genotype, trial.architecture
            if isinstance(space, OperatorSpace):
                if not isinstance(network, Architecture) or not space.contains(network):
                    continue
                genotype = space.locate(network)
            if genotype is not None:
                yield genotype, network, f"run {run.name}"

    def observed(self) -> list[ObservedLoss]:
        """Every training of the runs as an observation, in one group with those of its recipe and
        text; none of networks that an evaluator of the user's scored."""
        found = {}
        for run, trials in zip(self.runs, self.trained, strict=True):
            recipe, group = recipe_of_run(run), group_of(training_of(run))
            for trial in trials if recipe else ():
                if recipe and isinstance(trial.architecture, Architecture):
                    found[trial.hash, group] = ObservedLoss.of(
                        recipe.proxy_of(trial.architecture, run.entry("corpus", "vocabulary")),
                        nats=float(trial.loss or 0.0),
                        tokens=float(recipe.steps * recipe.batch_tokens),
                        group=group,
                    )
        return list(found.values())

    @property
    def recipe(self) -> Recipe | None:
        """Of the first run; None where an evaluator of the user's scored the networks."""
        return recipe_of_run(self.runs[0])

    def to_dict(self) -> dict[str, Any]:
        """digest: 16 hex digits of all networks and their scores."""
        networks = [trial for trials in self.trained for trial in trials]
        return {
            "runs": [str(run.path) for run in self.runs],
            "digest": fingerprint([[each.hash, each.loss, each.scores] for each in networks]),
            "networks": len({trial.hash for trial in networks}),
        }


def earlier_runs(folders: Sequence[str | Path], space: SearchSpace[Any]) -> EarlierRuns:
    """Read runs, finished or not. space: of the search that starts from them. Raises RunError for a
    folder that is not a run or trained nothing."""
    runs = tuple(map(RecordedRun.load, folders))
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError(f"{runs[-1].path}: a run is named twice")
    for run in runs:
        if run.trained.empty:
            raise RunError(
                f"{run.path}: nothing was trained in it, so that it has nothing to reuse; search"
                " anew, which takes seconds"
                if run.untrained and run.entry("finished")
                else f"{run.path}: has no trained network yet"
            )
    with foreign_errors(("space", space), direct=False):
        trained = tuple(tuple(_networks(run, space)) for run in runs)
    return EarlierRuns(runs, trained, training_of(runs[0]))


# -- what a loss depends on ------------------------------------------------------------------------


def recipe_of_run(run: RecordedRun) -> Recipe | None:
    """The recipe of a run; None where an evaluator scored. Raises RunError where it is damaged."""
    recipe = run.entry("recipe")
    try:
        return None if recipe is None else Recipe.from_dict(recipe)
    except (FlashnasError, TypeError, AttributeError) as error:
        raise RunError(f"{run.path}: run.yaml: recipe: {error}") from None


def training_of(run: RecordedRun) -> dict[str, Any]:
    """All that a network's loss depends on in a run."""
    seed = run.entry("options", "seed") or 0
    return training(recipe_of_run(run), run.entry("corpus", "digest"), seed, run.entry("evaluator"))


def group_of(facts: Mapping[str, Any]) -> str:
    """The name of the group of losses that depend on these facts, and compare; whatever the
    seed."""
    return fingerprint({name: value for name, value in facts.items() if name != "seed"})


def training(
    recipe: Recipe | None, corpus: str | None, seed: int, evaluator: str | None
) -> dict[str, Any]:
    """The same of any training, by the names that a message uses."""
    settings = (
        {}
        if recipe is None
        else {
            **recipe.training_settings,
            "width_factor": recipe.width_factor,
            "least_head_dim": recipe.least_head_dim,
        }
    )
    return {
        "evaluator": evaluator,
        **{f"recipe.{name}": value for name, value in settings.items()},
        "the digest of text and vocabulary": corpus,
        "seed": seed,
    }


# -- networks and their genotypes ------------------------------------------------------------------


def _networks(run: RecordedRun, space: SearchSpace[Any]) -> Iterator[Trial]:
    foreign = not isinstance(space, OperatorSpace) and run.entry("space", "hash") == space.hash
    for trial in map(trial_of, rows(run.trained)):
        genotype: Any = space.decode(trial.genotype) if foreign and trial.genotype else None
        networks: list[Any] = [parsed(trial.notation)]
        if genotype is not None:
            networks += space.architectures(genotype)
        network = next((each for each in networks if each and each.hash == trial.hash), None)
        yield dataclasses.replace(trial, architecture=network, genotype=genotype)
