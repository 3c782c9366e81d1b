"""From a SearchConfig to a question whose every part is loaded and checked; nothing is written, nothing trained."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import (
    ArchitectureError,
    BenchError,
    BudgetError,
    ConfigError,
    MissingRowsError,
    OperatorError,
    RunError,
    TableError,
)
from flashnas.base.fingerprint import fingerprint
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.latency.metrics import LARGER_IS_BETTER, Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.profiling.certificate import TIMES, Certificate
from flashnas.profiling.finalists import setup_here
from flashnas.profiling.program import Program
from flashnas.profiling.setup import Setup
from flashnas.proxy.extrapolation import usable_points
from flashnas.search import SearchAlgorithm, make_algorithm, sampler_name
from flashnas.search.algorithm import Goals
from flashnas.search.objectives import TRAINED, minimised, task_scores
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.study.costs import CostFunction, Costs, NoCosts, OwnCosts, TableCosts, metric_of
from flashnas.study.fitting import Fitter
from flashnas.study.identity import Identity
from flashnas.study.job import Job, UserEvaluator, evaluator_name, fidelities_of
from flashnas.study.known import KnownRuns, difference, genotype_of, known_runs, training, training_of
from flashnas.study.refit import MOST_REFITS, refits
from flashnas.study.run import rows
from flashnas.study.rungs import Rungs, find_rungs, rungs_of
from flashnas.study.self_correction import SelfCorrection
from flashnas.study.time_limit import TimeLimit, find_time_limit
from flashnas.training.recipe import Recipe

DEFAULT_RECIPE = "cpu"
LEAST_PROXY_WIDTH = 16    # a narrower network would say nothing
LEAST_POINTS = 2          # of a curve that is extrapolated
LARGEST_FACTOR = 1024     # of the width factors that a message offers

Note = Callable[[str], None]


@dataclass(frozen=True)
class KnownNetwork:
    """A network of the space that a bench or an earlier run has a score for. label: where it is from."""

    genotype: Any
    network: Any
    label: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """All parts of one search.

    Attributes:
        recipe, dataset: of the trainings; None where an evaluator scores the networks.
        evaluator: the user's function, or None.
        certificate: what the table's validation says of its predictions, if a confidence is asked for.
        bench: the scores that a bench answers with, or None.
        seed_bench: further seed of the finalists -> the scores that a bench answers with, or None.
        rungs: where trainings pause.
        time_limit: of one training.
        known: the networks of earlier runs that the search starts from, or None.
        no_bench: why a shipped bench answers nothing, in words; empty if one answers or none is asked.
        timing: how the finalists are timed; None where the table's device is not at hand.
        started: when its preparation began, in seconds since the epoch.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    budgets: tuple[Budget, ...]
    workload: Workload | None
    recipe: Recipe | None
    dataset: Dataset | None
    evaluator: UserEvaluator | None
    certificate: Certificate | None
    timing: Setup | Program | None
    sampler: str | type[SearchAlgorithm]
    started: float
    bench: Answers | None = None
    known: KnownRuns | None = None
    no_bench: str = ""
    seed_bench: Callable[[int], Answers | None] = lambda _: None
    rungs: Rungs = field(default_factory=Rungs)
    time_limit: TimeLimit = field(default_factory=lambda: TimeLimit(seconds=TIMEOUT_S))

    @property
    def model(self) -> LatencyModel | None:
        """The latency model, where a table answers."""
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    def self_correction(self) -> SelfCorrection | None:
        """What corrects the predictions while the search goes on, if it is asked for."""
        if self.config.measure_every is None or not isinstance(self.costs, TableCosts):
            return None
        return SelfCorrection(self.costs, self.fitter, every=self.config.measure_every, budgets=self.budgets,
                              certificate=self.certificate)

    def algorithm(self, seed: int | None = None) -> SearchAlgorithm:
        """A fresh one; raises ConfigError for an unknown sampler or option, or one that the space cannot serve.

        seed: of its draws, if it is not that of the search.
        """
        config = self.config
        return make_algorithm(self.sampler, space=self.space, seed=config.seed if seed is None else seed,
                              latency_of=self.fitter.latency_of,
                              cycle_size=config.cycle_size, goals=_goals(config.objectives, self.costs),
                              **config.sampler_options)

    def baselines(self) -> list[tuple[str, Any | None]]:
        """(label, network or None where no width meets the budgets)."""
        if not self.config.baselines:
            return []
        return [(label, self.fitter.largest(sizes)) for label, sizes in self.space.baselines()]

    def job(self, network: Any, seed: int | None = None) -> Job:
        """The evaluation of a network; seed: of its training, if it is not that of the search."""
        if self.evaluator is not None:
            return Job(architecture=network, evaluator=self.evaluator, needed=self._needed())
        assert self.recipe is not None
        assert self.dataset is not None
        return Job(architecture=network, dataset=str(self.dataset.folder), recipe=self.recipe.to_dict(),
                   seed=self.config.seed if seed is None else seed, tasks=task_scores(self.config.objectives),
                   processes=self.config.processes_per_candidate)

    def known_score(self, network: Any, seed: int | None = None) -> dict[str, Any] | None:
        """The score that an earlier run or a bench has for a network, or None; seed: of its training, if it is not that
        of the search, which a bench alone may know."""
        if seed is not None:
            bench = self.seed_bench(seed)
            return None if bench is None else bench.score(network)
        found = None if self.known is None else self.known.score(network, metrics=not self.costs.known)
        if found is not None and set(task_scores(self.config.objectives)) <= set(found["scores"]):
            return found
        return None if self.bench is None else self.bench.score(network)

    def known_networks(self) -> list[KnownNetwork]:
        """The networks of the space within the budgets that a bench or an earlier run has scores for, each once: the
        runs' in their order, then the bench's."""
        found: dict[str, KnownNetwork] = {}
        for genotype, network, label in (*self._of_runs(), *self._of_bench()):
            if network.hash not in found and self.known_score(network) and self.fitter.fits_network(network):
                found[network.hash] = KnownNetwork(genotype, network, label)
        return list(found.values())

    def _of_runs(self) -> Iterator[tuple[Any, Any, str]]:
        for one in () if self.known is None else self.known.networks:
            genotype, network = one.genotype, one.network
            if one.run.entry("space", "hash") != self.space.hash:
                genotype = (self.space.locate(network) if isinstance(self.space, OperatorSpace)
                            and isinstance(network, Architecture) and self.space.contains(network) else None)
            if genotype is not None and network is not None:
                yield genotype, network, f"run {one.run.name}"

    def _of_bench(self) -> Iterator[tuple[Any, Any, str]]:
        space = self.space
        if self.bench is None or not isinstance(space, OperatorSpace):
            return
        for one in self.bench.known:
            genotype = space.locate(one.architecture)
            if genotype is not None:
                yield genotype, space.architecture(genotype, one.architecture.hidden), f"bench {one.origin}"

    def refits(self, front: np.ndarray) -> list[Any]:
        """The genotypes of the earlier runs whose network in this search nobody trained, the most promising first, at
        most MOST_REFITS. front: points [N, M] of what is known, all minimised."""
        if self.known is None or not self.costs.known:
            return []
        genotypes = [genotype_of(self.space, row) for run in self.known.runs for row in rows(run.trials)
                     if run.entry("space", "hash") == self.space.hash and row.genotype]
        found = refits(self.space, self.fitter, self.costs, self.known.networks, genotypes,
                       objectives=self.config.objectives, front=front)
        return [one.genotype for one in found[:MOST_REFITS]]

    def _needed(self) -> tuple[str, ...]:
        """Objectives that the user's evaluator must return besides the loss."""
        return tuple(name for name in self.config.objectives
                     if name != "loss" and (name in TRAINED or not self.costs.known))

    def identity(self) -> Identity:
        model, recipe, dataset = self.model, self.recipe, self.dataset
        function = self.costs.function if isinstance(self.costs, OwnCosts) else None
        asked = {**self.config.question(), "space": self.space.name, "sampler": sampler_name(self.sampler)}
        if dataset is None:
            asked.update(data=None, tokenizer=None)
        return Identity(**{
            **asked, "space_hash": self.space.hash,
            "table": asked["table"] if model else None if function is None else evaluator_name(function),
            "table_hash": table_hash(model.table) if model else None,
            "workload": None if self.workload is None else self.workload.to_dict(),
            "margins": dict(self.certificate.margins) if self.certificate else None,
            "recipe": None if recipe is None else recipe.to_dict(),
            "corpus": None if dataset is None else dataset.folder.name,
            "evaluator": None if self.evaluator is None else evaluator_name(self.evaluator),
            "bench": None if self.bench is None else self.bench.digest,
            "rungs": self.rungs.tokens, "rung_chance": self.rungs.chance, "rung_curves": self.rungs.digest,
            "start_from": None if self.known is None else self.known.digest})


def prepare(config: SearchConfig, *, note: Note, evaluator: UserEvaluator | None = None,
            space: SearchSpace[Any] | None = None,
            table: LatencyTable | CostFunction | None = None, workload: Workload | None = None,
            recipe: Recipe | None = None, sampler: type[SearchAlgorithm] | None = None) -> Question:
    """Load and check all parts of a search; objects take the place of the names in `config`.

    Args: as `flashnas.study.search.run_search`; `note` receives lines for the user.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    started = time.time()
    space = load_space(config.space) if space is None else space
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"search.space must be a name, a YAML file or a SearchSpace; got {type(space).__name__}")
    source: str | LatencyTable | CostFunction | None = config.table if table is None else table
    if isinstance(source, LatencyTable):
        config = dataclasses.replace(config, table=source.name)
    budgets = tuple(Budget(figure, limit) for figure, limit in config.budgets.items())
    costs: Costs
    if isinstance(source, str | LatencyTable):
        loaded = source if isinstance(source, LatencyTable) else LatencyTable.load(source)
        workload = load_workload(config.workload) if workload is None else workload
        costs = TableCosts(LatencyModel(loaded, workload, mode=config.mode))
    else:
        workload, costs = None, NoCosts() if source is None else OwnCosts(source)
        _check_without_table(config, costs, evaluator)
    model = costs.model if isinstance(costs, TableCosts) else None
    _check_networks(space, trained=evaluator is None, timed=model is not None)
    if model is not None:
        _check_answerable(space, model, config)
    certificate = _certify(config, space, model, budgets) if model else None
    timing = _timing(config, model) if model else None
    fitter = Fitter(space, costs, certificate.tightened(budgets) if certificate else budgets)
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.text() if certificate else ''}") from None
    dataset = None
    known = known_runs(config.start_from, space) if config.start_from else None
    if evaluator is None:
        # loads torch, which a user's evaluator may not need
        from flashnas.training.trainer import check_device, check_kernels

        recipe = _recipe(config, space, recipe, known)
        _check_rank(config, recipe)
        check_device(recipe)
        if config.processes_per_candidate > 1:
            from flashnas.training.distributed import Ranks

            Ranks(size=config.processes_per_candidate).check(recipe)
        check_scalable(space, recipe, own=config.recipe is None)
        if recipe.device == "cuda" and isinstance(space, OperatorSpace):
            smallest = min(space.hidden_sizes)
            trained = recipe.proxy_of(space.build(space.kinds(), smallest))
            check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    else:
        recipe = None
        if config.rank_at_tokens is not None:
            config.wrong("rank_at_tokens", "extrapolates a training's curve, which an evaluator of one's own has not")
        if config.seeds > 1:
            config.wrong("seeds", "are those of trainings, which an evaluator of one's own does not do")
        if config.processes_per_candidate > 1:
            config.wrong("processes_per_candidate", "are those of trainings, which an evaluator of one's own does not"
                         " do")
    question = Question(config=config, space=space, costs=costs, fitter=fitter, budgets=budgets, workload=workload,
                        recipe=recipe, dataset=dataset, evaluator=evaluator, certificate=certificate, timing=timing,
                        sampler=config.sampler if sampler is None else sampler, started=started, known=known)
    if evaluator is not None:
        question = dataclasses.replace(question, rungs=_own_rungs(config, evaluator, costs, note))
    question.algorithm()  # its options are checked before text is read
    first = [network for _, network in question.baselines() if network is not None]
    question = dataclasses.replace(question, time_limit=find_time_limit(config, recipe, fitter, first, note))
    if recipe is not None:
        dataset = prepare_dataset(config.data, recipe, config.tokenizer)
        for line in dataset.notes:
            note(line)
        found = _bench(config, recipe, dataset)
        further = functools.partial(_bench, config, recipe, dataset)
        question = dataclasses.replace(question, dataset=dataset, bench=_answers(found),
                                       no_bench=found if isinstance(found, str) else "",
                                       seed_bench=functools.cache(lambda seed: _answers(further(seed))),
                                       rungs=find_rungs(config, recipe, dataset, note))
    if known is not None:
        asked = training(recipe, None if dataset is None else dataset.digest, config.seed,
                         None if evaluator is None else evaluator_name(evaluator))
        if reason := difference(training_of(known.runs[0]), asked, "in the run", "in this search"):
            raise RunError(f"{known.runs[0].path}: a search cannot start from its networks: {reason}")
    return question


def table_hash(table: LatencyTable) -> str:
    """Changes with any row of the table and with its calibration."""
    return fingerprint([{kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}, table.calibration])


def check_scalable(space: SearchSpace[Any], recipe: Recipe, *, own: bool) -> None:
    """Raise ConfigError before anything is trained if the recipe's width factor does not suit an operator of the space.

    Args:
        space: a search space; one that does not name its operators passes.
        recipe: of the trainings.
        own: True if the user named no recipe, so that the width factor is that of the space or the default.
    """
    if not isinstance(space, OperatorSpace):
        return
    if (found := _unscalable(space, recipe.width_factor, recipe.least_head_dim)) is None:
        return
    spec, hidden, reason = found
    common = math.gcd(*space.hidden_sizes)
    working = [factor for factor in range(1, min(common, LARGEST_FACTOR) + 1)
               if common % factor == 0 and _unscalable(space, factor, recipe.least_head_dim) is None]
    factor = space.width_factor
    offer = f"; leave out --recipe to train at the space's own factor {factor}" if factor in working and not own else (
        f"; give a recipe, or the space, the width_factor {' or '.join(map(str, working))}" if working else "")
    raise ConfigError(f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the width factor"
                      f" {recipe.width_factor} of recipe {recipe.name!r}: {reason}{offer}")


def _unscalable(space: OperatorSpace[Any], factor: int, least_dim: int) -> tuple[Any, int, str] | None:
    """The first operator and width that the factor does not suit, with the reason."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            if factor > 1 and hidden < LEAST_PROXY_WIDTH * factor:
                return spec, hidden, f"a trained network must be at least {LEAST_PROXY_WIDTH} wide"
            try:
                space.build((spec,), hidden).scaled(factor, least_dim)
            except (ArchitectureError, OperatorError) as error:
                return spec, hidden, str(error)
    return None


def _recipe(config: SearchConfig, space: SearchSpace[Any], given: Recipe | None, known: KnownRuns | None) -> Recipe:
    """The recipe of the trainings: the one given or named, else that of the earlier runs, else the default at the
    space's own width factor."""
    if given is None and config.recipe is None and known is not None and (
            of_runs := known.runs[0].entry("question", "recipe")) is not None:
        recipe = Recipe.from_dict(of_runs)
        return recipe if config.tokens is None else dataclasses.replace(recipe, tokens=config.tokens)
    recipe = Recipe.load(config.recipe or DEFAULT_RECIPE) if given is None else given
    factor = space.width_factor if isinstance(space, OperatorSpace) else None
    if given is None and config.recipe is None and factor is not None:
        recipe = dataclasses.replace(recipe, width_factor=factor)
    return recipe if config.tokens is None else dataclasses.replace(recipe, tokens=config.tokens)


def _check_rank(config: SearchConfig, recipe: Recipe) -> None:
    """Raise SettingError if the recipe's curve cannot be extrapolated to the tokens that are asked for."""
    if config.rank_at_tokens is None:
        return
    trained = recipe.steps * recipe.batch_tokens
    if config.rank_at_tokens <= trained:
        config.wrong("rank_at_tokens", f"must be above the tokens of a training ({trained:,});"
                     f" got {config.rank_at_tokens:,}")
    curve = [(trained * (point + 1) / recipe.curve_points, 0.0) for point in range(recipe.curve_points)]
    if len(usable_points(curve)) < LEAST_POINTS or recipe.steps < recipe.curve_points:
        config.wrong("rank_at_tokens", f"needs {LEAST_POINTS} points after the first third of a training; recipe"
                     f" {recipe.name!r} has curve_points {recipe.curve_points} in {recipe.steps} steps")


def _bench(config: SearchConfig, recipe: Recipe, dataset: Dataset, further: int | None = None) -> Answers | str:
    """What a bench answers in this search, or why nothing; an empty text where there is none to ask. further: a seed of
    finalists, which the bench need not have.

    Raises:
        BenchError: the bench that the user names cannot be read, or answers nothing.
    """
    if not config.bench:
        return ""
    if needed := task_scores(config.objectives):
        found: Answers | str | None = f"a bench has no {', '.join(needed)}, which the objectives name"
    else:
        found = find_answers(config.bench_table, recipe, dataset=dataset.digest, vocab=dataset.vocab,
                             seed=config.seed if further is None else further)
    if isinstance(found, str) and further is None and config.bench_table is not None:
        raise BenchError(f"bench {config.bench_table}: answers nothing in this search: {found}")
    return found or ""


def _own_rungs(config: SearchConfig, evaluator: UserEvaluator, costs: Costs, note: Note) -> Rungs:
    """The rungs of a search with the user's evaluator, whose fidelities they are."""
    steps = fidelities_of(evaluator)
    if not config.rungs:
        return Rungs()
    if not steps:
        config.wrong("rungs", "needs an evaluator with the attribute 'fidelities', increasing whole numbers; it is then"
                     " called with a network and one of them")
    if not costs.known:
        config.wrong("rungs", "needs metrics before the evaluation: give table=FUNCTION, network -> latency_ms or a"
                     " mapping of metrics; got table=None")
    return rungs_of(config, steps, "the evaluator's fidelities", note)


def _answers(found: Answers | str) -> Answers | None:
    return found if isinstance(found, Answers) else None


def _goals(objectives: Sequence[str], costs: Costs) -> Goals | None:
    """None for one trained quality against a latency_ms that is known; else which objectives are known, and how."""
    if costs.known and objectives[1] == "latency_ms" and len(objectives) == 2:
        return None
    known = [name for name in objectives if name not in TRAINED] if costs.known else []
    return Goals(tuple(name in known for name in objectives), lambda network: tuple(
        minimised(name, metric_of(name, costs.metrics(network))) for name in known))


def any_network(space: SearchSpace[Any]) -> Any:
    """Some network of the space, always the same, to look at its class."""
    return space.architectures(space.sample(np.random.default_rng(0)))[-1]


# -- checks ------------------------------------------------------------------------------------------------------


def _check_without_table(config: SearchConfig, costs: Costs, evaluator: UserEvaluator | None) -> None:
    """Raise ConfigError for what only a latency table can answer."""
    if config.confidence is not None:
        raise ConfigError("search.confidence needs a latency table; got table=None or a function")
    if config.strict:
        raise ConfigError("search.strict needs a latency table, whose device times the finalists")
    if costs.known:
        return
    if evaluator is None:
        raise ConfigError("search.table must name a latency table, or be a function network -> latency_ms, where"
                          " flashnas trains the networks; got None")
    if config.budgets:
        raise ConfigError(f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation: give"
                          " table=FUNCTION, network -> latency_ms or a mapping of metrics; got table=None")


def _check_networks(space: SearchSpace[Any], *, trained: bool, timed: bool) -> None:
    """Raise ConfigError if the space builds networks that flashnas would have to train or to time, and cannot."""
    if isinstance(space, OperatorSpace):
        return
    network = any_network(space)
    for name in ("notation", "hash", "to_dict"):
        if not hasattr(network, name):
            raise ConfigError(f"space {space.name!r}: its networks need {name!r}; got {type(network).__name__}")
    if isinstance(network, Architecture):
        return
    if trained:
        raise ConfigError(f"space {space.name!r} builds {type(network).__name__} objects, which flashnas cannot train;"
                          " give an evaluator")
    if timed:
        raise ConfigError(f"space {space.name!r} builds {type(network).__name__} objects, which a latency table cannot"
                          " answer; give table=None or a function network -> latency_ms")


def _check_answerable(space: SearchSpace[Any], model: LatencyModel, config: SearchConfig) -> None:
    """Raise MissingRowsError before anything is trained when the table lacks what the space needs.

    Each operator is looked up at each width in a pure model, and not alone: the largest batch of a single operator
    would be one that no network of the space has."""
    if not isinstance(space, OperatorSpace):
        return
    models = [operators for _, operators in space.pure_models()]
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            operators = next((operators for operators in models if spec in operators), (spec,))
            try:
                model.estimate(space.build(operators, hidden))
            except BudgetError:
                continue  # not even one sequence fits the memory; the budgets say what does
            except MissingRowsError as error:
                raise MissingRowsError(f"table {config.table!r} does not cover space {space.name!r}: {error}"
                                       ) from None


def _certify(config: SearchConfig, space: SearchSpace[Any], model: LatencyModel, budgets: Sequence[Budget],
             ) -> Certificate | None:
    """What the table's validation says of its predictions, if a confidence is asked for. Raises TableError without a
    validation, ConfigError without a budget that it could hold."""
    if config.confidence is None:
        return None
    if not any(budget.metric in (*TIMES, *LARGER_IS_BETTER) for budget in budgets):
        raise ConfigError("--confidence needs a budget on a time, such as --budget-ms")
    return Certificate.of(model.table, model.workload, space_name=config.space, space_hash=space.hash,
                          confidence=config.confidence)


def _timing(config: SearchConfig, model: LatencyModel) -> Setup | Program | None:
    """How networks are timed; None where the table's device is not at hand. Raises TableError with `strict` or
    `measure_every`."""
    if not config.measure:
        return None
    if config.measure_every is not None and not any(kind.startswith("operator_") for kind in model.table.kinds):
        raise TableError(f"{model.table.path}: --measure-every corrects rows of whole operators, which table"
                         f" {model.table.name} does not have; measure them with flashnas profile")
    try:
        return setup_here(model)
    except TableError as error:
        if config.strict or config.measure_every is not None:
            why = "--strict measures the finalists" if config.strict else "--measure-every times networks"
            raise TableError(f"{why}: {error}") from None
        return None

