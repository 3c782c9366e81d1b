"""The problem of a search: what is searched, for what, within which limits, what is known of it, and
which sampler proposes. Nothing of it changes once it is loaded (study/load.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import did_you_mean
from flashnas.latency.fitting import Costs, Fitter, TableCosts, metric_of
from flashnas.latency.prediction import LatencyModel
from flashnas.samplers import SAMPLERS, Goals, Sampler, options_of
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.study.scorer import EvidenceScorer, FullTraining, Scorer
from flashnas.trials.pareto import QUALITY, minimised

if TYPE_CHECKING:
    from flashnas.run_folder.earlier_runs import EarlierRuns
    from flashnas.study.trainings import Trainings


def planned(config: SearchConfig, costs: Costs, tokens: float | None = None) -> FullTraining:
    """The full training that is planned. tokens: of a user's own scorer."""
    training = FullTraining(
        tokens=config.planned_tokens if tokens is None else tokens,
        hours=config.train_hours,
        utilisation=config.train_utilisation,
        context=config.train_context,
        count=config.full_trainings,
    )
    return training.on(costs.model.table.device) if isinstance(costs, TableCosts) else training


Note = Callable[[str], None]
Baselines = list[tuple[str, Any | None]]
BAYES = "bayes"  # the acquisition, where networks of flashnas are trained
PROPOSALS = 9_000  # genotypes of a scored search, of a space that is not listed
LISTED = 20_000  # networks up to which `exhaustive` is the default of a scored search
CYCLE = 200  # genotypes of a scored search that are proposed together
EXHAUSTIVE, EVOLUTION = "exhaustive", "aging-evolution"
MOST_RANDOM = 10  # networks that are drawn before a sampler learns, and that are drawn together
LEARNING_CYCLES = 4  # that follow them at least, where six networks or more are trained
# options where thousands are scored
SCORED = {EVOLUTION: {"population": 300, "tournament": 30}, "nsga2": {"population": 100}}


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One search, with everything loaded and checked.

    fitter: fits widths to the budgets. objectives: all minimised as `point` does (trials/trial.py),
    the one that ranks first. scorer: ranks the networks; None where an evaluator's loss does.
    min_recall: networks of which less is expected are left out. sampler: that is named; None: the
    default. train_each: whether every network that the sampler proposes is trained, because nothing
    else ranks, or the user named it. schedule: of what is trained (`schedule_of`). proposals:
    genotypes that are proposed at most. trainings: None where nothing is trained. earlier: runs that
    the search starts from. baselines: that are trained beside the trials: label, and network or None
    where no width meets the budgets. notes: lines on how networks are ranked. started: by
    time.monotonic. aim: the model of `as_good_as`, with the vocabulary of the space. target: genotype
    and network of the cheapest one that is as good. likely: the cheapest one that is so with a high
    probability; empty if none is. without_own: the cheapest one by published trainings alone, where
    there are own ones as well.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    objectives: tuple[str, ...]
    sampler: type[Sampler] | None
    scorer: Scorer | None
    min_recall: float | None
    train_each: bool
    schedule: Mapping[str, int]
    proposals: int
    trainings: Trainings | None = None
    earlier: EarlierRuns | None
    baselines: Baselines
    notes: list[str]
    started: float
    aim: Any = None
    target: tuple[Any, Any] | None = None
    likely: Sequence[Any] = ()
    without_own: Any = None

    @property
    def model(self) -> LatencyModel | None:
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    @property
    def training(self) -> FullTraining:
        """That the user plans, in full."""
        if isinstance(self.scorer, EvidenceScorer):
            return self.scorer.training
        tokens = None if self.scorer is None else self.scorer.tokens
        return planned(self.config, self.costs, tokens)

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        things = ("space", self.space), ("scorer", self.scorer)
        return things if self.sampler is None else (("sampler", self.sampler), *things)


# -- what proposes its networks ---------------------------------------------------------------------


def proposer(problem: Problem) -> type[Sampler]:
    """What proposes networks: the sampler that is named, or the default. Where networks of flashnas
    are trained, `bayes` is the acquisition, which chooses among what the default proposes."""
    named = problem.sampler
    if problem.train_each:
        return SAMPLERS[BAYES] if named is None else named
    if named is None or (named.name == BAYES and problem.trainings is not None):
        return SAMPLERS[EXHAUSTIVE if problem.space.count_networks() <= LISTED else EVOLUTION]
    return named


def schedule_of(trials: int | None) -> dict[str, int]:
    """How a search of so many trainings learns; None: publications rank, and trainings are chosen for
    what they bring together. start: networks that are drawn at random before a sampler learns.
    cycle_size: networks that are proposed together."""
    if trials is None:
        return {"start": MOST_RANDOM, "cycle_size": MOST_RANDOM}
    start = max(2, min(MOST_RANDOM, trials // 3))
    if trials < LEARNING_CYCLES + 2:
        return {"start": start, "cycle_size": start}
    return {"start": start, "cycle_size": min(start, (trials - start) // LEARNING_CYCLES)}


def start_options(name: str, start: int) -> dict[str, int]:
    """The options by which a sampler of flashnas draws so many networks before it learns."""
    return {
        EVOLUTION: {"population": start, "tournament": max(2, start // 2)},
        "nsga2": {"population": start},
        "tpe": {"startup": start},
        BAYES: {"initial": min(5, start)},
    }.get(name, {})


def sampler_of(problem: Problem) -> Sampler:
    """A fresh sampler. Raises ConfigError for an unknown one or option, or one that cannot serve the
    search."""
    kind, config = proposer(problem), problem.config
    name, allowed = kind.name, options_of(kind)
    for key in config.sampler_options:
        if key not in allowed:
            near = did_you_mean(key, allowed)
            rule = f"must be of {name}: {', '.join(allowed) or 'it has none'}; got {key!r}{near}"
            config.wrong("sampler_options", rule)
    with foreign_errors(*problem.foreign()):
        if name == BAYES and not problem.train_each:
            raise ConfigError(
                "search.sampler: bayes chooses what is trained or evaluated, and this search does"
                f" neither; give --trials N, or take {EXHAUSTIVE}, {EVOLUTION}, nsga2 or random"
            )
        proposals = min(problem.proposals, problem.space.size())
        if kind.max_proposals is not None and proposals > kind.max_proposals:
            raise ConfigError(
                f"search.sampler: {name} fits a model to all that it proposed and serves up to"
                f" {kind.max_proposals:,} proposals; this search makes up to {proposals:,.0f}; take"
                f" {EXHAUSTIVE}, {EVOLUTION}, nsga2 or random"
            )
        options = dict(config.sampler_options)
        if problem.train_each:
            cycle, fit_width = problem.schedule["cycle_size"], problem.fitter.fit_width
            options = {**start_options(name, problem.schedule["start"]), **options}
        else:  # what is not within the limits is found for a whole cycle at once
            cycle, fit_width = CYCLE, lambda genotype: (genotype, None)
            options = {**SCORED.get(name, {}), **options}
        if name == EXHAUSTIVE and not problem.train_each:
            cycle = LISTED
        return kind(
            space=problem.space,
            seed=config.seed,
            fit_width=fit_width,
            cycle_size=cycle,
            goals=goals_of(problem),
            **options,
        )


def goals_of(problem: Problem) -> Goals | None:
    """None for one trained quality against a latency_ms that is known."""
    names, costs, scored = problem.objectives, problem.costs, not problem.train_each
    if not scored and costs.known and names[1:] == ("latency_ms",):
        return None
    exact = [name for name in names if scored or (costs.known and name not in QUALITY)]

    def exact_of(network: Any) -> tuple[float, ...]:
        metrics = costs.metrics(network)
        return tuple(minimised(name, metric_of(name, metrics)) for name in exact)

    return Goals(tuple(name in exact for name in names), exact_of)
