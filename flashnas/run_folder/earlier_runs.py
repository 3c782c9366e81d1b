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
from flashnas.base.documents import fingerprint
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import shown
from flashnas.latency.metrics import METRICS
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.journal import SCORED
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.training.recipe import Recipe
from flashnas.trials.trial import RUN

# of a score: field of a trial -> its name there
SCORE = {**{name: name for name in SCORED if name != "source"}, "train_seconds": "seconds"}
WHOLE = ("tokens", "proxy_params", "seed")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with a score. facts: what its loss depends on. row: its trial in the run. network:
    None where its class is not at hand. genotype: of a foreign space, if that is the space of the
    search."""

    run: RecordedRun
    facts: Mapping[str, Any] = field(repr=False)
    row: Any = field(repr=False)
    network: Any | None
    genotype: Any | None

    @property
    def score(self) -> dict[str, Any]:
        """The score as `executors.job.run_job` returns it, without metrics of the evaluator's."""
        score = {
            name: value for own, name in SCORE.items() if (value := getattr(self.row, own)) == value
        }
        score |= {name: int(score[name]) for name in WHOLE if name in score}
        return {**score, "source": RUN}

    def metrics(self) -> dict[str, float]:
        return {
            name: value
            for name in (*METRICS, "lower_ms", "upper_ms")
            if (value := float(getattr(self.row, name))) == value
        }


@dataclass(frozen=True)
class EarlierRuns:
    """The networks that one or several runs trained.

    facts: what the losses of `by_hash` depend on. by_hash: networks with a score of that training.
    """

    runs: tuple[RecordedRun, ...]
    trained: tuple[Trained, ...] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @functools.cached_property
    def by_hash(self) -> dict[str, Trained]:
        found: dict[str, Trained] = {}
        for trained in self.trained:
            if trained.facts == self.facts:
                found.setdefault(trained.row.hash, trained)
        return found

    def with_facts(self, facts: Mapping[str, Any], *, strict: bool) -> EarlierRuns:
        """The same for a search whose losses depend on these facts. strict: raise RunError where
        those of a run do not compare."""
        for run in self.runs if strict else ():
            if reason := difference(training_of(run), facts, "in the run", "in this search"):
                raise RunError(f"{run.path}: a search cannot start from its networks: {reason}")
        return dataclasses.replace(self, facts=facts)

    def score(self, network: Any, *, metrics: bool) -> dict[str, Any] | None:
        """The score of a network, or None. metrics: also what the evaluator returned besides the
        loss.
        """
        trained = self.by_hash.get(network.hash)
        if trained is None:
            return None
        return {**trained.score, **({"metrics": trained.metrics()} if metrics else {})}

    def within(self, space: SearchSpace[Any]) -> Iterator[tuple[Any, Any, str]]:
        """Genotype, network and source of those that are networks of a space."""
        for trained in self.by_hash.values():
            genotype, network = trained.genotype, trained.network
            if isinstance(space, OperatorSpace):
                if not isinstance(network, Architecture) or not space.contains(network):
                    continue
                genotype = space.locate(network)
            if genotype is not None:
                yield genotype, network, f"run {trained.run.name}"

    def observed(self) -> list[ObservedLoss]:
        """Every training of the runs as an observation, in one group with those of its recipe and
        text; none of networks that an evaluator of the user's scored."""
        found = {}
        for trained in self.trained:
            recipe, group = recipe_of_run(trained.run), group_of(trained.facts)
            if recipe is None or not isinstance(trained.network, Architecture):
                continue
            vocab = trained.run.entry("corpus", "vocabulary")
            found[trained.row.hash, group] = ObservedLoss.of(
                recipe.proxy_of(trained.network, vocab),
                nats=float(trained.row.loss),
                tokens=float(recipe.steps * recipe.batch_tokens),
                group=group,
            )
        return list(found.values())

    @property
    def recipe(self) -> Recipe | None:
        """Of the first run; None where an evaluator of the user's scored the networks."""
        return recipe_of_run(self.runs[0])

    @property
    def digest(self) -> str:
        """16 hex digits of all networks and their scores."""
        return fingerprint(
            [[trained.row.hash, trained.row.loss, trained.row.scores] for trained in self.trained]
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [str(run.path) for run in self.runs],
            "digest": self.digest,
            "networks": len({trained.row.hash for trained in self.trained}),
        }


def earlier_runs(folders: Sequence[str | Path], space: SearchSpace[Any]) -> EarlierRuns:
    """Read runs, finished or not. space: of the search that starts from them. Raises RunError for a
    folder that is not a run or trained nothing."""
    runs = tuple(map(RecordedRun.load, folders))
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError(f"{runs[-1].path}: a run is named twice")
    trained: list[Trained] = []
    for run in runs:
        if run.trained.empty:
            raise RunError(
                f"{run.path}: nothing was trained in it, so that it has nothing to reuse; search"
                " anew, which takes seconds"
                if run.untrained and run.entry("finished")
                else f"{run.path}: has no trained network yet"
            )
        with foreign_errors(("space", space), direct=False):
            trained += _networks(run, space)
    return EarlierRuns(runs, tuple(trained), training_of(runs[0]))


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


def difference(
    first: Mapping[str, Any], second: Mapping[str, Any], here: str, there: str
) -> str | None:
    """In what two trainings differ first, in words; None if nothing does."""
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            ours, theirs = shown(first.get(name)), shown(second.get(name))
            return f"{name} is {ours} {here} and {theirs} {there}"
    return None


# -- networks and their genotypes ------------------------------------------------------------------


def _networks(run: RecordedRun, space: SearchSpace[Any]) -> Iterator[Trained]:
    facts = training_of(run)
    foreign = not isinstance(space, OperatorSpace) and run.entry("space", "hash") == space.hash
    for row in rows(run.trained):
        genotype: Any = space.decode(row.genotype) if foreign and row.genotype else None
        network: Any = _parsed(row)
        if network is None and genotype is not None:
            sizes = space.architectures(genotype)
            network = next((sized for sized in sizes if sized.hash == row.hash), None)
        yield Trained(run=run, facts=facts, row=row, network=network, genotype=genotype)


def _parsed(row: Any) -> Architecture | None:
    try:
        network = Architecture.parse(row.notation)
    except FlashnasError:
        return None
    return network if network.hash == row.hash else None
