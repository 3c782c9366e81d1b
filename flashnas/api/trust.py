"""How far the order of short trainings is to be trusted: against longer trainings, and against published
ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashnas.api.calling import Figures, recipe_option, silent, takes, with_files, workers_option
from flashnas.base.settings import BARE, Settings, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashnas.training.store import Progress


RULES = ("params", "layout")  # of flashnas.evidence.proxies


@dataclass(frozen=True, kw_only=True)
class ProxyTrustOptions(Settings, where="proxy_trust"):
    run: str | None = option(
        None, "finished run folder, such as experiments/runs/first_search", positional=True)
    results: str | None = option(
        None, "analyse a table of trainings (CSV, parquet, or proxy_trust.jsonl) and train nothing",
        metavar="FILE")
    published: str | None = option(
        None, "hold short trainings and models of published ones against what was published; FILE: a CSV in"
        " place of the shipped one", metavar="[FILE]")
    recipe: str = recipe_option("cpu", ", for --published")
    data: str = option("sotu", "text to train on, for --published", metavar="TEXT")
    match: str = option(
        "params", "what a proxy has as its published row has it: params or layout", choices=RULES)
    bench: bool = option(
        True, "take the trainings that a shipped bench has, for --published",
        off="train every network, also those that a bench has a score for")
    train: bool = option(
        True, "train what no bench and no earlier study has, for --published", off="train nothing: rows"
        " without a short training are foretold by the others alone")
    out: str | None = option(
        None, "folder of the results, for --published", metavar="DIR",
        shown="experiments/runs/published_RECIPE")
    architectures: int = option(
        24, "how many, the front first, then spread over the ranking", metavar="N", min=3, max=1_000_000)
    seeds: int | None = option(
        None, "trainings of each kind, the run's own one included", metavar="N",
        shown="2; with --published 1", min=1, max=10_000)
    longer: int = option(
        4, "tokens of a long training over those of the run", metavar="N", min=2, max=1_000_000)
    wider: int | None = option(
        None, "also train networks N times as wide", metavar="N", shown="no such trainings", min=2, max=4096)
    workers: int = workers_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(way is not None for way in (self.run, self.results, self.published)) != 1:
            self.wrong("run", "or --results FILE or --published must be given, and only one of them")
        if not self.train and self.published is None:
            self.wrong("train", "needs --published")


@takes(ProxyTrustOptions)
def proxy_trust(options: ProxyTrustOptions, *, progress: Progress = silent,
                note: Callable[[str], None] = silent) -> Figures:
    """Train some networks of a finished run longer and with more seeds, and say how far the run's order
    holds.

    With `published`, say how well four models foretell what others have trained in full: `short` (the loss of
    a short training), `law` (size and shape), `evidence` (law and mix), `full` (evidence and short loss). A
    row is foretold by models that have not seen its publication. `"shipped"` stands for the rows that
    flashnas ships. The short trainings that are missing are trained; what a shipped bench has under the same
    recipe, text and seed is not trained again, unless `bench=False`. `train=False` trains nothing.

    Every training is kept in the folder; an interrupted study continues where it stopped.

    Returns:
        Figures: `verdict`, one sentence for each figure that matters; the agreements between short and
        longer trainings, and the noise between seeds; with `published` the agreement with published
        trainings, over all and by group. `print` shows them.

    Raises:
        ConfigError: the CSV of published rows is wrong, by file and line.
        RunError: the run is not finished, holds too few networks, or its text has changed.
        ConfigError: an option does not fit the run.

    Example:
        >>> import flashnas as fn
        >>> trust = fn.proxy_trust("my_run", architectures=3, seeds=2, longer=2, workers=1)
        >>> trust.architectures
        3
    """
    if options.published is not None:
        return _published(options, progress, note)
    from flashnas.base.files import write_atomic
    from flashnas.report.sections import TRUST_PICTURE, TRUST_RESULT
    from flashnas.report.study_figures import save, trust_picture
    from flashnas.report.terminal_trust import headline, trust_text, verdict
    from flashnas.runs.run import RecordedRun
    from flashnas.trust.study import FILE, Plan, study, study_results

    if options.results is not None:
        results = Path(options.results)
        table, trust = study_results(results)
    else:
        assert options.run is not None
        plan = Plan(architectures=options.architectures, seeds=options.seeds or 2, longer=options.longer,
                    wider=options.wider)
        searched = RecordedRun.load(options.run)
        results = searched.path / FILE
        table, trust = study(searched, plan, workers=options.workers, progress=progress)
    picture = results.parent / TRUST_PICTURE
    values = trust.to_dict()
    save(trust_picture(table, headline(values)), picture)
    summary = {"run": options.run, "results": str(results), "picture": str(picture),
               "verdict": verdict(values), **values}
    if options.run is not None:
        write_atomic(results.parent / TRUST_RESULT, json.dumps(summary))  # for flashnas report
    return with_files(summary, trust_text)


def _published(options: ProxyTrustOptions, progress: Progress, note: Callable[[str], None]) -> Figures:
    from flashnas.evidence.trainings import read_published
    from flashnas.report.study_figures import PUBLISHED_PICTURE, published_picture, save
    from flashnas.report.terminal_trust import published_text, published_verdict
    from flashnas.training.recipe import Recipe
    from flashnas.trust.published_study import PublishedPlan, study_published

    assert options.published is not None
    recipe = Recipe.load(options.recipe)
    rows = read_published(None if options.published == BARE else options.published)
    plan = PublishedPlan(rows=rows, recipe=recipe, data=options.data, rule=options.match,
                         seeds=options.seeds or 1, bench=options.bench, train=options.train)
    folder = Path(options.out or f"experiments/runs/published_{recipe.name}")
    study = study_published(plan, folder, workers=options.workers, progress=progress, note=note)
    values, picture = study.to_dict(), folder / PUBLISHED_PICTURE
    save(published_picture(rows, study.models, values["models"]), picture)
    summary = {"published": options.published, "verdict": published_verdict(values), **values,
               "picture": str(picture)}
    return with_files(summary, published_text)
