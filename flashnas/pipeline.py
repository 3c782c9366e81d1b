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
from typing import Any, Protocol

import numpy as np

import flashnas
from flashnas.architecture import Architecture
from flashnas.errors import BudgetError, MissingRowsError, RunError
from flashnas.latency.figures import Budget, fits
from flashnas.latency.model import Estimate, LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.operators import OperatorSpec
from flashnas.pareto import non_dominated
from flashnas.proxy.dataset import Dataset, prepare_dataset
from flashnas.proxy.recipe import Recipe
from flashnas.proxy.worker import run_candidate
from flashnas.run.config import SearchConfig
from flashnas.run.pool import WorkerPool
from flashnas.run.record import RunRecord, fingerprint
from flashnas.run.snapshot import Snapshot
from flashnas.search import make_algorithm
from flashnas.search.algorithm import Evaluation
from flashnas.space import load_space
from flashnas.space.base import SearchSpace
from flashnas.trial import State, Trial

PROBES = 256              # genotypes looked at before a budget is called impossible
IDLE_CYCLES = 20          # cycles in a row without anything new: the space is exhausted


class Progress(Protocol):
    def note(self, text: str) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a cycle is about to evaluate; `architecture` is None when no width meets the budgets."""

    origin: str
    label: str
    genotype: dict[str, Any]
    architecture: Architecture | None


class WidthFitter:
    """Gives operators the largest width of the space that meets every budget; answers come from the table alone."""

    def __init__(self, space: SearchSpace, model: LatencyModel, budgets: Sequence[Budget]) -> None:
        self.space, self.model, self.budgets = space, model, list(budgets)
        self._fitted: dict[tuple[OperatorSpec, ...], Architecture | None] = {}
        self._estimates: dict[Architecture, Estimate] = {}

    def estimate(self, architecture: Architecture) -> Estimate:
        if architecture not in self._estimates:
            self._estimates[architecture] = self.model.estimate(architecture)
        return self._estimates[architecture]

    def fit(self, operators: tuple[OperatorSpec, ...]) -> Architecture | None:
        if operators not in self._fitted:
            self._fitted[operators] = self.space.fit_operators(
                operators, lambda architecture: fits(self.estimate(architecture), self.budgets))
        return self._fitted[operators]

    def latency_of(self, genotype: Any) -> tuple[Architecture | None, float | None]:
        """The fitted architecture and its latency_ms; when nothing fits, None and the latency of the narrowest."""
        architecture = self.fit(self.space.operators(genotype))
        timed = architecture or self.space.architecture(genotype, self.space.hidden_sizes[0])
        return architecture, self.estimate(timed).latency_ms

    def check_possible(self, seed: int) -> None:
        """Raise BudgetError with the fastest found when the budgets look out of reach of the whole space."""
        rng = np.random.default_rng(seed)
        narrowest = self.space.hidden_sizes[0]
        fastest: tuple[float, Any, Estimate] | None = None
        for _ in range(PROBES):
            genotype = self.space.sample(rng)
            if fastest is not None and rng.random() < 0.7:
                genotype = self.space.mutate(fastest[1], rng)
            estimate = self.estimate(self.space.architecture(genotype, narrowest))
            if fits(estimate, self.budgets):
                return
            excess = max(estimate.figure(budget.figure) / budget.limit for budget in self.budgets)
            if fastest is None or excess < fastest[0]:
                fastest = (excess, genotype, estimate)
        assert fastest is not None
        figures = ", ".join(f"{b.figure} {fastest[2].figure(b.figure):,.4g} (budget {b.limit:,.6g})"
                            for b in self.budgets)
        notation = self.space.architecture(fastest[1], narrowest).notation
        raise BudgetError(f"no architecture of space {self.space.name!r} meets the budget; the fastest found has"
                          f" {figures}: {notation}")


class Evaluator:
    """Trains the networks of a cycle that are new, records each as it finishes, and turns all into trials."""

    def __init__(self, config: SearchConfig, space: SearchSpace, fitter: WidthFitter, recipe: Recipe,
                 dataset: Dataset, record: RunRecord, pool: WorkerPool, progress: Progress) -> None:
        self.config, self.space, self.fitter, self.recipe, self.dataset = config, space, fitter, recipe, dataset
        self.record, self.pool, self.progress = record, pool, progress
        self.trials: list[Trial] = []
        self.hashes: set[str] = set()      # networks of this trajectory so far
        self.planned = config.trials
        self.trained, self.train_seconds = 0, 0.0

    def evaluate(self, cycle: int, candidates: Sequence[Candidate]) -> list[Trial]:
        """Trials of the candidates, in their order."""
        new: dict[str, tuple[Architecture, Candidate]] = {}
        for candidate in candidates:
            architecture = candidate.architecture
            if architecture is not None and architecture.hash not in self.record.memory:
                new.setdefault(architecture.hash, (architecture, candidate))
        jobs = {key: {"architecture": architecture.to_dict(), "dataset": str(self.dataset.folder),
                      "recipe": self.recipe.to_dict(), "seed": self.config.seed}
                for key, (architecture, _) in new.items()}
        for key, score, reason in self.pool.run(jobs, on_wait=self.report):
            architecture, candidate = new[key]
            outcome = {"hash": key, "notation": architecture.notation, "score": score, "reason": reason}
            searched = candidate.origin == "search"
            self.record.remember(outcome, params=candidate.genotype if searched else {},
                                 distributions=self.space.distributions() if searched else {},
                                 latency_ms=self.fitter.estimate(architecture).latency_ms)
            self.trained += 1
            self.train_seconds += score["seconds"] if score else 0.0
            self.report()
        rows = [self._trial(cycle, candidate) for candidate in candidates]
        self.record.write_trials(self.trials)
        self.report()
        return rows

    def _trial(self, cycle: int, candidate: Candidate) -> Trial:
        known: dict[str, Any] = {"number": len(self.trials), "cycle": cycle, "origin": candidate.origin,
                                 "label": candidate.label, "genotype": candidate.genotype}
        architecture = candidate.architecture
        if architecture is None:
            trial = Trial(**known, state="infeasible", reason="no width of the space meets the budgets")
        else:
            estimate = self.fitter.estimate(architecture)
            outcome = self.record.memory[architecture.hash]
            score = outcome["score"]
            state: State = "reused" if architecture.hash in self.hashes else "complete" if score else "failed"
            self.hashes.add(architecture.hash)
            figures = {name: getattr(estimate, name) for name in (
                "params", "ttft_ms", "tpot_ms", "latency_ms", "lower_ms", "upper_ms", "throughput_tok_s", "memory_gb")}
            trained = {} if not score else {
                "loss": score["loss"], "bits_per_byte": score["bits_per_byte"], "curve": score["curve"],
                "proxy_params": score["proxy_params"], "tokens": score["tokens"],
                "tokens_per_s": score["tokens_per_s"], "train_seconds": score["seconds"], "seed": score["seed"]}
            trial = Trial(**known, state=state, reason=outcome["reason"], notation=architecture.notation,
                          hash=architecture.hash, hidden=architecture.hidden, **figures, **trained)
        self.trials.append(trial)
        return trial

    def count(self, state: str, origin: str | None = None) -> int:
        return sum(t.state == state and origin in (None, t.origin) for t in self.trials)

    @property
    def searched(self) -> int:
        """Networks of the search that were evaluated: those that count against `trials`."""
        return self.count("complete", "search") + self.count("failed", "search")

    def report(self) -> None:
        """Tell the progress line where the run stands."""
        outcomes = list(self.record.memory.values())
        done = [o for o in outcomes if o["score"]]
        best = min(done, key=lambda o: o["score"]["loss"], default=None)
        total = self.planned + self.count("complete", "baseline") + self.count("failed", "baseline")
        left = max(total - len(outcomes), 0)
        mean_s = self.train_seconds / self.trained if self.trained else None
        latency = None if best is None else self.fitter.estimate(Architecture.parse(best["notation"])).latency_ms
        self.progress.update(Snapshot(
            done=len(done), failed=len(outcomes) - len(done), reused=self.count("reused"),
            infeasible=self.count("infeasible"), total=max(total, len(outcomes)),
            best_loss=best["score"]["loss"] if best else None, best_latency_ms=latency,
            remaining_s=None if mean_s is None else left * mean_s / self.config.workers))


def run_search(config: SearchConfig, out: Path, *, resume: bool, progress: Progress, command: str = "",
               ) -> dict[str, Any]:
    """Search, and leave a run folder; returns the object of `search --json`. Raises FlashnasError subclasses only."""
    started = time.time()
    space, table, workload = load_space(config.space), LatencyTable.load(config.table), load_workload(config.workload)
    model = LatencyModel(table, workload)
    budgets = [Budget(figure, limit) for figure, limit in config.budgets.items()]
    check_answerable(space, model, config)
    fitter = WidthFitter(space, model, budgets)
    fitter.check_possible(config.seed)
    recipe = Recipe.load(config.recipe)
    if config.tokens is not None:
        recipe = dataclasses.replace(recipe, tokens=config.tokens)
    latency_of = fitter.latency_of
    algorithm = make_algorithm(config.sampler, space=space, seed=config.seed, latency_of=latency_of,
                               cycle_size=config.cycle_size, **config.sampler_options)
    dataset = prepare_dataset(config.data, recipe, config.tokenizer)
    for note in dataset.notes:
        progress.note(note)
    question = {**config.question(), "space_hash": space.hash, "table_hash": table_hash(table),
                "workload": workload.to_dict(), "recipe": recipe.to_dict(), "corpus": dataset.folder.name}
    facts = run_facts(config, out, command, space, table, workload, recipe, dataset)
    record = RunRecord(out, question=question, facts=facts, resume=resume, storage=config.storage)
    with WorkerPool(run_candidate, workers=config.workers, timeout_s=config.candidate_timeout_s) as pool:
        evaluator = Evaluator(config, space, fitter, recipe, dataset, record, pool, progress)
        if config.baselines:
            baselines = [Candidate("baseline", label, {}, fitter.fit(operators))
                         for label, operators in space.baselines()]
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
            algorithm.tell([Evaluation(genotype=genotype, architecture=candidate.architecture,
                                       feasible=candidate.architecture is not None, loss=trial.loss,
                                       latency_ms=trial.latency_ms, failed=trial.loss is None)
                            for genotype, candidate, trial in zip(asked, candidates, trials, strict=True)])
            idle = idle + 1 if evaluator.searched == before else 0
    if idle >= IDLE_CYCLES:
        progress.note(f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the budget")
    return finish(evaluator, workload, time.time() - started)


def table_hash(table: LatencyTable) -> str:
    """Changes with any row of the table and with its calibration."""
    return fingerprint([{kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}, table.calibration])


def check_answerable(space: SearchSpace, model: LatencyModel, config: SearchConfig) -> None:
    """Raise MissingRowsError before anything is trained when the table lacks what the space needs."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            try:
                model.estimate(space.build((spec,), hidden))
            except MissingRowsError as error:
                raise MissingRowsError(f"table {config.table!r} does not cover space {config.space!r}: {error}"
                                       ) from None


def finish(evaluator: Evaluator, workload: Workload, seconds: float) -> dict[str, Any]:
    """Write the front and the totals; returns the summary."""
    trials, record, fitter = evaluator.trials, evaluator.record, evaluator.fitter
    scored = [t for t in trials if t.state == "complete" and t.loss is not None and t.latency_ms is not None]
    if not scored:
        reasons = sorted({t.reason for t in trials if t.state == "failed"})
        raise RunError(f"{record.path}: no candidate could be trained; reasons: {'; '.join(reasons) or 'none tried'}")
    mask = non_dominated(np.array([[t.loss, t.latency_ms] for t in scored]))
    front = sorted((t for t, keep in zip(scored, mask, strict=True) if keep), key=lambda t: t.latency_ms or 0)
    entries = []
    for trial in front:
        architecture = Architecture.parse(trial.notation)
        estimate = fitter.estimate(architecture)
        figures = {name: getattr(trial, name) for name in (
            "loss", "bits_per_byte", "latency_ms", "lower_ms", "upper_ms", "ttft_ms", "tpot_ms", "throughput_tok_s",
            "memory_gb", "params")}
        entries.append({"notation": trial.notation, "hash": trial.hash, "architecture": architecture.to_dict(),
                        "figures": figures, "breakdown": estimate.to_dict()["breakdown"],
                        "sources": estimate.to_dict()["sources"],
                        "origin": {"number": trial.number, "label": trial.label or "search"}})
    paths = record.write_front(entries)
    totals = {state: evaluator.count(state) for state in ("complete", "failed", "reused", "infeasible")}
    tokens = sum(t.tokens or 0 for t in trials if t.state == "complete")
    previous = float(record.config.get("seconds") or 0.0)
    record.write_config(finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"), seconds=round(previous + seconds, 1),
                        totals={**totals, "tokens": tokens})
    return {"run": str(record.path),
            "front": [{"config": str(path), "notation": entry["notation"], "hash": entry["hash"], **entry["figures"]}
                      for path, entry in zip(paths, entries, strict=True)],
            "trials": totals, "seconds": round(seconds, 1), "tokens": tokens}


def run_facts(config: SearchConfig, out: Path, command: str, space: SearchSpace, table: LatencyTable,
              workload: Workload, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """All that was asked, all versions: the head of run.yaml."""
    packages = {name: version(name) for name in ("torch", "optuna", "numpy", "pandas", "tokenizers")}
    return {
        "flashnas": flashnas.__version__, "name": out.name, "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished": None, "seconds": None,
        "space": {"name": space.name, "path": str(space.path), "hash": space.hash},
        "table": {"name": table.name, "device": table.device.label or table.name, "stack": table.stack,
                  "hash": table_hash(table)},
        "workload": workload.to_dict(), "budgets": config.budgets, "sampler": config.sampler, "seed": config.seed,
        "trials_asked": config.trials,
        "proxy": {**recipe.to_dict(), "corpus": dataset.source, "corpus_digest": dataset.folder.name,
                  "corpus_notes": list(dataset.notes), "vocabulary": dataset.vocab},
        "host": {"cpu": platform.processor() or platform.machine(), "workers": config.workers,
                 "python": platform.python_version(), **packages},
    }
