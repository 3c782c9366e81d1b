"""What a search would train, without doing it: `flashnas search --dry-run`."""

import dataclasses
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from flashnas.base.registry import foreign_errors
from flashnas.study.config import NO_EVIDENCE, SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.loop import next_cycle, search
from flashnas.study.problem import Note, proposer
from flashnas.study.trainable import executor_of
from flashnas.study.trainings import flops_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search would train.

    Attributes:
        baselines: label, and notation or None where no width meets the budgets.
        sampler: what proposes networks.
        chosen: whether those are trained, of what it proposes, that are expected to improve the
            recommended network most; else each one is.
        trainings: of baselines and candidates at most, equal networks once, without those that
            earlier runs trained.
        tokens_each: training tokens; 0 where nothing is trained, or an evaluator scores.
        flops_each, flops: of the longest training among those of the first cycle, or where a sampler
            chooses among some that it may propose, and of all on average.
        time_limit_s: of one training.
        gain, price: of the first cycle, in nats of the full training, as of an `Acquisition`; None
            where nothing is chosen by them.
    """

    space: str
    budgets: dict[str, float]
    baselines: list[dict[str, str | None]]
    sampler: str
    chosen: bool = False
    candidates: int = 0
    trainings: int = 0
    tokens_each: int = 0
    flops_each: float = 0.0
    flops: float = 0.0
    time_limit_s: float = 0.0
    gain: float | None = None
    price: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"space      {self.space}"]
        lines += [f"budget     {name} {limit:,.6g}" for name, limit in self.budgets.items()]
        if not self.candidates:
            return "\n".join([*lines, "trained    nothing: published trainings answer"])
        rule = f"{self.candidates} candidates by {self.sampler}"
        if self.chosen:
            rule += " that are expected to gain most"
        if self.baselines:
            rule += ", and baselines that meet the budgets"
        lines.append(f"trained    {self.trainings} networks: {rule}")
        if self.tokens_each:
            lines.append(
                f"training   {self.tokens_each:,} tokens each; up to {self.flops_each:.1e} FLOP each,"
                f" about {self.flops:.1e} in all"
            )
            lines.append(f"limit      {self.time_limit_s:,.0f} s a training")
        if self.gain is not None:
            lines.append(f"expected   gain {self.gain:.4f}, price {self.price:.4f} nats")
        return "\n".join(lines)


def plan(config: SearchConfig, *, note: Note = lambda _: None, **objects: Any) -> Plan:
    """What `run_search` with the same arguments would train.

    Raises:
        FlashnasError: for whatever would stop the search before its first training.
    """
    problem = load_problem(config, plan=True, **objects)
    trainings = problem.trainings
    for line in problem.notes:
        note(line)
    asked: dict[str, Any] = {
        "space": problem.space.name,
        "budgets": dict(config.budgets),
        "baselines": [
            {"label": label, "notation": None if network is None else network.notation}
            for label, network in problem.baselines
        ],
        "sampler": proposer(problem).name,
    }
    if trainings is None:
        return Plan(**asked)
    recipe, chosen = trainings.recipe, not problem.train_each
    with foreign_errors(*problem.foreign(), direct=False):
        # of a GPU that is elsewhere nothing can be checked
        if recipe is None or recipe.device == "cpu":
            executor_of(problem, note)
        flops = trainings.typical_flops
        if chosen:
            first = next_cycle(problem, search(problem), trainings.at_most)
            flops = list(map(trainings.flops, first.networks)) or flops
            if config.evidence != NO_EVIDENCE:
                asked |= {"gain": first.gain_nats, "price": first.price_nats}
    earlier = problem.earlier
    new = {
        network.hash: network
        for _, network in problem.baselines
        if network is not None
        and (earlier is None or earlier.score(network, metrics=False) is None)
    }
    if recipe is not None:
        beside = flops_of(recipe, new.values())
        asked |= {
            "tokens_each": trainings.tokens,
            "flops_each": max([*flops, *beside]),
            "flops": trainings.at_most * fmean(flops) + sum(beside),
        }
    return Plan(
        **asked,
        chosen=chosen,
        candidates=trainings.at_most,
        trainings=trainings.at_most + len(new),
        time_limit_s=trainings.timeout_s,
    )
