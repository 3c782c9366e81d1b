"""What a search would evaluate, and for how long, without doing it: `flashnas search --dry-run`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.executors import Work
from flashnas.executors.job import run_job
from flashnas.executors.local import LocalExecutor
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Note, Problem, load_problem
from flashnas.study.training_time import Clock, training_plan
from flashnas.study.trainings import Trainings
from flashnas.study.workers import executor_of, side_by_side

TIMED_STEPS = 3  # optimizer steps of the training that is timed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search would evaluate.

    Attributes:
        widths: hidden sizes; empty for a space with architectures of its own.
        fastest, fastest_metrics: the smallest network by the budgets, or by latency_ms.
        baselines: label, and notation or None where no width meets the budgets.
        each: every network that the sampler proposes is trained; else those that are expected to
            improve the recommended network.
        evaluations: baselines and candidates, equal networks once, without those that are known.
        start_from: the earlier runs, in words.
        tokens: training tokens of all.
        tokens_per_s: of one worker, from a few timed steps, or None; rate: in its place, the
            assumed FLOP/s of a device that is not here, in words.
        seconds: of the whole search with its workers; None with the user's evaluator.
        flops_each: of the longest training.
    """

    space: str
    space_size: float
    widths: tuple[int, ...]
    budgets: dict[str, float]
    fastest: str | None
    fastest_metrics: dict[str, float]
    baselines: list[dict[str, str | None]]
    each: bool
    workers: int
    start_from: str
    candidates: int = 0
    evaluations: int = 0
    width_factor: int | None = None
    proxy_widths: tuple[int, ...] = ()
    known: int = 0
    tokens_each: int = 0
    tokens: int = 0
    tokens_per_s: float | None = None
    seconds: float | None = None
    flops_each: float = 0.0
    rate: str = ""
    time_limit_s: float = 0.0
    flops: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        widths = f", widths {self.widths[0]} to {self.widths[-1]}" if self.widths else ""
        fitting = sum(entry["notation"] is not None for entry in self.baselines)
        metrics = self.fastest_metrics
        metric = next((name for name in ("latency_ms", *self.budgets) if name in metrics), None)
        lines = [f"space      {self.space}: {self.space_size:,.0f} genotypes{widths}"]
        if metric is not None:
            lines.append(f"fastest    {metric} {metrics[metric]:,.4g}: {self.fastest}")
        lines += [f"budget     {name} {limit:,.6g}" for name, limit in self.budgets.items()]
        if not self.candidates:
            lines.append("evaluated  nothing is trained: published trainings answer")
        elif not self.each:
            lines.append(
                f"evaluated  at most {self.evaluations} networks: those whose training is expected"
                " to improve the recommended one"
            )
        else:
            lines.append(
                f"evaluated  {self.evaluations} networks: {self.candidates} candidates and"
                f" {fitting} of {len(self.baselines)} baselines, which meet the"
                f" budgets{', but for those that are known' if self.known else ''}"
            )
        if self.start_from:
            lines.append(f"start from {self.start_from}")
        return "\n".join([*lines, *self._training_lines()])

    def _training_lines(self) -> list[str]:
        """Tokens, time limit and time of the trainings."""
        lines = []
        if self.tokens:
            narrow = self.proxy_widths
            shrunk = f" at width {narrow[0]} to {narrow[-1]}" if narrow else ""
            flops = ""
            if self.flops_each:
                flops = f"; up to {self.flops_each:.1e} FLOP each, about {self.flops:.1e} in all"
            lines.append(
                f"training   {self.tokens_each:,} tokens each{shrunk}, {self.tokens:,} in all{flops}"
            )
            lines.append(f"limit      {self.time_limit_s:,.0f} s a training")
        if self.seconds:
            took = f"{self.seconds / 3600:,.1f} h"
            pace = self.rate or "an assumed pace"
            if self.tokens_per_s is not None:
                took = f"{self.seconds / 60:,.1f} min"
                pace = f"{self.tokens_per_s:,.0f} tokens/s each, with their validation"
            workers = f"{self.workers} worker{'s' * (self.workers > 1)}"
            lines.append(f"time       about {took} with {workers}, at {pace}")
        return lines


def plan(config: SearchConfig, *, note: Note = lambda _: None, **objects: Any) -> Plan:
    """What `run_search` with the same arguments would evaluate.

    Raises:
        FlashnasError: for whatever would stop the search before its first evaluation.
    """
    problem = load_problem(config, plan=True, **objects)
    with foreign_errors(*problem.foreign(), direct=False):
        return _planned(problem, note)


def _planned(problem: Problem, note: Note) -> Plan:
    config = problem.config
    trainings = problem.trainings
    baselines = problem.baselines
    for line in problem.notes:
        note(line)
    fastest = problem.fitter.fastest(config.seed)
    widths = tuple(getattr(problem.space, "hidden_sizes", ()))
    free = Plan(
        space=problem.space.name,
        space_size=float(problem.space.size()),
        widths=widths,
        budgets=dict(config.budgets),
        fastest=None if fastest is None else fastest[0].notation,
        fastest_metrics={} if fastest is None else dict(fastest[1]),
        baselines=[
            {"label": label, "notation": None if network is None else network.notation}
            for label, network in baselines
        ],
        each=problem.each,
        workers=config.workers or 1,
        start_from=""
        if problem.earlier is None
        else f"{', '.join(str(run.path) for run in problem.earlier.runs)}:"
        f" {len(problem.earlier.trained)} trained networks",
    )
    return free if trainings is None else _with_trainings(free, problem, trainings, note)


def _with_trainings(free: Plan, problem: Problem, trainings: Trainings, note: Note) -> Plan:
    """The plan with what is trained, and how long that takes."""
    recipe, limit = trainings.recipe, trainings.time_limit
    networks = [network for _, network in problem.baselines if network is not None]
    rate = None
    pace = 1.0
    workers = free.workers
    if not limit.elsewhere:
        if recipe is not None:
            rate, pace = timed(problem, trainings, networks)
        network = problem.space.any_network()
        executor = executor_of(problem.config, trainings, network, note)
        workers = executor.workers
        side_by_side(executor, problem.config.cycle_size, note)
    clock = Clock(training_plan(problem, trainings, workers))
    evaluations = len(clock.plan.baselines) + clock.plan.candidates
    known = {network.hash for network in networks if trainings.score(network, metrics=False)}
    tokens_each = 0 if recipe is None else recipe.steps * recipe.batch_tokens
    factor = None if recipe is None else recipe.width_factor
    return dataclasses.replace(
        free,
        candidates=clock.plan.candidates,
        evaluations=evaluations,
        width_factor=factor,
        proxy_widths=() if factor is None else tuple(width // factor for width in free.widths),
        known=len(known),
        tokens_each=tokens_each,
        tokens=tokens_each * evaluations,
        tokens_per_s=rate,
        seconds=pace * clock.queued_s if tokens_each else None,
        workers=workers,
        flops_each=limit.flops,
        rate=limit.elsewhere,
        time_limit_s=limit.seconds,
        flops=evaluations * limit.mean_flops,
    )


def timed(problem: Problem, trainings: Trainings, networks: list[Any]) -> tuple[float, float]:
    """Training tokens per second of one worker, and how many times as long as expected a training
    then takes: of the baseline with the median number of parameters, or of the genotype that is
    drawn first. Raises RunError if that training fails."""
    recipe = trainings.recipe
    assert recipe is not None
    if not networks:
        drawn = problem.fitter.fit_width(problem.algorithm().ask(1)[0])[0]
        networks = [] if drawn is None else [drawn]
    if not networks:
        raise RunError("no candidate within the budgets was found to be timed")
    network = sorted(networks, key=lambda network: network.params)[len(networks) // 2]
    short = dataclasses.replace(
        recipe,
        tokens=TIMED_STEPS * recipe.batch_tokens,
        curve_points=1,
        validation_tokens=recipe.sequence_tokens,
        curve_tokens=recipe.sequence_tokens,
    )
    job = dataclasses.replace(trainings.job(network), recipe=short.to_dict())
    work = Work(function=run_job, workers=1, timeout_s=trainings.time_limit.seconds)
    with LocalExecutor(work) as pool:
        # the first one loads libraries and compiled kernels, which a worker does once
        ended = dict(pool.run({"first": job, "timed": job}))["timed"]
    if ended.result is None:
        raise RunError(f"the timed training of {network.notation} failed: {ended.reason}")
    rate = float(ended.result["tokens_per_s"])
    return rate, recipe.work_left() / rate / trainings.time_limit.expected_s(network)
