"""The loss as a law of depth, width and tokens, and the depth and width that suit a latency budget."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashnas.api.calling import (
    Figures,
    check_out,
    data_option,
    recipe_option,
    silent,
    table_option,
    takes,
    tokenizer_option,
    with_files,
    workers_option,
    workload_option,
)
from flashnas.base.quantities import MAX_TOKENS
from flashnas.base.settings import Settings, option

if TYPE_CHECKING:
    import pandas as pd

    from flashnas.training.store import Progress

FOUND, PICTURE = "scaling_law.json", "scaling_law.png"


@dataclass(frozen=True, kw_only=True)
class ScalingLawOptions(Settings, where="scaling_law"):
    pattern: str | None = option(None, "operators of one block, such as 'm2 f'", positional=True)
    results: str | None = option(
        None, "fit a table of trainings (CSV, parquet, or trainings.jsonl) and train nothing", metavar="FILE")
    depths: tuple[int, ...] = option(
        (3, 6, 12, 24), "numbers of blocks", metavar="A,B,..", separator=",", min=1, max=2048)
    widths: tuple[int, ...] = option(
        (512, 1024, 1536, 2048), "hidden sizes, which the recipe's width factor divides", metavar="A,B,..",
        separator=",", min=1, max=2**20)
    tokens: tuple[int, ...] = option(
        (32_768, 65_536, 131_072), "training tokens, each a training of its own", metavar="A,B,..",
        separator=",", min=1, max=MAX_TOKENS)
    seeds: int = option(1, "trainings of each size", metavar="N", min=1, max=10_000)
    recipe: str = recipe_option("cpu")
    data: str = data_option()
    tokenizer: str | None = tokenizer_option()
    table: str = table_option()
    workload: str = workload_option("decode-8k")
    budget_ms: float | None = option(
        None, "answer which depth and width has the lowest loss within this latency_ms", metavar="MS",
        above=0)
    at_tokens: int | None = option(
        None, "training tokens for which losses are given", metavar="N", shown="the largest trained count",
        min=1, max=MAX_TOKENS)
    workers: int = workers_option()
    out: Path | None = option(
        None, "folder of the trainings, continued if it exists", metavar="DIR",
        shown="experiments/runs/scaling-law-<pattern>; with --results the folder of FILE", yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern is None and self.results is None:
            self.wrong("pattern", "is required to train; or give --results FILE")
        for name in ("depths", "widths", "tokens"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or not values:
                self.wrong(name, f"must be different numbers; got {','.join(map(str, values)) or 'none'}")
        if self.results is not None:
            return
        for name in ("depths", "widths"):
            if len(getattr(self, name)) < 2:
                self.wrong(name, "needs two values or more, since the law has a term for them; got only"
                           f" {getattr(self, name)[0]}")
        sizes = len(self.depths) * len(self.widths) * len(self.tokens)
        constants = 7 if len(self.tokens) > 1 else 5
        if sizes < constants:
            self.wrong("depths", f"times widths times tokens must be at least {constants}, as many sizes as"
                                 f" the law has constants; got {sizes}")


@takes(ScalingLawOptions)
def scaling_law(options: ScalingLawOptions, *, progress: Progress = silent) -> Figures:
    """Fit `L0 + a depth^-alpha + b width^-beta + c tokens^-gamma` to a grid of trainings; choose depth and
    width by it.

    The grid is trained first, or loaded by `results`. A depth is the number of blocks of the pattern. Each
    token count is a training of its own. Every training is kept in the folder; an interrupted grid continues
    where it stopped. The largest depths and widths are held out of a second fit, which says how far the law
    can be extrapolated.

    Returns:
        Figures: `law` (L0, a, alpha, b, beta, c, gamma and their `intervals`), `held_out` (the largest sizes
        with `loss`, `predicted` and `error`), `extrapolation_error`, the largest of these errors,
        `by_budget`, the best size for some latencies, and `answer` (`depth`, `width`, `notation`, `loss` and
        `latency_ms`), that for the budget. `print` shows them.

    Raises:
        ConfigError: for a pattern, recipe or option that cannot be used.
        RunError: for a table of trainings that is damaged, or that holds fewer sizes than the law has
            constants.
        BudgetError: no size is within the budget.
        MissingRowsError: the latency table lacks what the pattern needs.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe(width_factor=1, vocab=300, sequence_tokens=32, batch_sequences=2,
        ...                    validation_tokens=64, curve_tokens=32, dtype="float32")
        >>> found = fn.scaling_law("d(head_dim=16) f", depths=[1, 2, 3], widths=[16, 32, 48], tokens=[64],
        ...                        workers=1, recipe=recipe, data="my_texts", out="my_law", workload="chat",
        ...                        budget_ms=2_000)
        >>> found.answer["latency_ms"] <= 2_000, len(found.held_out)
        (True, 1)
    """
    from flashnas.base.files import write_atomic
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.workload import load_workload
    from flashnas.report.study_figures import save, scaling_picture
    from flashnas.report.terminal_studies import scaling_headline, scaling_text
    from flashnas.trust.depth_width import Sizes, findings
    from flashnas.trust.scaling_grid import block

    if options.pattern is not None:
        block(options.pattern, 1, options.widths[0])  # a pattern that does not parse is said first
    table = LatencyTable.load(options.table)
    model = LatencyModel(table, load_workload(options.workload))
    file, trainings, out = _trainings(options, progress)
    fitted = findings(trainings, place=str(file))
    pattern = options.pattern or str(trainings["pattern"].iloc[0])
    if not pattern:
        options.wrong("pattern", f"is required: {file} has no column pattern")
    sizes = Sizes(pattern, fitted, model, options.at_tokens)
    answer = None if options.budget_ms is None else sizes.answer(options.budget_ms)
    summary = {"pattern": pattern, "results": str(file), "picture": str(out / PICTURE), **fitted.to_dict(),
               "table": table.name, "workload": model.workload.name, "tokens": sizes.tokens, "answer": answer,
               "by_budget": [{**size.to_dict(), "budget_ms": budget_ms}
                             for budget_ms, size in sizes.ladder()]}
    best = None if options.budget_ms is None else sizes.best(options.budget_ms)
    picture = scaling_picture(fitted, sizes, scaling_headline(summary), best, options.budget_ms)
    save(picture, out / PICTURE)
    write_atomic(out / FOUND, json.dumps(summary, indent=1))
    return with_files(summary, scaling_text)


def _trainings(options: ScalingLawOptions, progress: Progress) -> tuple[Path, pd.DataFrame, Path]:
    """-> the file of the trainings, its rows, and the folder to write to."""
    from flashnas.training.recipe import Recipe
    from flashnas.training.store import read_table
    from flashnas.trust.scaling_grid import FILE, Grid, GridTraining, of_one_kind, train_grid

    if options.results is not None:
        file = Path(options.results)
        table = of_one_kind(read_table(file, GridTraining), file, options.pattern)
        out = file.parent if options.out is None else check_out(options)
        out.mkdir(parents=True, exist_ok=True)
        return file, table, out
    assert options.pattern is not None
    named = "-".join("".join(letter if letter.isalnum() else " " for letter in options.pattern).split())
    out = Path(f"experiments/runs/scaling-law-{named}") if options.out is None else check_out(options)
    recipe = Recipe.load(options.recipe)
    grid = Grid(pattern=options.pattern, depths=options.depths, widths=options.widths, tokens=options.tokens,
                seeds=options.seeds, recipe=recipe, data=options.data, tokenizer=options.tokenizer)
    return out / FILE, train_grid(grid, out, workers=options.workers, progress=progress), out
