"""flashnas-bench: grow one, make its file, show what it holds. `flashnas.bench.load` reads it as a
DataFrame."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.api.calling import (
    SPACE,
    Figures,
    check_out,
    data_option,
    recipe_option,
    silent,
    takes,
    tokenizer_option,
    workers_option,
    workload_option,
)
from flashnas.base.quantities import MAX_TOKENS
from flashnas.base.settings import MAX_THREADS, REQUIRED, Settings, option, usable_cores

if TYPE_CHECKING:
    from flashnas.bench import Bench
    from flashnas.bench.plan import Given
    from flashnas.training.recipe import Recipe



@dataclass(frozen=True, kw_only=True)
class GrowBenchOptions(Settings, where="grow_bench"):
    out: Path | None = option(
        None, "folder of journals, continued if it exists", metavar="DIR", shown="experiments/bench/<recipe>")
    recipe: str = recipe_option("cpu")
    data: str = data_option()
    tokenizer: str | None = tokenizer_option()
    tokens: int | None = option(
        None, "training tokens of each network", metavar="N", shown="the recipe's", min=1, max=MAX_TOKENS)
    networks: tuple[Path, ...] = option(
        (), "CSV of networks to train first, with the columns origin, architecture and, if any, width_factor"
        " and proxy; may be repeated", metavar="FILE")
    published: str | None = option(
        None, "train the networks of publications first, in the sizes that this rule of flashnas proxy-trust"
        " gives them", choices=("params", "layout"))
    spaces: tuple[str, ...] = option(
        ("nemotron_flash", "layerwise", "nemotron_flash", "layerwise", "small", "tiny"),
        "shipped search space or YAML file that networks are drawn from; may be repeated, also with the same"
        " one, for a larger share", flag="--space", objects=(SPACE,))
    trainings: int = option(
        420, "length of the list, further seeds included", metavar="N", min=1, max=1_000_000)
    seeds: int = option(3, "under which some networks are trained", metavar="N", min=1, max=1000)
    repeat_every: int = option(
        6, "every N-th network is trained under all seeds, the others under seed 0", metavar="N", min=1,
        max=1_000_000)
    part: str = option(
        "1/1", "train only this part of the list, such as 2/3; the parts share no training", metavar="K/N")
    workers: int = workers_option("worker processes, one thread each, at low priority")
    timeout_s: float = option(7200.0, "time limit of one training, in seconds", metavar="S", min=1, max=1e7)
    dry_run: bool = option(False, "say what the list holds; train nothing", yaml=False)

    @property
    def place(self) -> tuple[int, int]:
        """(part, parts)."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            self.wrong("part", f"must read K/N with K from 1 to N, such as 2/3; got {self.part!r}")
        return int(match[1]), int(match[2])

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.place
        if not (self.spaces or self.networks or self.published):
            self.wrong("spaces", "must name a space, or networks a file")


@takes(GrowBenchOptions)
def grow_bench(options: GrowBenchOptions, *, progress: Callable[..., None] = silent) -> Figures:
    """Train the networks of a bench that no journal of its folder has yet, at low priority.

    The list depends on the options only. A longer list starts with the shorter one, and every prefix of it is
    balanced over mixers, their order, depths and widths. Each finished training is in a journal at once. A
    killed process loses only what it was training, and the same call goes on.

    Returns:
        Figures: `journal`, the file that was written; trainings `asked` for, `known` before, `trained` and
        `failed` now, and `lost` with their worker process; `balance`, what the list holds, by origin, mixer,
        depth, width and seed. `print` shows them.
    """
    from dataclasses import replace

    from flashnas.base.process import terminate_as_interrupt
    from flashnas.bench.journal import Header, grow, journals_in, merged, train_gently
    from flashnas.bench.plan import balance, part_of, plan, read_networks
    from flashnas.data.dataset import prepare_dataset
    from flashnas.executors.local import WorkerPool
    from flashnas.space.load import load_operator_space
    from flashnas.training.job import with_overrides
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import check_device

    recipe = with_overrides(Recipe.load(options.recipe), tokens=options.tokens)
    check_device(recipe)
    options = replace(options, out=options.out or Path("experiments/bench") / recipe.name)
    folder = check_out(options)
    paths = journals_in(folder) if folder.is_dir() else []
    if folder.is_dir() and not paths and any(not path.name.startswith(".") for path in folder.iterdir()):
        options.wrong("out", f"{folder}: exists and holds no journal of a bench; choose another folder")
    spaces = [load_operator_space(space, "flashnas bench grow") for space in options.spaces]
    first = [network for file in options.networks for network in read_networks(file)]
    dataset = prepare_dataset(options.data, recipe, options.tokenizer)
    if options.published is not None:
        first = [*_published(recipe, dataset.vocab, options), *first]
    planned = plan(first, spaces, recipe, vocab=dataset.vocab, trainings=options.trainings,
                   seeds=options.seeds, repeat_every=options.repeat_every)
    part, parts = options.place
    asked = part_of(planned, part, parts)
    name = "trainings.jsonl" if parts == 1 else f"trainings-{part}-of-{parts}.jsonl"
    if options.dry_run:
        stored = {training.key for training in merged(paths)[1]} if paths else set()
        counts = {"asked": len(asked), "known": sum(each.key in stored for each in asked)}
    else:
        header = Header.here(recipe, options.data, dataset.digest, dataset.vocab)
        with terminate_as_interrupt(), WorkerPool(train_gently, workers=options.workers,
                                                  timeout_s=options.timeout_s) as pool:
            counts = grow(asked, folder / name, header, dataset.folder, pool, progress, options.workers)
    return Figures({"journal": str(folder / name), **counts, "balance": balance(asked)}, _grown)


def _grown(values: dict[str, Any]) -> str:
    lines = [f"{name:9} " + ", ".join(f"{key} {count}" for key, count in counts.items())
             for name, counts in values["balance"].items()]
    if "trained" not in values:
        return "\n".join([*lines, f"{values['journal']}: {values['asked']} trainings asked, {values['known']}"
                                  f" known"])
    lost = f", {values['lost']} lost with their worker process" if values["lost"] else ""
    return "\n".join([
        *lines, f"{values['journal']}: {values['trained']} trained now, {values['failed']} failed{lost},"
        f" {values['known']} known before, of {values['asked']}",
        f"make the table with: flashnas bench build --journals {Path(values['journal']).parent} --out DIR"])


def _published(recipe: Recipe, vocab: int, options: GrowBenchOptions) -> list[Given]:
    """The shipped rows of publications. At full width each is the one nearest to its published parameters
    among widths that are multiples of 256; what is trained in its place follows from the matching rule."""
    from flashnas.bench.plan import Given
    from flashnas.evidence.proxies import full_networks
    from flashnas.evidence.trainings import read_published
    from flashnas.trust.published_study import PublishedPlan

    rows = read_published()
    full = [min(full_networks(row), key=lambda network: abs(network.params - row.params)) for row in rows]
    assert options.published is not None
    trained = PublishedPlan(rows=rows, recipe=recipe, data=options.data,
                            rule=options.published).networks(vocab)
    return [Given(f"published:{row.group}", network, proxy=proxy)
            for row, network, proxy in zip(rows, full, trained, strict=True)]


@dataclass(frozen=True, kw_only=True)
class MeasureBenchOptions(Settings, where="measure_bench"):
    journals: Path = option(
        REQUIRED, "folder of journals; the measured latencies are put beside them", metavar="DIR")
    workload: str = workload_option("batch=1,prompt=64,generated=64")
    threads: int = option(1, "torch threads", metavar="N", min=1, max=MAX_THREADS)
    seconds: float = option(
        1.0, "longest time for each of the up to four timings of a network", metavar="S", above=0, max=3600)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads > usable_cores():
            self.wrong("threads", f"must be at most {usable_cores()}, the usable cores; got {self.threads}")


@takes(MeasureBenchOptions)
def measure_bench(options: MeasureBenchOptions, *,
                  progress: Callable[..., None] = silent) -> Figures:
    """Time the networks of a bench at full width on this CPU: reading the prompt, and one generation step.

    Weights are random. What the folder has already is kept; the same call goes on after an interruption.
    Times are right only while nothing else runs.

    Returns:
        Figures: networks that were `measured` now and `known` before, and those `too_large` for the memory.
    """
    from flashnas.bench.journal import journals_in, merged
    from flashnas.bench.measure import measure
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.device_timing import Effort
    from flashnas.profiling.setup import Setup

    workload = load_workload(options.workload)
    if workload.batch != 1:
        options.wrong("workload", f"must have batch 1; got {workload.batch!r}")
    _, trainings = merged(journals_in(options.journals))
    setup = Setup(threads=options.threads, effort=Effort(least=2, seconds=options.seconds))
    counts = measure((training.network for training in trainings), options.journals, setup, workload,
                     progress)
    return Figures({"journals": str(options.journals), **counts}, lambda values: (
        f"{options.journals}: {values['measured']} networks measured now, {values['known']} known before,"
        f" {values['too_large']} too large for the free memory"))


@dataclass(frozen=True, kw_only=True)
class BuildBenchOptions(Settings, where="build_bench"):
    journals: tuple[str, ...] = option(
        REQUIRED, "journal, or folder of journals; may be repeated, which merges them", metavar="PATH")
    out: Path = option(
        REQUIRED, "folder for bench.parquet and its card, such as bench_tables/cpu", metavar="DIR")


@takes(BuildBenchOptions)
def build_bench(options: BuildBenchOptions) -> Bench:
    """Make bench.parquet and its card of journals. Nothing is trained; latencies are predicted by the shipped
    tables.

    Returns:
        The written Bench, which prints.
    """
    out = check_out(options, holds="bench.parquet")

    from flashnas.bench.build import build
    from flashnas.bench.journal import journals_in, merged
    from flashnas.bench.measure import latencies_in

    places = [Path(place) for place in options.journals]
    header, trainings = merged([path for place in places for path in journals_in(place)])
    return build(header, trainings, out, latencies_in(places))


@dataclass(frozen=True, kw_only=True)
class BenchInfoOptions(Settings, where="bench_info"):
    bench: str | None = option(None, "shipped bench or folder", positional=True, shown="the shipped one")


@takes(BenchInfoOptions)
def bench_info(options: BenchInfoOptions) -> Bench:
    """What a bench holds and how it was trained.

    Returns:
        The Bench, which prints; `frame` holds its trainings.
    """
    from flashnas.bench import Bench

    return Bench.read(options.bench)
