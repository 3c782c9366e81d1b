"""The answer of a search: which network to train, how sure that is, and what it is compared with."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.notation import preset_notations
from flashnas.architecture.source import load_known
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.text import range_of
from flashnas.run_folder.recorded_answer import (
    Acquired,
    Answer,
    AsGood,
    Before,
    DenseOrSparse,
    FamilyBest,
    PublishedModel,
    TimedNetworks,
    Wider,
)
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.space import OperatorSpace
from flashnas.study.comparison import (
    against,
    at_one_latency,
    below_zero,
    differences_to,
    latency_ms,
    side_of,
    with_traits,
)
from flashnas.study.next_trainings import proposed, without_own
from flashnas.study.problem import Problem
from flashnas.study.scorer import EvidenceScorer, Scorer
from flashnas.study.second_searches import FREE_MIX
from flashnas.study.trials import Trials
from flashnas.trials.trial import Trial

DISTINCT = 0.8  # probability from which on a network counts as worse than another
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
NEAR = 200  # networks near the recommended one, of which the mean of one may be lower
WIDER = 2.0  # times its width up to which a stack is looked at that makes up for a difference
WIDTH_STEP = 128
PUBLISHED_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")


def answer_of(
    problem: Problem,
    trials: Trials,
    front: Sequence[Trial],
    chosen: Trial,
    rivals: Mapping[str, Trial],
    trained: Sequence[Acquired],
) -> Answer:
    """The answer that a front gives.

    Args:
        trials: the networks of the space, by a scorer that knows all that was observed.
        front: trials, fastest first, with their differences to the recommended one.
        chosen: that one, on the front or not.
        rivals: title of a family, or FREE_MIX -> trial of its best network.
        trained: what the search trained, decision by decision.
    """
    scorer, training = trials.scorer, problem.training
    assert scorer is not None
    best = {title: trial.architecture for title, trial in rivals.items()}
    compared = differences_to(scorer, chosen.architecture, list(best.values()))
    titles = [title for title in best if title != FREE_MIX]
    networks = [best[title] for title in titles]
    chances = dict.fromkeys(best, 0.0)
    if networks:
        joint = with_traits(at_one_latency(problem, trials, networks), networks)
        chances |= zip(titles, joint.best(range(len(networks))).tolist(), strict=True)

    def family(title: str) -> FamilyBest:
        trial = rivals[title]
        difference, sd = compared[trial.hash]
        return {
            "family": title,
            "notation": trial.notation,
            "hash": trial.hash,
            "difference": difference,
            "sd": sd,
            "best": chances[title],
            "silence": trial.silence or 0.0,
        }

    return Answer(
        recommended=chosen.hash,
        tied=tuple(trial.hash for trial in front if trial.hash != chosen.hash and is_tied(trial)),
        families=tuple(map(family, titles)),
        free_mix=family(FREE_MIX) if FREE_MIX in rivals else None,
        wider=_wider(problem, scorer, networks, chosen),
        published=tuple(_published(problem, scorer, chosen)),
        train_tokens=float(training.tokens_of([chosen.architecture])[0]),
        train_hours=training.hours_of(chosen.architecture),
        train_device=training.device,
        train_utilisation=training.utilisation,
        train_context=training.context,
        dense_or_sparse=dense_or_sparse(problem, trials),
        as_good=None if problem.aim is None else beside_model(problem, chosen.architecture),
        times=_times(problem),
        before=before_of(problem, scorer, chosen),
        limit=_limit(problem, trials, chosen),
        trained=tuple(trained),
        next_trainings=None if problem.aim else proposed(trials),
        without_own=without_own(problem, trials, chosen.architecture),
        ranked_by=scorer.ranked_by
        if isinstance(scorer, EvidenceScorer)
        else f"scorer {type(scorer).__name__}",
    )


def _times(problem: Problem) -> TimedNetworks | None:
    if problem.model is None or not (observed := problem.model.observed):
        return None
    program, hashes, ratio = (observed[name] for name in ("program", "networks", "ratio"))
    return TimedNetworks(program=program, networks=hashes, ratio=ratio)


def is_tied(trial: Trial) -> bool:
    """Whether a network of the front may be as good as the recommended one."""
    difference, sd = trial.full_loss_difference or 0.0, trial.full_loss_difference_sd or 0.0
    return 1.0 - below_zero(difference, sd) < DISTINCT


def _wider(
    problem: Problem, scorer: Scorer, networks: Sequence[Architecture], chosen: Trial
) -> Wider | None:
    """The best transformer at the smallest width at which its mean is not above that of the
    recommended network; None if it is that one, there is none up to WIDER times its width, or the
    table does not answer for it."""
    stacks = (each for each in networks if {spec.kind for spec in each.operators} == {"a", "f"})
    stack = next(stacks, chosen.architecture)
    if stack == chosen.architecture:
        return None
    for hidden in range(stack.hidden, int(WIDER * stack.hidden) + 1, WIDTH_STEP):
        try:
            network = dataclasses.replace(stack, hidden=hidden)
        except FlashnasError:  # the operators do not fit this width
            continue
        ms = latency_ms(problem, network)
        if ms is not None and scorer.posterior([network]).mean[0] <= chosen.full_loss:
            return {"latency_ms": ms, "params": float(network.params)}
    return None


def _limit(problem: Problem, trials: Trials, chosen: Trial) -> str:
    """What keeps the recommended network from being better; as of an Answer."""
    scorer, asked = trials.scorer, problem.config.params
    assert scorer is not None
    budgets = {budget.column: budget for budget in problem.fitter.budgets}
    limits = {name: budget.limit for name, budget in budgets.items()}
    own = range_of(asked) if asked else getattr(problem.space, "params", (0, math.inf))
    names = ("memory_gb", "params", "active_params")
    sizes = {name: limits.pop(name) for name in names if name in limits}
    if own[1] < sizes.get("params", math.inf):
        sizes["params" if asked else "space params"] = own[1]
    for name, most in (limits | sizes).items():  # a time that binds keeps the sizes small
        value = getattr(chosen, name.removeprefix("space "), None)
        if value is None and name in limits:
            (value,) = problem.costs.columns([chosen.architecture], [name])[name]
        if value and FULL_BUDGET <= value / most <= 1 / FULL_BUDGET:
            return budgets[name].metric if name in budgets else name
    near = [trials.networks[index] for index in trials.ranked[:NEAR]]
    means = scorer.posterior(near).mean
    lowest = scorer.values([near[int(means.argmin())]])[0]
    if means.min() < (chosen.full_loss or 0.0) and lowest > (chosen.value or 0.0):
        return "support"
    ends = " and ".join(problem.space.largest_of(chosen.architecture))
    return ends or ("space" if problem.training.hours is None else "hours")


def _published(problem: Problem, scorer: Scorer, chosen: Trial) -> Iterator[PublishedModel]:
    """Published models beside the chosen network."""
    models = published_models(problem)
    compared = differences_to(scorer, chosen.architecture, list(models.values()))
    for name, model in models.items():
        figures, (difference, sd) = scorer.figures(model), compared[model.hash]
        yield {
            "name": name,
            "latency_ms": latency_ms(problem, model),
            "params": float(model.params),
            "difference": difference,
            "sd": sd,
            "recall": figures["expected_recall"],
            "silence": figures["silence"],
        }


def published_models(problem: Problem) -> dict[str, Architecture]:
    """Published models with the vocabulary of the space, so that they can be compared."""
    space, networks = problem.space, {}
    model = space.model if isinstance(space, OperatorSpace) else space.any_network()
    for name in PUBLISHED_MODELS:
        network = Architecture.parse(preset_notations()[name])
        networks[name] = dataclasses.replace(network, vocab=model.vocab, tied=model.tied)
    return networks


def recommended_before(folder: str) -> tuple[Trial, Architecture]:
    """What a run recommends. Raises RunError where that is nothing, or the folder is damaged."""
    run = RecordedRun.load(folder)
    if run.recommended is None:
        raise RunError(f"{run.path}: recommends no network, so that nothing can change")
    return run.recommended, Architecture.parse(run.recommended.notation)


def before_of(problem: Problem, scorer: Scorer, chosen: Trial) -> Before | None:
    """What the run recommended that is asked again."""
    if problem.config.again is None:
        return None
    trial, network = recommended_before(problem.config.again)
    difference, sd = differences_to(scorer, chosen.architecture, [network])[network.hash]
    return {
        "notation": trial.notation,
        "latency_ms": trial.latency_ms,
        "now": latency_ms(problem, network),
        "difference": difference,
        "sd": sd,
    }


def beside_model(problem: Problem, chosen: Architecture) -> AsGood:
    """The recommended network beside the model."""
    assert problem.aim is not None
    assert problem.scorer is not None
    networks = [problem.aim, chosen, *problem.likely]
    model, beside, *likely = against(problem.costs, problem.scorer, problem.training, networks)
    name = str(problem.config.as_good_as)
    if not load_known(name)[1]:
        model["loads_in"] = None
    return {
        "name": name,
        "model": model,
        "chosen": beside,
        "likely": likely[0] if likely else None,
    }


# -- dense or sparse -------------------------------------------------------------------------------


def dense_or_sparse(problem: Problem, trials: Trials) -> DenseOrSparse | None:
    """Both options within the limits of a search; None where its networks are all of one sort, or a
    trained loss ranks them."""
    if problem.model is None or trials.ranks_by != "value":
        return None
    sparse = trials.columns["active_params"] < trials.columns["params"]
    known = ~np.isnan(trials.value)
    sorts = [np.flatnonzero(known & of_sort) for of_sort in (~sparse, sparse)]
    if not all(map(len, sorts)):
        return None
    pair = [trials.networks[trials.simplest(indices)] for indices in sorts]
    difference, sd = at_one_latency(problem, trials, pair).difference(1, 0)
    dense, sparse_side = (side_of(problem.costs, problem.training, each) for each in pair)
    return {"dense": dense, "sparse": sparse_side, "difference": difference, "sd": sd}
