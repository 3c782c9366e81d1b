"""Networks that earlier runs trained: read back with their genotypes, and checked to have
comparable losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.algorithms.trial import RUN, SCORED
from flashnas.architecture import Architecture
from flashnas.base.documents import fingerprint
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import shown
from flashnas.latency.metrics import METRICS
from flashnas.run_folder.run import RecordedRun, rows
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.training.recipe import Recipe

# of a score: field of a trial -> its name there
SCORE = {**{name: name for name in SCORED if name != "source"}, "train_seconds": "seconds"}
WHOLE = ("tokens", "proxy_params", "seed")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with a score. row: its trial in the run. network: None where its class is not at
    hand. genotype: None for a network that no genotype of the run's space builds, such as most
    baselines."""

    run: RecordedRun
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
    """The networks that one or several runs trained, by hash, with comparable losses."""

    runs: tuple[RecordedRun, ...]
    by_hash: Mapping[str, Trained] = field(repr=False)

    @property
    def networks(self) -> list[Trained]:
        return list(self.by_hash.values())

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
        for trained in self.networks:
            genotype, network = trained.genotype, trained.network
            if trained.run.entry("space", "hash") != space.hash:
                genotype = (
                    space.locate(network)
                    if isinstance(space, OperatorSpace)
                    and isinstance(network, Architecture)
                    and space.contains(network)
                    else None
                )
            if genotype is not None and network is not None:
                yield genotype, network, f"run {trained.run.name}"

    @property
    def recipe(self) -> Recipe | None:
        """Of the trainings; None where an evaluator of the user's scored the networks."""
        recipe = self.runs[0].entry("question", "recipe")
        return None if recipe is None else Recipe.from_dict(recipe)

    @property
    def digest(self) -> str:
        """16 hex digits of all networks and their scores."""
        return fingerprint(
            [[trained.row.hash, trained.row.loss, trained.row.scores] for trained in self.networks]
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [str(run.path) for run in self.runs],
            "digest": self.digest,
            "networks": len(self.by_hash),
        }


def earlier_runs(folders: Sequence[str | Path], space: SearchSpace[Any]) -> EarlierRuns:
    """Read runs, finished or not. space: of the search that starts from them; theirs as well where
    it is not a shipped one or a file. Raises RunError for a folder that is not a run or trained
    nothing, or for losses that do not compare with those of the first one."""
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
        if reason := difference(
            training_of(runs[0]), training_of(run), f"in {runs[0].path}", f"in {run.path}"
        ):
            raise RunError(
                f"{run.path}: its losses do not compare with those of {runs[0].path}: {reason}"
            )
    by_hash: dict[str, Trained] = {}
    for run in runs:
        own = _space_of(run, space)
        with foreign_errors(("space", own), direct=False):
            for trained in _networks(run, own):
                by_hash.setdefault(trained.row.hash, trained)
    return EarlierRuns(runs, by_hash)


# -- what a loss depends on ------------------------------------------------------------------------


def training_of(run: RecordedRun) -> dict[str, Any]:
    """All that a network's loss depends on in a run; raises RunError where run.yaml does not
    say.
    """
    question = run.entry("question")
    if not isinstance(question, dict) or "seed" not in question:
        raise RunError(
            f"{run.path}: run.yaml has no question, so that nobody knows how its networks were"
            f" trained"
        )
    recipe = question.get("recipe")
    try:
        loaded = None if recipe is None else Recipe.from_dict(recipe)
    except (FlashnasError, TypeError, AttributeError) as error:
        raise RunError(f"{run.path}: run.yaml: question.recipe: {error}") from None
    return training(loaded, question.get("corpus"), question["seed"], question.get("evaluator"))


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


def _space_of(run: RecordedRun, given: SearchSpace[Any]) -> SearchSpace[Any] | None:
    """The space that was searched, if it is at hand as it was then."""
    for source in (given, run.entry("space", "name"), run.entry("space", "path")):
        try:
            space = load_space(source) if source else None
        except FlashnasError:
            continue
        if space is not None and space.hash == run.entry("space", "hash"):
            return space
    return None


def _networks(run: RecordedRun, space: SearchSpace[Any] | None) -> Iterator[Trained]:
    baselines = (
        {}
        if space is None or isinstance(space, OperatorSpace)
        else {network.hash: network for _, sizes in space.baselines() for network in sizes}
    )
    for row in rows(run.trained):
        genotype: Any = space.decode(row.genotype) if space is not None and row.genotype else None
        network: Any = _parsed(row)
        if network is None and space is not None:
            sizes = () if genotype is None else space.architectures(genotype)
            network = next(
                (sized for sized in sizes if sized.hash == row.hash), baselines.get(row.hash)
            )
        if (
            genotype is None
            and isinstance(network, Architecture)
            and isinstance(space, OperatorSpace)
        ):
            genotype = space.locate(network)
        yield Trained(run=run, row=row, network=network, genotype=genotype)


def _parsed(row: Any) -> Architecture | None:
    try:
        network = Architecture.parse(row.notation)
    except FlashnasError:
        return None
    return network if network.hash == row.hash else None
