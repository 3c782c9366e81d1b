"""The front of finished runs for another budget, device, workload or other objectives, with nothing trained
again.

The networks keep their losses; their metrics are estimated anew. A genotype whose width under the new
question is
another one is a network that nobody trained: such genotypes are listed, the most promising first (refit.py).
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError, RunError, TableError
from flashnas.base.registry import foreign_errors
from flashnas.latency.certificate import Certificate
from flashnas.latency.costs import CostFunction, Costs, OwnCosts, RecordedCosts, TableCosts, metric_of
from flashnas.latency.fitting import Fitter, excess
from flashnas.latency.metrics import METRICS, PREDICTED, Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS, Workload, load_workload
from flashnas.reuse.known import KnownRuns, Trained, known_runs
from flashnas.runs.front import ForeignNetwork, FrontEntry, recorded
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import DEFAULT, TRAINED, check_objectives, point
from flashnas.search.pareto import non_dominated
from flashnas.space import SearchSpace
from flashnas.study.front import IN_ENTRY
from flashnas.study.identity import table_hash
from flashnas.study.refit import MOST_REFITS, Refit, genotypes_of, refits, vars_of
from flashnas.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Rebudgeted:
    """The answer to another question.

    Attributes:
        run: the trained networks under the new question, as a run: those within the budgets have a loss in
            its trials, and its front is theirs. It has no folder until it is written.
        trained: networks that were trained.
        outside: of them, those outside the budgets.
        unanswered: reason -> networks that the table cannot answer.
        nearest: of the network that is nearest to the budgets, where none meets them: its metrics.
        refits: genotypes of the runs that would have to be trained, at another width or past a rung, the most
            promising first.
        tokens_each: training tokens of one of them; 0 with an evaluator of the user's.
        seconds_each: mean time of a training in the runs; None where nothing was trained in them.
        genotypes: all that the runs tried, or proposed; 0 where no other width is known. too_large: of them,
            those without a width within the budgets.
        commands: the searches that would train the refits and go on from all that is known, one for each
            space.
        notes: what a reader has to know.
    """

    run: RecordedRun
    trained: int
    outside: int
    unanswered: dict[str, int]
    nearest: dict[str, float] | None
    refits: tuple[Refit, ...]
    genotypes: int
    too_large: int
    tokens_each: int
    seconds_each: float | None
    commands: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def front(self) -> tuple[FrontEntry, ...]:
        """Fastest first."""
        return self.run.front

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "runs": self.run.config["runs"], "table": (self.run.config["table"] or {}).get("name"),
            "workload": self.run.config["workload"], "budgets": self.run.config["budgets"],
            "objectives": list(self.run.objectives), "confidence": self.run.confidence,
            "front": [{"notation": entry.notation, "hash": entry.hash, **entry.figures,
                       "origin": entry.origin}
                      for entry in self.front],
            "networks": {"trained": self.trained, "outside": self.outside, "unanswered": self.unanswered},
            "nearest": self.nearest,
            "to_train": {"count": len(self.refits), "genotypes": self.genotypes, "too_large": self.too_large,
                         "tokens_each": self.tokens_each, "seconds_each": self.seconds_each,
                         "networks": [refit.to_dict() for refit in self.refits],
                         "commands": list(self.commands)},
            "notes": list(self.notes)}


def rebudget(sources: Sequence[str | Path | RecordedRun], *,
             table: str | LatencyTable | CostFunction | None = None,
             workload: str | Workload | None = None, mode: str | None = None,
             budgets: Mapping[str, float] | None = None, objectives: Sequence[str] | None = None,
             confidence: float | None = None, space: SearchSpace[Any] | None = None) -> Rebudgeted:
    """The front of runs for another question. What is None is as in the first run; budgets are so only for
    the same table and workload, since a limit in milliseconds means nothing on another device.

    Raises:
        RunError: a folder is not a run, or the losses of the runs do not compare.
        ConfigError: the runs did not train an objective, or their networks cannot be timed by the table.
        BudgetError: no network of the runs meets the budgets, at any width that is known.
        TableError, WorkloadError: the table or workload cannot be read, or the table answers for no network.
    """
    known = known_runs(sources, space)
    _check_space(known, space)
    first = known.runs[0]
    asked = tuple(objectives or first.objectives)
    names = check_objectives(asked, "pareto.objectives")
    _check_trained(known, names)
    mode = mode or (first.entry("question", "mode") if table is None else None)
    costs, model, notes = _costs(known, table, workload, mode)
    other = table is not None or workload is not None
    limits = dict(budgets) if budgets is not None else {} if other else _limits(first)
    confidence = confidence if confidence is not None or other else first.confidence
    certificate = _certificate(known, model, confidence)
    bounds = [Budget(name, limit) for name, limit in limits.items()]
    tightened = certificate.tightened(bounds) if certificate else bounds

    within: list[tuple[Trained, dict[str, float]]] = []
    outside: list[tuple[Trained, dict[str, float]]] = []
    unanswered: Counter[str] = Counter()
    for one in known.networks:
        try:
            metrics = costs.metrics(_network(one))
        except MissingRowsError as error:
            unanswered[str(error)] += 1
            continue
        fits = all(budget.holds(metric_of(budget.metric, metrics)) for budget in tightened)
        (within if fits else outside).append((one, metrics))
    if not within and not outside:
        raise TableError(f"{next(iter(unanswered))} (and so for all {len(known)} networks of the runs)")
    scored = [(one, metrics, values) for one, metrics in within if (values := point(
        names, {**vars_of(one.row), **metrics}, one.row.scores)) is not None]
    mask = non_dominated(np.array([values for _, _, values in scored])) if scored else np.zeros(0, dtype=bool)
    front = np.array([values for (_, _, values), keep in zip(scored, mask, strict=True) if keep]
                     ).reshape(-1, len(names))
    trials = _trials([*within, *outside], len(within), named=len(known.runs) > 1)
    best = sorted((i for i, keep in enumerate(mask) if keep), key=lambda i: scored[i][1].get("latency_ms",
                                                                                             0.0))
    places = {one.row.hash: number for number, (one, _) in enumerate(within)}
    entries = tuple(_entry(one, metrics, costs, certificate, number, places[one.row.hash],
                           len(known.runs) > 1)
                    for number, (one, metrics) in enumerate(((scored[i][0], scored[i][1]) for i in best),
                                                            start=1))
    run = RecordedRun(first.path, _config(known, model, limits, confidence, names), trials, entries)
    found, fitting, commands = _to_train(known, costs, model, tightened, names, front, limits, confidence,
                                         mode, table,
                                         notes)
    if not within and not found:
        raise _none_fits(known, costs, tightened, outside)
    seconds = [one.row.train_seconds for one in known.networks if one.row.source in ("training", "evaluator")
               and one.row.train_seconds == one.row.train_seconds]
    recipe = _recipe(first)
    return Rebudgeted(
        run=run, trained=len(known), outside=len(outside), unanswered=dict(unanswered),
        nearest=_nearest([metrics for _, metrics in outside], tightened) if not within else None,
        refits=tuple(found),
        genotypes=len(fitting), too_large=fitting.count(False),
        tokens_each=0 if recipe is None else recipe.steps * recipe.batch_tokens,
        seconds_each=float(np.mean(seconds)) if seconds else None, commands=tuple(commands),
        notes=tuple(notes))


# -- the new question ----------------------------------------------------------------------------------------


def _limits(run: RecordedRun) -> dict[str, float]:
    return {str(name): float(limit) for name, limit in (run.entry("budgets") or {}).items()}


def _check_space(known: KnownRuns, space: Any) -> None:
    """Raise ConfigError for a space that is not one, or that none of the runs searched."""
    if space is None:
        return
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"pareto.space must be a SearchSpace; got {space!r:.60}")
    if all(run.entry("space", "hash") != space.hash for run in known.runs):
        raise ConfigError(f"pareto.space: {space.name!r} is not the space of {known.runs[0].path} as it was"
                          f" searched,"
                          f" {known.runs[0].entry('space', 'name')!r}")


def _check_trained(known: KnownRuns, names: Sequence[str]) -> None:
    """Raise ConfigError for an objective that no network of the runs has."""
    for name in (name for name in names if name in TRAINED and name != "loss"):
        for run in known.runs:
            column = run.trials.get(name)
            if column is None or column.isna().all():
                raise ConfigError(f"pareto.objectives names {name!r}, which {run.path} did not train")


def _costs(known: KnownRuns, table: Any, workload: str | Workload | None, mode: str | None,
           ) -> tuple[Costs, LatencyModel | None, list[str]]:
    """The metrics under the new question, the latency model where a table answers, and notes."""
    first = known.runs[0]
    question = first.entry("question")
    notes = [f"{run.path}: not finished; {len(run.trained)} networks are trained so far" for run in known.runs
             if not run.entry("finished")]
    if callable(table) and not isinstance(table, LatencyTable):
        _check_networks(known, "a function")
        return OwnCosts(table), None, notes
    if table is None and question.get("table_hash") is None:
        if workload is not None:
            raise ConfigError(f"pareto.workload needs a latency table, and {first.path} was searched without"
                              f" one; give"
                              " a table, too")
        return RecordedCosts({one.row.hash: one.metrics() for one in known.networks}), None, notes
    _check_networks(known, "a latency table")
    for one in known.networks:
        if not isinstance(one.network, Architecture):
            raise ConfigError(f"pareto.table: the networks of {one.run.path} are not of flashnas, and a"
                              f" latency table"
                              " cannot answer for them; give a function network -> latency_ms")
    asked = table if table is not None else question["table"]
    try:
        loaded = asked if isinstance(asked, LatencyTable) else LatencyTable.load(asked)
    except TableError as error:
        if table is not None:
            raise
        raise TableError(f"{error} (the table of {first.path}; give another one with --table)") from None
    if table is None and table_hash(loaded) != question["table_hash"]:
        notes.append(f"table {asked}: has changed since {first.path} was searched; the estimates are of the"
                     f" table as"
                     " it is now")
    if workload is None:
        recorded_workload = question.get("workload")
        if not isinstance(recorded_workload, dict):
            raise ConfigError(f"pareto.workload is required: {first.path} was searched without one")
        workload = Workload(**recorded_workload)
    model = LatencyModel(loaded, load_workload(workload), mode=mode)
    return TableCosts(model), model, notes


def _check_networks(known: KnownRuns, what: str) -> None:
    """Raise RunError where a network cannot be built again."""
    for one in known.networks:
        if one.network is None:
            raise RunError(f"{one.run.path}: trial {one.row.number}: its network cannot be built again"
                           f" without the"
                           f" space {one.run.entry('space', 'name')!r} as it was, and {what} needs it;"
                           f" fn.pareto takes"
                           " the space")


def _network(one: Trained) -> Any:
    """The network, or in place of it what its run recorded."""
    return one.network if one.network is not None else ForeignNetwork("", one.row.notation, one.row.hash, {})


def _certificate(known: KnownRuns, model: LatencyModel | None,
                 confidence: float | None) -> Certificate | None:
    if confidence is None:
        return None
    if model is None:
        raise ConfigError("pareto.confidence needs a latency table")
    space = known.runs[0].config["space"]
    return Certificate.of(model.table, model.workload, space_name=space["name"], space_hash=space["hash"],
                          confidence=confidence)


def _nearest(metrics: Sequence[Mapping[str, float]], budgets: Sequence[Budget]) -> dict[str, float] | None:
    """The budgeted metrics of the network that exceeds its budgets least."""
    if not metrics or not budgets:
        return None
    best = min(metrics, key=lambda found: _exceeds(found, budgets))
    return {budget.metric: best[budget.metric] for budget in budgets}


def _exceeds(metrics: Mapping[str, float], budgets: Sequence[Budget]) -> float:
    return max(excess(metric_of(budget.metric, metrics), budget) for budget in budgets)


# -- the answer as a run -------------------------------------------------------------------------------------


def _trials(networks: Sequence[tuple[Trained, Mapping[str, float]]], within: int, *,
            named: bool) -> pd.DataFrame:
    """The trials of all networks with their new metrics; those outside the budgets have no loss."""
    frame = pd.DataFrame([{
        **vars_of(one.row), **dict.fromkeys(PREDICTED, np.nan), **metrics, "number": number,
        "state": "complete",
        "label": (f"{one.row.label} of {one.run.name}" if named and one.row.label else one.row.label),
        **({} if number < within else {"loss": np.nan, "state": "infeasible",
                                       "reason": "outside the budgets"})}
        for number, (one, metrics) in enumerate(networks)])
    return frame.reset_index(drop=True)


def _entry(one: Trained, metrics: Mapping[str, float], costs: Costs, certificate: Certificate | None,
           number: int,
           place: int, named: bool) -> FrontEntry:
    values = {**vars_of(one.row), **dict.fromkeys(METRICS), **metrics}
    figures = {name: None if values[name] is None or values[name] != values[name] else float(values[name])
               for name in IN_ENTRY}
    if one.seeds > 1:
        figures.update(seeds=one.seeds, loss_se=float(values["loss_se"]))
    if certificate and isinstance(costs, TableCosts) and isinstance(one.network, Architecture):
        figures["bound_ms"] = certificate.bound(costs.estimate(one.network), "latency_ms")
    origin = {"number": place, "label": one.row.label or "search", "trial": int(one.row.number),
              **({"run": one.run.name} if named else {})}
    network = _network(one)
    return FrontEntry(notation=one.row.notation, hash=one.row.hash,
                      architecture=network if isinstance(network, ForeignNetwork) else recorded(network),
                      figures={**figures, **one.row.scores}, origin=origin, number=number,
                      path=Path(f"{number:02d}.yaml"), **costs.details(network))


def _config(known: KnownRuns, model: LatencyModel | None, budgets: Mapping[str, float],
            confidence: float | None,
            objectives: Sequence[str]) -> dict[str, Any]:
    """The head of run.yaml, without a question: such a folder is not continued."""
    first = known.runs[0]
    same = {key: first.entry(key) for key in ("flashnas", "space", "table", "workload", "seed", "proxy")}
    if model is not None:
        same |= {"workload": model.workload.to_dict(), "table": {
            "name": model.table.name, "device": model.table.device.label or model.table.name,
            "stack": model.table.stack, "mode": model.table.default_mode, "weights": model.dtype}}
    return {**same, "runs": [str(run.path) for run in known.runs], "budgets": dict(budgets),
            "confidence": confidence,
            "objectives": list(objectives)}


# -- what would have to be trained ---------------------------------------------------------------------------


def _recipe(run: RecordedRun) -> Recipe | None:
    recipe = run.entry("question", "recipe")
    return None if recipe is None else Recipe.from_dict(recipe)


def _to_train(known: KnownRuns, costs: Costs, model: LatencyModel | None, budgets: Sequence[Budget],
              objectives: Sequence[str], front: np.ndarray, limits: Mapping[str, float],
              confidence: float | None,
              mode: str | None, table: Any, notes: list[str]) -> tuple[list[Refit], list[bool], list[str]]:
    """Refits of all spaces of the runs; for each genotype, whether it has a width within the budgets; the
    commands that train and search on."""
    if isinstance(costs, RecordedCosts):
        notes.append("the metrics are those that the runs recorded; no other width is known")
        return [], [], []
    found: list[Refit] = []
    fits: list[bool] = []
    commands = []
    spaces = {space.hash: space for space in known.spaces if space is not None}
    for run, own in zip(known.runs, known.spaces, strict=True):
        if own is None:
            notes.append(f"{run.path}: its space {run.entry('space', 'name')!r} is not at hand as it was;"
                         f" what would"
                         " have to be trained of it is not known")
    for space in spaces.values():
        runs = [run for run, own in zip(known.runs, known.spaces, strict=True)
                if own is not None and own.hash == space.hash]
        fitter = Fitter(space, costs, budgets)
        with foreign_errors(("space", space), direct=False):
            some = refits(space, fitter, costs, known, objectives=objectives, front=front)
            for genotype in genotypes_of(space, known):
                with contextlib.suppress(MissingRowsError):
                    fits.append(fitter.latency_of(genotype)[0] is not None)
        found += some
        command = _command(known, runs[0], model, limits, objectives, confidence, mode, table, len(some))
        if command is not None:
            commands.append(command)
    found.sort(key=lambda one: -(one.gain or 0.0))  # stable: without gains the order of each space remains
    return found, fits, commands


def _none_fits(known: KnownRuns, costs: Costs, budgets: Sequence[Budget],
               outside: Sequence[tuple[Trained, Mapping[str, float]]]) -> BudgetError:
    """Neither a trained network nor a width of a genotype meets the budgets: the nearest of all."""
    found = [(one.row.notation, metrics) for one, metrics in outside]
    for space in () if isinstance(costs, RecordedCosts) else {own.hash: own for own in known.spaces
                                                              if own}.values():
        for genotype in genotypes_of(space, known):
            with foreign_errors(("space", space), direct=False), contextlib.suppress(MissingRowsError):
                network = space.architectures(genotype)[-1]
                found.append((network.notation, costs.metrics(network)))
    notation, metrics = min(found, key=lambda one: _exceeds(one[1], budgets))
    listed = ", ".join(f"{b.metric} {metrics[b.metric]:,.4g} (budget {b.limit:,.6g})" for b in budgets)
    return BudgetError(f"no network of the runs meets the budget; the nearest that is known has {listed}:"
                       f" {notation}")


def _command(known: KnownRuns, run: RecordedRun, model: LatencyModel | None, limits: Mapping[str, float],
             objectives: Sequence[str], confidence: float | None, mode: str | None, table: Any, count: int,
             ) -> str | None:
    """`flashnas search ..` from the runs for the new question; None where the command line cannot say it."""
    question, recipe = run.entry("question"), _recipe(run)
    if recipe is None or model is None:
        return None
    table = question["table"] if table is None else table.path if isinstance(table, LatencyTable) else table
    space = run.entry("space", "path") or run.entry("space", "name")
    workload = model.workload
    named = workload.name if WORKLOADS.get(workload.name) == workload else ",".join(
        f"{name}={value}" for name, value in (("batch", workload.batch), ("prompt", workload.prompt_tokens),
                                              ("generated", workload.generated_tokens),
                                              ("dtype", workload.dtype)))
    words = ["flashnas", "search", "--space", _short_space(run, str(space)), "--table",
             str(table), "--workload", named]
    words += ["--mode", mode] if mode else []
    for name, limit in limits.items():
        words += ["--budget-ms", f"{limit:.10g}"] if name == "latency_ms" else ["--budget",
                                                                                f"{name}={limit:.10g}"]
    words += ["--objectives", ",".join(objectives)] if tuple(objectives) != DEFAULT else []
    words += ["--confidence", f"{confidence:g}"] if confidence else []
    words += ["--data", str(question["data"])] if question.get("data") not in (None, "sotu") else []
    words += ["--tokenizer", str(question["tokenizer"])] if question.get("tokenizer") else []
    words += ["--seed", str(question["seed"])] if question["seed"] else []
    for one in known.runs:
        words += ["--start-from", str(one.path)]
    return shlex.join([*words, "--trials", str(2 * min(count, MOST_REFITS) or MOST_REFITS)])


def _short_space(run: RecordedRun, path: str) -> str:
    """The name of a shipped space, else its file."""
    from flashnas.base.shipped import shipped_names

    name = str(run.entry("space", "name"))
    return name if name in shipped_names("search_spaces", ".yaml") else path
