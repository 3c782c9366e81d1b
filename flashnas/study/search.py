"""The whole flow on one page: space -> architecture -> latency -> proxy training -> search -> front.

The only module that knows all of them. A cycle of candidates is drawn together, fitted in width to the budgets on the
table, trained where it is new, and told in the order drawn: the trajectory does not depend on workers or interruptions.
Continuing a run replays the trajectory; what the study remembers is not trained again.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import flashnas
from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError, RunError, TableError
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.latency.metrics import LARGER_IS_BETTER, Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.profiling.certificate import TIMES, Certificate
from flashnas.profiling.finalists import job_here, measure_finalists, missed
from flashnas.profiling.setup import Job
from flashnas.proxy.worker import run_candidate
from flashnas.search import make_algorithm
from flashnas.search.algorithm import Evaluation, Goals
from flashnas.search.objectives import TRAINED, minimised, point, task_scores
from flashnas.search.pareto import non_dominated
from flashnas.space import OperatorSpace, load_operator_space
from flashnas.study.config import SearchConfig
from flashnas.study.evaluator import Candidate, Evaluator, Progress
from flashnas.study.folder import RunRecord, fingerprint
from flashnas.study.pool import WorkerPool
from flashnas.study.trial import Trial
from flashnas.study.width import WidthFitter
from flashnas.training.recipe import Recipe

IDLE_CYCLES = 20          # cycles in a row without anything new: the space is exhausted


def run_search(config: SearchConfig, out: Path, *, resume: bool, progress: Progress, command: str = "",
               ) -> dict[str, Any]:
    """Search, and leave a run folder; returns the object of `search --json`. Raises FlashnasError subclasses only."""
    started = time.time()
    space = load_operator_space(config.space, "a latency table")
    table, workload = LatencyTable.load(config.table), load_workload(config.workload)
    model = LatencyModel(table, workload, mode=config.mode)
    budgets = [Budget(figure, limit) for figure, limit in config.budgets.items()]
    check_answerable(space, model, config)
    certificate = certify(config, space, model, budgets)
    job = job_for_finalists(config, model)
    fitter = WidthFitter(space, model, certificate.tightened(budgets) if certificate else budgets)
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.words() if certificate else ''}") from None
    recipe = Recipe.load(config.recipe)
    if config.tokens is not None:
        recipe = dataclasses.replace(recipe, tokens=config.tokens)
    latency_of = fitter.latency_of
    algorithm = make_algorithm(config.sampler, space=space, seed=config.seed, latency_of=latency_of,
                               cycle_size=config.cycle_size, goals=goals_of(config.objectives, fitter),
                               **config.sampler_options)
    dataset = prepare_dataset(config.data, recipe, config.tokenizer)
    for note in dataset.notes:
        progress.note(note)
    question = {**config.question(), "space_hash": space.hash, "table_hash": table_hash(table),
                "workload": workload.to_dict(), "recipe": recipe.to_dict(), "corpus": dataset.folder.name}
    if certificate:
        question["margins"] = dict(certificate.margins)
    facts = run_facts(config, out, command, space, table, workload, recipe, dataset)
    record = RunRecord(out, question=question, facts=facts, resume=resume, storage=config.storage,
                       objectives=len(config.objectives))
    with WorkerPool(run_candidate, workers=config.workers, timeout_s=config.candidate_timeout_s) as pool:
        evaluator = Evaluator(
            trials=config.trials, workers=config.workers, distributions=space.distributions(),
            estimate=fitter.estimate, objectives=config.objectives, record=record, pool=pool, progress=progress,
            make_job=lambda architecture: {"architecture": architecture.to_dict(), "dataset": str(dataset.folder),
                                           "recipe": recipe.to_dict(), "seed": config.seed,
                                           "tasks": list(task_scores(config.objectives))})
        if config.baselines:
            baselines = [Candidate("baseline", label, {}, fitter.fit(operators))
                         for label, operators in space.pure_models()]
            evaluator.planned += len({b.architecture.hash for b in baselines if b.architecture})
            evaluator.evaluate(0, baselines)
            evaluator.planned = config.trials
        cycle, idle = 0, 0
        while evaluator.searched < config.trials and idle < IDLE_CYCLES:
            cycle += 1
            before = evaluator.searched
            asked = algorithm.ask(min(config.cycle_size, config.trials - before))
            candidates = [Candidate("search", "", space.encode(g), latency_of(g)[0]) for g in asked]
            trials = evaluator.evaluate(cycle, candidates)
            algorithm.tell([evaluation_of(genotype, candidate, trial, config.objectives)
                            for genotype, candidate, trial in zip(asked, candidates, trials, strict=True)])
            idle = idle + 1 if evaluator.searched == before else 0
    if idle >= IDLE_CYCLES:
        progress.note(f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the budget")
    entries = front_entries(evaluator, config.objectives, certificate)
    if job:
        add_measured(entries, evaluator.record, model, job, budgets, progress)
    return finish(evaluator, entries, time.time() - started)


def goals_of(objectives: Sequence[str], fitter: WidthFitter) -> Goals | None:
    """None for one trained quality against latency_ms; else which objectives are known, and their values."""
    if objectives[1] == "latency_ms" and len(objectives) == 2:
        return None
    known = [name for name in objectives if name not in TRAINED]
    return Goals(tuple(name in known for name in objectives), lambda architecture: tuple(
        minimised(name, fitter.estimate(architecture).metric(name)) for name in known))


def evaluation_of(genotype: Any, candidate: Candidate, trial: Trial, objectives: Sequence[str]) -> Evaluation:
    """A trial as the algorithms see it; everything is minimised."""
    values = point(objectives, trial.to_dict(), trial.scores)
    return Evaluation(genotype=genotype, architecture=candidate.architecture,
                      feasible=candidate.architecture is not None, loss=None if values is None else values[0],
                      latency_ms=trial.latency_ms, failed=values is None, values=values)


def table_hash(table: LatencyTable) -> str:
    """Changes with any row of the table and with its calibration."""
    return fingerprint([{kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}, table.calibration])


def check_answerable(space: OperatorSpace[Any], model: LatencyModel, config: SearchConfig) -> None:
    """Raise MissingRowsError before anything is trained when the table lacks what the space needs."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            try:
                model.estimate(space.build((spec,), hidden))
            except MissingRowsError as error:
                raise MissingRowsError(f"table {config.table!r} does not cover space {config.space!r}: {error}"
                                       ) from None


def certify(config: SearchConfig, space: OperatorSpace[Any], model: LatencyModel, budgets: Sequence[Budget],
            ) -> Certificate | None:
    """What the table's validation says of its predictions, if a confidence is asked for. Raises TableError without a
    validation, ConfigError without a budget that it could hold."""
    if config.confidence is None:
        return None
    if not any(budget.metric in (*TIMES, *LARGER_IS_BETTER) for budget in budgets):
        raise ConfigError("--confidence needs a budget on a time, such as --budget-ms")
    return Certificate.of(model.table, model.workload, space_name=config.space, space_hash=space.hash,
                          confidence=config.confidence)


def job_for_finalists(config: SearchConfig, model: LatencyModel) -> Job | None:
    """How the finalists are timed; None where the table's device is not at hand. Raises TableError with `strict`."""
    if not config.measure:
        return None
    try:
        return job_here(model)
    except TableError as error:
        if config.strict:
            raise TableError(f"--strict measures the finalists: {error}") from None
        return None


def front_entries(evaluator: Evaluator, objectives: Sequence[str], certificate: Certificate | None,
                  ) -> list[dict[str, Any]]:
    """The non-dominated networks, fastest first, as they stand in pareto/NN.yaml; raises RunError if none trained."""
    trials, record = evaluator.trials, evaluator.record
    points = [(t, point(objectives, t.to_dict(), t.scores)) for t in trials if t.state == "complete"]
    scored = [t for t, values in points if values is not None]
    if not scored:
        reasons = sorted({t.reason for t in trials if t.state == "failed"})
        raise RunError(f"{record.path}: no candidate could be trained; reasons: {'; '.join(reasons) or 'none tried'}")
    mask = non_dominated(np.array([values for _, values in points if values is not None]))
    front = sorted((t for t, keep in zip(scored, mask, strict=True) if keep), key=lambda t: t.latency_ms or 0)
    entries = []
    for trial in front:
        architecture = Architecture.parse(trial.notation)
        estimate = evaluator.estimate(architecture)
        figures = {name: getattr(trial, name) for name in (
            "loss", "bits_per_byte", "latency_ms", "lower_ms", "upper_ms", "ttft_ms", "tpot_ms", "throughput_tok_s",
            "memory_gb", "params")}
        figures |= trial.scores
        if certificate:
            figures["bound_ms"] = certificate.bound(estimate, "latency_ms")
        entries.append({"notation": trial.notation, "hash": trial.hash, "architecture": architecture.to_dict(),
                        "figures": figures, "breakdown": estimate.to_dict()["breakdown"],
                        "sources": estimate.to_dict()["sources"],
                        "origin": {"number": trial.number, "label": trial.label or "search"}})
    return entries


def add_measured(entries: Sequence[dict[str, Any]], record: RunRecord, model: LatencyModel, job: Job,
                 budgets: Sequence[Budget], progress: Progress) -> None:
    """Time the finalists that this run has not timed yet; adds measured figures and what they miss to the entries."""
    todo = [Architecture.parse(entry["notation"]) for entry in entries if entry["hash"] not in record.measured]
    if todo:
        progress.note(f"timing {len(todo)} finalists end to end on {model.table.device.label}")
        record.remember_measured(measure_finalists(todo, model, job))
    for entry in entries:
        times = record.measured[entry["hash"]]
        entry["figures"].update({"measured_ms": times["latency_ms"], "measured_ttft_ms": times["ttft_ms"],
                                 "measured_tpot_ms": times["tpot_ms"]})
        entry["missed"] = missed(times, budgets)


def finish(evaluator: Evaluator, entries: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Write the front and the totals; returns the summary."""
    trials, record = evaluator.trials, evaluator.record
    paths = record.write_front(entries)
    totals = {state: evaluator.count(state) for state in ("complete", "failed", "reused", "infeasible")}
    tokens = sum(t.tokens or 0 for t in trials if t.state == "complete")
    previous = float(record.config.get("seconds") or 0.0)
    record.write_config(finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"), seconds=round(previous + seconds, 1),
                        totals={**totals, "tokens": tokens})
    return {"run": str(record.path),
            "front": [{"config": str(path), "notation": entry["notation"], "hash": entry["hash"], **entry["figures"],
                       **({"missed": entry["missed"]} if "missed" in entry else {})}
                      for path, entry in zip(paths, entries, strict=True)],
            "trials": totals, "seconds": round(seconds, 1), "tokens": tokens}


def run_facts(config: SearchConfig, out: Path, command: str, space: OperatorSpace[Any], table: LatencyTable,
              workload: Workload, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """All that was asked, all versions: the head of run.yaml."""
    packages = {name: version(name) for name in ("torch", "optuna", "numpy", "pandas", "tokenizers")}
    return {
        "flashnas": flashnas.__version__, "name": out.name, "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished": None, "seconds": None,
        "space": {"name": space.name, "path": str(space.path), "hash": space.hash},
        "table": {"name": table.name, "device": table.device.label or table.name, "stack": table.stack,
                  "hash": table_hash(table)},
        "workload": workload.to_dict(), "budgets": config.budgets, "confidence": config.confidence,
        "objectives": list(config.objectives), "sampler": config.sampler, "seed": config.seed,
        "trials_asked": config.trials,
        "proxy": {**recipe.to_dict(), "corpus": dataset.source, "corpus_digest": dataset.folder.name,
                  "corpus_notes": list(dataset.notes), "vocabulary": dataset.vocab},
        "host": {"cpu": platform.processor() or platform.machine(), "workers": config.workers,
                 "python": platform.python_version(), **packages},
    }
