"""What a search would evaluate, and for how long, without doing it: `flashnas search --dry-run`."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.executors.job import run_job
from flashnas.executors.local import WorkerPool
from flashnas.study.config import SearchConfig
from flashnas.study.opening import executor_of, side_by_side
from flashnas.study.problem import Note, Problem, load_problem
from flashnas.study.progress import Clock, training_plan

TIMED_STEPS = 3  # optimizer steps of the training that is timed
FORWARD_SHARE = 1 / 3  # time of a validation token over that of a training token: no backward pass


def plan(config: SearchConfig, *, note: Note = lambda _: None, **objects: Any) -> dict[str, Any]:
    """What `run_search` with the same arguments would evaluate, JSON-ready.

    Returns:
        widths: hidden sizes; empty for a space with architectures of its own. fastest,
            fastest_metrics: the smallest network by the budgets, or by latency_ms. baselines:
            notation None where no width meets the budgets. evaluations: baselines and candidates,
            equal networks once, without those that are known. bench, start_from: which of these
            answer, in words. tokens: training tokens of all. tokens_per_s: of one worker, from a
            few timed steps, or None. rate: in its place, the assumed FLOP/s of a device that is not
            here, in words. seconds: of the whole search with its workers; None with the user's
            evaluator. flops_each: of the longest training.

    Raises:
        FlashnasError: for whatever would stop the search before its first evaluation.
    """
    problem = load_problem(config, note=note, plan=True, **objects)
    with foreign_errors(*problem.foreign(), direct=False):
        return _planned(problem, note)


def _planned(problem: Problem, note: Note) -> dict[str, Any]:
    config = problem.config
    for line in problem.notes:
        note(line)
    baselines, new, trained = problem.baselines, problem.new_baselines, problem.recipe
    limit, scores = problem.time_limit, problem.scores
    known = {network.hash for _, network in baselines if network is not None} - set(new)
    known |= {network.hash for _, network, _ in problem.known_networks()}
    fastest = problem.fitter.fastest(config.seed)
    widths = tuple(getattr(problem.space, "hidden_sizes", ()))
    rate, pace = None, 1.0
    if trained is not None and not limit.elsewhere:
        rate, pace = timed(problem, list(new.values()))
    workers = config.workers or 1
    if not limit.elsewhere:
        executor = executor_of(problem, note)
        workers = executor.workers
        side_by_side(problem, executor, note)
    clock = Clock(training_plan(problem, workers))
    evaluations = len(clock.plan.baselines) + clock.plan.candidates
    each = 0 if trained is None else trained.steps * trained.batch_tokens
    bench = (
        scores.no_bench() and f"not used; {scores.no_bench()}"
        if scores.bench is None
        else (
            f"{scores.bench.bench}: the search starts from {len(known)} networks that it has scores"
            " for; it has"
            f" {len(scores.bench)}"
        )
    )
    return {
        "space": problem.space.name,
        "space_size": float(problem.space.size()),
        "widths": widths,
        "budgets": dict(config.budgets),
        "fastest": None if fastest is None else fastest[0].notation,
        "fastest_metrics": {} if fastest is None else fastest[1],
        "baselines": [
            {"label": label, "notation": None if network is None else network.notation}
            for label, network in baselines
        ],
        "candidates": clock.plan.candidates,
        "evaluations": evaluations,
        "width_factor": None if trained is None else trained.width_factor,
        "proxy_widths": ()
        if trained is None
        else tuple(width // trained.width_factor for width in widths),
        "known": len(known),
        "bench": bench,
        "start_from": ""
        if problem.scores.known is None
        else f"{', '.join(str(run.path) for run in problem.scores.known.runs)}:"
        f" {len(problem.scores.known.by_hash)} trained networks",
        "tokens_each": each,
        "tokens": each * evaluations,
        "tokens_per_s": rate,
        "seconds": pace * (clock.remaining_s or 0.0) if each else None,
        "workers": workers,
        "flops_each": limit.flops,
        "rate": limit.elsewhere,
        "time_limit_s": limit.seconds,
        "flops": evaluations * limit.mean_flops,
    }


def plan_text(values: dict[str, Any]) -> str:
    planned, fastest = SimpleNamespace(**values), values["fastest_metrics"]
    widths = f", widths {planned.widths[0]} to {planned.widths[-1]}" if planned.widths else ""
    fitting = sum(entry["notation"] is not None for entry in planned.baselines)
    metric = next((name for name in ("latency_ms", *planned.budgets) if name in fastest), None)
    lines = [f"space      {planned.space}: {planned.space_size:,.0f} genotypes{widths}"]
    if metric is not None:
        lines.append(f"fastest    {metric} {fastest[metric]:,.4g}: {planned.fastest}")
    lines += [f"budget     {name} {limit:,.6g}" for name, limit in planned.budgets.items()]
    if not planned.candidates:
        lines.append(
            "evaluated  nothing is trained: published trainings alone answer, for networks of"
            f" the space and {fitting} baselines"
        )
    else:
        lines.append(
            f"evaluated  {planned.evaluations} networks: {planned.candidates} candidates and"
            f" {fitting} of {len(planned.baselines)} baselines, which meet the"
            f" budgets{', but for those that are known' if planned.known else ''}"
        )
    if planned.bench:
        lines.append(f"bench      {planned.bench}")
    if planned.start_from:
        lines.append(f"start from {planned.start_from}")
    if planned.tokens:
        narrow = planned.proxy_widths
        shrunk = f" at width {narrow[0]} to {narrow[-1]}" if narrow else ""
        flops = (
            f"; up to {planned.flops_each:.1e} FLOP each, about {planned.flops:.1e} in all"
            if planned.flops_each
            else ""
        )
        lines.append(
            f"training   {planned.tokens_each:,} tokens each{shrunk}, {planned.tokens:,} in all"
            f"{flops}"
        )
        lines.append(f"limit      {planned.time_limit_s:,.0f} s a training")
    if planned.seconds:
        took, at = f"{planned.seconds / 3600:,.1f} h", planned.rate or "an assumed pace"
        if planned.tokens_per_s is not None:
            took, at = (
                f"{planned.seconds / 60:,.1f} min",
                f"{planned.tokens_per_s:,.0f} tokens/s each",
            )
        workers = f"{planned.workers} worker{'s' * (planned.workers > 1)}"
        lines.append(f"time       about {took} with {workers}, at {at}")
    return "\n".join(lines)


def timed(problem: Problem, networks: list[Any]) -> tuple[float, float]:
    """Training tokens per second of one worker, and how many times as long as expected a training
    then takes: of the baseline with the median number of parameters, or of the genotype that is
    drawn first. Raises RunError if that training fails."""
    recipe = problem.recipe
    assert recipe is not None
    if not networks:
        drawn = problem.fitter.latency_of(problem.algorithm().ask(1)[0])[0]
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
    job = dataclasses.replace(problem.job(network), recipe=short.to_dict())
    with WorkerPool(run_job, workers=1, timeout_s=problem.time_limit.seconds) as pool:
        # the first one loads libraries and compiled kernels, which a worker does once
        ended = dict(pool.run({"first": job, "timed": job}))["timed"]
    if ended.result is None:
        raise RunError(f"the timed training of {network.notation} failed: {ended.reason}")
    rate = float(ended.result["tokens_per_s"])
    validated = recipe.validation_tokens + (recipe.curve_points - 1) * recipe.curve_tokens
    took_s = (recipe.steps * recipe.batch_tokens + FORWARD_SHARE * validated) / rate
    return rate, took_s / problem.time_limit.expected_s(network)
