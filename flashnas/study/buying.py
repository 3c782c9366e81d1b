"""The two loops that buy observations. `buy` trains the networks that are expected to improve the
recommendation most per FLOP, and stops when none does. `train_each` trains what the sampler
proposes, where nothing but trainings ranks: an evaluator of the user's, or `--evidence none`.

What is bought does not depend on workers or interruptions: a continued run replays it, and what its
database holds is not evaluated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashnas.architecture.architecture import compressed
from flashnas.base.text import counted, names_text
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.recorded_answer import Bought
from flashnas.study.evaluations import Evaluations
from flashnas.study.explore import Explored
from flashnas.study.purchase import LEAST_GAIN, Purchase, best_purchase
from flashnas.study.record import Record
from flashnas.study.scorer import EvidenceScorer
from flashnas.study.trainings import Trainings
from flashnas.trials.trial import Trial

NEAR = 60  # networks of which one may be recommended after a purchase
IDLE_CYCLES = 20  # cycles in a row without anything new: the space is exhausted


def buy(evaluations: Evaluations, explored: Explored) -> tuple[Explored, list[Bought]]:
    """Buy trainings while one is expected to improve the recommended network, at most as many as
    were asked for; returns the networks by the scorer that knows them, and what each purchase
    changed."""
    record = evaluations.record
    trainings = evaluations.trainings
    note = evaluations.progress.note
    purchases = list[Bought]()
    while evaluations.left:
        scorer = record.scorer
        assert isinstance(scorer, EvidenceScorer)
        purchase = next_purchase(scorer, trainings, explored, evaluations)
        if purchase is None:
            assert trainings.recipe is not None
            note(
                f"nothing{' more' if purchases else ''} is trained: no training by recipe"
                f" {trainings.recipe.name!r} is expected to improve the recommended network by"
                f" {LEAST_GAIN:g} nats"
            )
            break
        note(purchase_line(purchase))
        before = explored.networks[explored.best]
        genotypes = genotypes_of(explored, purchase.networks)
        evaluations.evaluate(evaluations.proposals(genotypes))
        scorer = scorer.informed_by(observed(record, trainings))
        record.rescore(scorer)
        evaluations.write()
        explored = without_failed(explored.scored_by(scorer), record)
        after = explored.networks[explored.best]
        note(
            "it leaves the recommendation as it was"
            if after.hash == before.hash
            else f"it changes the recommendation to {compressed(after.notation)}"
        )
        purchases.append(
            {
                "networks": [network.notation for network in purchase.networks],
                "flops": purchase.flops,
                "gain": purchase.gain_nats,
                "before": before.notation,
                "after": after.notation,
            }
        )
    evaluations.report(ended=True)
    return explored, purchases


def next_purchase(
    scorer: EvidenceScorer, trainings: Trainings, explored: Explored, evaluations: Evaluations
) -> Purchase | None:
    """What lowers the expected regret of the recommendation most per FLOP; failed networks are not
    proposed again."""
    results = evaluations.record.results

    def cost(network: Any) -> float:
        failed = network.hash in evaluations.networks and network.hash in results
        return float("inf") if failed else trainings.flops(network)

    return best_purchase(
        scorer.publications,
        scorer.rows,
        explored.candidates(NEAR),
        scorer.tokens,
        lambda network: trainings.observed(network, 0.0),
        cost,
        evaluations.left,
        reliability=scorer.reliability,
    )


def purchase_line(purchase: Purchase) -> str:
    """What a purchase costs and is expected to change."""
    names = names_text([compressed(network.notation) for network in purchase.networks])
    return (
        f"training {counted(len(purchase.networks), 'network')} on {purchase.tokens:,.0f} tokens"
        f" each, {purchase.flops:.1e} FLOPs in all: the recommended network is expected to be"
        f" {purchase.gain_nats:.4f} nats better for it: {names}"
    )


def genotypes_of(explored: Explored, networks: Sequence[Any]) -> list[Any]:
    """The genotypes of networks that were explored."""
    at = {network.hash: index for index, network in enumerate(explored.networks)}
    return [explored.genotypes[at[network.hash]] for network in networks]


def without_failed(explored: Explored, record: Record) -> Explored:
    """The networks whose training did not fail, unless that is none."""
    failed = {trial.hash for trial in record.trials if trial.state == "failed"}
    indices = [n for n, network in enumerate(explored.networks) if network.hash not in failed]
    return explored.take(indices) if indices else explored


def observed(record: Record, trainings: Trainings) -> list[ObservedLoss]:
    """The losses of the trainings of this run, each network once; those of earlier runs count as own
    ones."""
    found = {
        trial.hash: trainings.observed(trial.architecture, float(trial.loss))
        for trial in record.trials
        if trial.state == "complete" and trial.loss is not None and not trial.computed_elsewhere
    }
    return list(found.values())


# -- where each proposal is trained ----------------------------------------------------------------


def train_each(evaluations: Evaluations) -> Explored:
    """Evaluate the baselines, and what the sampler proposes; returns what has a loss of the latter,
    each network once."""
    record = evaluations.record
    trainings = evaluations.trainings
    problem, note = record.problem, evaluations.progress.note
    note(
        f"training at most {evaluations.left} candidates and"
        f" {len(trainings.new_of(problem.baselines))} baselines"
    )
    algorithm = problem.algorithm()

    def learn(trials: Sequence[Trial], *, asked: bool = False) -> None:
        """Rank by all losses so far, and let the algorithm learn these trials."""
        if not trials:
            return
        if isinstance(scorer := record.scorer, EvidenceScorer):
            record.rescore(scorer.informed_by(observed(record, trainings)))
        evaluations.write()
        new = [record.trials[trial.number] for trial in trials if trial.genotype is not None]
        if new:
            with evaluations.foreign(algorithm):
                (algorithm.tell if asked else algorithm.start_from)(new)

    learn(
        evaluations.evaluate(
            [
                Trial.of(network, origin="baseline", label=label)
                for label, network in problem.baselines
            ]
        )
    )
    learn(start_from_scored(evaluations))
    while evaluations.left and evaluations.idle < IDLE_CYCLES:
        with evaluations.foreign(algorithm):
            count = min(problem.config.cycle_size, evaluations.left)
            genotypes = list(algorithm.ask(count))
        proposals = evaluations.proposals(genotypes)
        learn(evaluations.evaluate(proposals), asked=True)
        if not (evaluations.new or any(proposal.feasible for proposal in proposals)):
            start = problem.fitter.feasible(problem.config.seed)  # what meets the budgets is rare
            learn(evaluations.evaluate(evaluations.proposals([start])))
    if evaluations.idle >= IDLE_CYCLES:
        note(
            f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the"
            " budget"
        )
    evaluations.report(ended=True)
    trials = {
        trial.hash: trial
        for trial in reversed(record.trials)
        if trial.origin != "baseline" and trial.complete and trial.loss is not None
    }
    return Explored.of(reversed(trials.values()), problem.objectives, len(record.trials))


def start_from_scored(evaluations: Evaluations) -> list[Trial]:
    """Trials of the networks of the space within the budgets that earlier runs scored. Those that
    the algorithm would propose, which have the largest width, are returned, from the highest loss
    to the lowest."""
    record = evaluations.record
    earlier = evaluations.trainings.earlier
    fitter = record.problem.fitter
    trials = []
    for genotype, network, label in () if earlier is None else earlier.within(record.problem.space):
        if network.hash not in evaluations.networks and fitter.fits_network(network):
            proposal = Trial.of(network, genotype=genotype, origin="run", label=label)
            evaluations.look_up(proposal)
            trials.append(record.add(proposal))
    fitting = [
        trial for trial in trials if fitter.fit_width(trial.genotype)[0] == trial.architecture
    ]
    return sorted(fitting, key=lambda trial: -(trial.loss or 0.0))
