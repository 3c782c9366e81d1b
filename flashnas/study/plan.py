"""What a search would evaluate, and for how long, without doing it: `flashnas search --dry-run`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.executors.job import run_job, takes_seed
from flashnas.executors.local import WorkerPool
from flashnas.study.clock import Clock, training_plan
from flashnas.study.config import SearchConfig
from flashnas.study.executor import executor_of
from flashnas.study.opening import side_by_side
from flashnas.study.prepare import Note, prepare
from flashnas.study.question import Question

TIMED_STEPS = 3            # optimizer steps of the training that is timed
FORWARD_SHARE = 1 / 3      # time of a validation token over that of a training token: no backward pass


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search before it runs.

    Attributes:
        space, space_size: name, and number of genotypes (infinite for a real parameter).
        widths: the hidden sizes; empty for a space with architectures of its own.
        budgets: metric -> limit.
        fastest: notation of the smallest network found, in the sense of the budgets or, without any, of
            latency_ms.
        fastest_metrics: its metrics.
        baselines: (label, notation or None where no width meets the budgets).
        candidates: networks that the search evaluates besides the baselines; 0 where nothing is trained.
        evaluations: both together; equal networks count once, and baselines that a bench knows do not count.
        width_factor, proxy_widths: how the trained networks are shrunk; None and empty with the user's
            evaluator.
        known: networks whose scores a bench or an earlier run has: baselines, and those that the search
            starts from.
        bench: which bench answers, or why none does, in words; empty without one.
        start_from: the earlier runs that are known, in words; empty without one.
        tokens_each, tokens: training tokens of one network and of all that are trained; 0 with the user's
            evaluator. With rungs `tokens` are the most that it can be, without further seeds.
        task_tokens: of each network on synthetic tasks, besides.
        least_tokens: the fewest, if as many trainings stop at the first rung as can.
        seeds: under which the networks of the front are evaluated in the end.
        seeds_why: why it is one, although there are rungs, in words; empty otherwise.
        seed_tokens: of further seeds, for each network of the front, which nobody knows before.
        tokens_per_s: of one worker, from a few timed steps; None where nothing was timed.
        seconds, least_seconds: of the whole search with its workers, from `tokens_per_s`. Trainings on
            synthetic tasks and the timing of finalists are not in it.
        workers: processes that train side by side.
        expected_s: of the whole search with its further seeds and synthetic tasks, at an assumed pace; 0 with
            the user's evaluator.
        flops_each, flops: of the longest training among those looked at, and about those of all, with
            further seeds; 0 with the user's evaluator.
        rate: assumed FLOP/s in words, where the device of the recipe is not here; else empty.
        time_limit_s: of one training.
    """

    space: str
    space_size: float
    widths: tuple[int, ...]
    budgets: dict[str, float]
    fastest: str | None
    fastest_metrics: dict[str, float]
    baselines: tuple[tuple[str, str | None], ...]
    candidates: int
    evaluations: int
    width_factor: int | None
    proxy_widths: tuple[int, ...]
    known: int
    bench: str
    start_from: str
    tokens_each: int
    tokens: int
    task_tokens: int
    least_tokens: int
    seeds: int
    seeds_why: str
    seed_tokens: int
    tokens_per_s: float | None
    seconds: float | None
    least_seconds: float | None
    workers: int
    expected_s: float
    flops_each: float
    flops: float
    rate: str
    time_limit_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**dataclasses.asdict(self), "baselines": [
            {"label": label, "notation": notation} for label, notation in self.baselines]}

    def __str__(self) -> str:
        widths = f", widths {self.widths[0]} to {self.widths[-1]}" if self.widths else ""
        fitting = [label for label, notation in self.baselines if notation is not None]
        metric = next((name for name in ("latency_ms", *self.budgets) if name in self.fastest_metrics), None)
        lines = [f"space      {self.space}: {self.space_size:,.0f} genotypes{widths}"]
        if self.fastest is not None and metric is not None:
            lines.append(f"fastest    {metric} {self.fastest_metrics[metric]:,.4g}: {self.fastest}")
        lines += [f"budget     {name} {limit:,.6g}" for name, limit in self.budgets.items()]
        if not self.candidates:
            lines.append("evaluated  nothing is trained: published trainings alone answer, for networks of"
                         f" the space and {len(fitting)} baselines")
        else:
            lines.append(f"evaluated  {self.evaluations} networks: {self.candidates} candidates and"
                         f" {len(fitting)} of {len(self.baselines)} baselines, which meet the"
                         f" budgets{', but for those that are known' if self.known else ''}")
        if self.bench:
            lines.append(f"bench      {self.bench}")
        if self.start_from:
            lines.append(f"start from {self.start_from}")
        if self.seeds > 1 or self.seeds_why:
            why = f": {self.seeds_why}" if self.seeds_why else ""
            lines.append(f"seeds      {self.seeds} for each network of the front{why}")
        if self.tokens:
            narrow = self.proxy_widths
            shrunk = f" at width {narrow[0]} to {narrow[-1]}" if narrow else ""
            fewest = f"{self.least_tokens:,} to " if self.least_tokens < self.tokens else ""
            seeds = f", and {self.seed_tokens:,} for each network of the front" if self.seed_tokens else ""
            flops = (f"; up to {self.flops_each:.1e} FLOP each, about {self.flops:.1e} in all"
                     if self.flops_each else "")
            tasks = f"; {self.task_tokens:,} more each on synthetic tasks" if self.task_tokens else ""
            lines.append(f"training   {self.tokens_each:,} tokens each{shrunk}, {fewest}{self.tokens:,} in"
                         f" all{seeds}{tasks}{flops}")
            lines.append(f"limit      {self.time_limit_s:,.0f} s a training")
        with_workers = f"with {self.workers} worker{'s' * (self.workers > 1)}"
        if self.seconds is None and self.expected_s:
            lines.append(f"time       about {self.expected_s / 3600:,.1f} h {with_workers}, further seeds"
                         f" included, at {self.rate or 'an assumed pace'}")
        if self.seconds is not None and self.least_seconds is not None and self.tokens_per_s is not None:
            fewest = f"{self.least_seconds / 60:,.1f} to " if self.least_seconds < self.seconds else ""
            seeds = ", before the front has its further seeds" if self.seed_tokens else ""
            lines.append(f"time       about {fewest}{self.seconds / 60:,.1f} min {with_workers},"
                         f" at {self.tokens_per_s:,.0f} tokens/s each{seeds}")
        return "\n".join(lines)


def plan(config: SearchConfig, *, note: Note = lambda _: None, timed: bool = True,
         **objects: Any) -> SearchPlan:
    """What `run_search` with the same arguments would evaluate. Writes nothing but the cache of the corpus.

    Args:
        note: receives lines for the user.
        timed: train one network of middle size for a few steps in a worker process, for the estimate of the
            time.
        objects: as `flashnas.study.prepare.prepare`.

    Raises:
        FlashnasError: for whatever would stop the search before its first evaluation.
    """
    question = prepare(config, note=note, plan=True, **objects)
    with foreign_errors(*question.foreign(), direct=False):
        return _planned(question, note, timed)


def _planned(question: Question, note: Note, timed: bool) -> SearchPlan:
    config, seeds = question.config, question.config.seeds or 1
    for line in question.notes:
        note(line)
    baselines = question.baselines
    different = {network.hash: network for _, network in baselines
                 if network is not None and question.scores.score(network) is None}
    hashes = {network.hash for _, network in baselines if network is not None
             and network.hash not in different}
    hashes |= {network.hash for _, network, _ in question.known_networks()}
    evaluations = len(different) + int(min(config.trials, question.space.size())) if config.trials else 0
    fastest = question.fitter.fastest(config.seed)
    widths = getattr(question.space, "hidden_sizes", ())
    trained, rate = question.recipe, None
    elsewhere = question.time_limit.elsewhere
    if timed and trained is not None and not elsewhere:
        rate = _tokens_per_s(question, list(different.values()))
    each = 0 if trained is None else trained.steps * trained.batch_tokens
    seconds, executor = None, None if elsewhere else executor_of(question, note)
    workers = (config.workers or 1) if executor is None else executor.workers
    clock = Clock(training_plan(question, workers))
    of_tasks = clock.plan.tokens - each
    if executor is not None and rate is not None and trained is not None:
        validated = trained.validation_tokens + (trained.curve_points - 1) * trained.curve_tokens
        rounds = _rounds(config, evaluations - len(different), side_by_side(question, executor, note)) - (
            -len(different) // workers)
        seconds = rounds * (each + FORWARD_SHARE * validated) / rate
    trainings = evaluations + (seeds - 1) * clock.plan.finalists
    trained_baselines = len(different) if config.trials else 0
    least, most = _tokens(question, each, evaluations, trained_baselines)
    return SearchPlan(
        space=question.space.name, space_size=float(question.space.size()), widths=tuple(widths),
        budgets=dict(config.budgets), fastest=None if fastest is None else fastest[0].notation,
        fastest_metrics={} if fastest is None else fastest[1],
        baselines=tuple((label, None if network is None else network.notation) for label,
                        network in baselines),
        candidates=evaluations - trained_baselines, evaluations=evaluations,
        width_factor=None if trained is None else trained.width_factor,
        proxy_widths=() if trained is None else tuple(width // trained.width_factor for width in widths),
        known=len(hashes), bench=_bench_words(question, len(hashes)),
        start_from="" if question.known is None else
        f"{', '.join(str(run.path) for run in question.known.runs)}: {len(question.known)} trained networks",
        tokens_each=each, tokens=most, least_tokens=least,
        task_tokens=of_tasks, seeds=seeds,
        seeds_why=_seeds_why(question), seed_tokens=(each + of_tasks) * (seeds - 1), tokens_per_s=rate,
        seconds=None if seconds is None else seconds * most / (each * evaluations),
        least_seconds=None if seconds is None else seconds * least / (each * evaluations),
        workers=workers, expected_s=(clock.remaining_s or 0.0) if each else 0.0,
        flops_each=question.time_limit.flops, flops=trainings * question.time_limit.mean_flops,
        rate=elsewhere, time_limit_s=question.time_limit.seconds)


def _tokens(question: Question, each: int, evaluations: int, baselines: int) -> tuple[int, int]:
    """The fewest and the most training tokens under the first seed: a cycle finishes at least one candidate,
    or all."""
    rungs = question.rungs.tokens
    candidates = evaluations - baselines
    finished = -(-candidates // question.config.cycle_size) if rungs else candidates
    stopped = (candidates - finished) * rungs[0] if rungs else 0
    return each * (baselines + finished) + stopped, each * evaluations


def _rounds(config: SearchConfig, candidates: int, workers: int) -> int:
    """How many candidates each worker evaluates, where each cycle waits for its last one."""
    if config.asynchronous:
        return -(-candidates // workers)
    cycles, rest = divmod(candidates, config.cycle_size)
    return -(-config.cycle_size // workers) * cycles - (-rest // workers)


def _seeds_why(question: Question) -> str:
    """Why the front has one seed, although there are rungs and nobody asked for one."""
    able = question.evaluator is None or takes_seed(question.evaluator)
    return "the evaluator has no argument 'seed'" if question.rungs.tokens and not able else ""


def _bench_words(question: Question, known: int) -> str:
    """Which bench answers, or why none does."""
    if question.scores.bench is not None:
        return (f"{question.scores.bench.bench}: the search starts from {known} networks that it has scores"
                f" for; it has {len(question.scores.bench)}")
    return f"not used; {question.scores.no_bench}" if question.scores.no_bench else ""


def _tokens_per_s(question: Question, networks: list[Any]) -> float:
    """Training tokens per second of one worker, on the network with the median number of parameters among the
    baselines, or on the genotype that the search draws first. Raises RunError if that training fails."""
    recipe = question.recipe
    assert recipe is not None
    if not networks:
        drawn = question.fitter.latency_of(question.algorithm().ask(1)[0])[0]
        networks = [] if drawn is None else [drawn]
    if not networks:
        raise RunError("no candidate within the budgets was found to be timed; plan without timing")
    network = sorted(networks, key=lambda network: network.params)[len(networks) // 2]
    short = dataclasses.replace(recipe, tokens=TIMED_STEPS * recipe.batch_tokens, curve_points=1,
                                validation_tokens=recipe.sequence_tokens, curve_tokens=recipe.sequence_tokens)
    job = dataclasses.replace(question.job(network), recipe=short.to_dict(), tasks=())
    with WorkerPool(run_job, workers=1, timeout_s=question.time_limit.seconds) as pool:
        # the first one loads libraries and compiled kernels, which a worker does once
        timed = dict(pool.run({"first": job, "timed": job}))["timed"]
    if timed.result is None:
        raise RunError(f"the timed training of {network.notation} failed: {timed.reason}")
    return float(timed.result["tokens_per_s"])
