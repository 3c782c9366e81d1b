"""What a search costs beside its trainings: efficiency with workers, time of the driver per
candidate, its memory.

Commands (from the repository root):

    python benchmarks/scaling.py driver                    # 10 to 60 minutes: every sampler, 10,000
    trials python benchmarks/scaling.py driver --samplers tpe --trials 2000 --workers 256 --cycle
    256 python benchmarks/scaling.py filled                    # 2 minutes: every sampler after
    5,000 trials python benchmarks/scaling.py report --trials 5000      # a minute: the report of a
    run of that size python benchmarks/scaling.py efficiency                # 5 minutes: 1 and 2
    workers, real trainings of seconds

`driver` searches `nemotron_flash` on the shipped H100 table. The trainings are simulated: workers
that take the seconds of a training of the shipped bench and return a made-up loss. All else is the
real search, with its folder, journal and sampler. The time of the driver is CPU time of its
process, without that of the simulation, so that other work on the machine changes it little. `ms at
N` is per candidate, over the candidates of the last tenth before N. `busy` is the share of the
simulated workers' time in which they train, if the driver works while they wait: trainings of
`seconds` on average. One candidate that takes long holds up its cycle; that share is lost with any
driver.

`efficiency` trains the same networks with 1 and with 2 workers. Efficiency is the time of the first
over twice the time of the second, without the start of the processes.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from flashnas.base.system import limit_threads
from flashnas.executors import Ended, Executor
from flashnas.executors.job import run_job
from flashnas.executors.local import WorkerPool
from flashnas.search import ALGORITHMS
from flashnas.study.config import SearchConfig
from flashnas.study.finish import finish
from flashnas.study.loop import Loop
from flashnas.study.opening import opened
from flashnas.study.problem import load_problem
from flashnas.study.record import Candidate

SPACE, TABLE, WORKLOAD, BUDGET_MS = "nemotron_flash", "h100_sxm", "decode-8k", 14_000.0
TOKENS = 262_144  # of a simulated training
CURVE_POINTS = 16
RECIPE_STEPS = 24  # of the trainings of `efficiency`


class Silent:
    """A display that shows nothing."""

    def note(self, text: str) -> None:
        """Dropped."""

    def update(self, snapshot: Any) -> None:
        """Dropped."""


class SimulatedWorkers(Executor):
    """Workers that train nothing: each job takes the seconds of a recorded training on a clock of
    its own.

    clock_s: time of the simulation. busy_s: of all workers. own_cpu_s: CPU time that the simulation
    itself took.
    """

    def __init__(self, workers: int, seconds: np.ndarray) -> None:
        self.count, self.seconds = workers, seconds
        self.clock_s = self.busy_s = self.own_cpu_s = 0.0
        self._free = [0.0] * workers
        self._ends: list[tuple[float, int, str, dict[str, Any]]] = []
        self._number = 0

    @property
    def workers(self) -> int:
        return self.count

    def submit(self, key: str, job: Any) -> None:
        entered = time.process_time()
        took = float(self.seconds[int(key[:8], 16) % len(self.seconds)])
        end = max(self.clock_s, heapq.heappop(self._free)) + took
        heapq.heappush(self._free, end)
        self.busy_s += took
        self._number += 1
        heapq.heappush(self._ends, (end, self._number, key, simulated_score(key, job, took)))
        self.own_cpu_s += time.process_time() - entered

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        entered = time.process_time()
        end, _, key, score = heapq.heappop(self._ends)
        self.clock_s = max(self.clock_s, end)
        self.own_cpu_s += time.process_time() - entered
        return [(key, Ended(kind="done", result=score))]

    def drop(self) -> None:
        self._ends.clear()


def simulated_score(key: str, job: Any, took: float) -> dict[str, Any]:
    """What a training returns; the loss falls with depth and width, and each network has a part of
    its own.
    """
    network = job.architecture
    own = np.random.default_rng(int(key, 16)).normal(0.0, 0.05)
    mixers = len({spec.kind for spec in network.operators})
    loss = 3.0 + 6.0 / len(network.operators) + 400.0 / network.hidden - 0.05 * mixers + float(own)
    curve = [
        [TOKENS * (point + 1) // CURVE_POINTS, loss + 1.0 / (point + 1) - 1.0 / CURVE_POINTS]
        for point in range(CURVE_POINTS)
    ]
    return {
        "loss": loss,
        "bits_per_byte": loss / 2.8,
        "curve": curve,
        "scores": {},
        "proxy_params": network.params // 256,
        "tokens": curve[-1][0],
        "tokens_per_s": TOKENS / took,
        "seconds": took,
        "seed": 0,
        "backends": {"d": "torch", "m2": "torch", "a": "torch"},
        "source": "training",
    }


def never(network: Any) -> float:
    """The evaluator of the simulated search; the simulated workers take its place."""
    raise RuntimeError("simulated")


# -- driver ----------------------------------------------------------------------------------------


def drive(sampler: str, trials: int, workers: int, cycle: int, out: Path) -> dict[str, Any]:
    """Search with simulated trainings in this process; returns CPU milliseconds per candidate and
    memory.
    """
    from flashnas.bench import load

    config = SearchConfig(
        space=SPACE,
        table=TABLE,
        workload=WORKLOAD,
        budgets={"latency_ms": BUDGET_MS},
        trials=trials,
        cycle_size=cycle,
        sampler=sampler,
        measure=False,
    )
    question = load_problem(config, note=lambda _: None, evaluator=never)
    simulated = SimulatedWorkers(workers, load()["seconds"].to_numpy())
    marks = sorted({n for n in (100, 1000, 2000, 5000, 10_000, trials) if n <= trials})
    times: list[tuple[int, float, float]] = []

    with opened(
        question, simulated, out, resume=False, progress=Silent(), command="scaling"
    ) as loop:
        run = loop._run

        def timed(cycle: Sequence[Candidate], executor: Executor) -> None:
            """Notes the time after each cycle; the first one is that of the baselines."""
            run(cycle, executor)
            times.append(
                (loop.record.evaluated, time.process_time() - simulated.own_cpu_s, memory_mb())
            )

        loop._run = timed
        loop.search(simulated)
        searched_cpu_s = times[-1][1] - times[0][1]
        finish(loop)
    count, at, memory = (np.array(column) for column in zip(*times, strict=True))

    def at_count(n: float) -> float:
        return float(np.interp(n, count, at))

    capacity_s = workers * (simulated.clock_s + searched_cpu_s)
    return {
        "sampler": sampler,
        "trials": int(count[-1]),
        "workers": workers,
        "cycle": cycle,
        "ms_at": {
            mark: round(1e3 * (at_count(mark) - at_count(0.9 * mark)) / (0.1 * mark), 2)
            for mark in marks
        },
        "mb_at": {mark: round(float(np.interp(mark, count, memory))) for mark in marks},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "driver_s": round(searched_cpu_s, 1),
        "seconds": round(float(np.mean(simulated.seconds)), 1),
        "busy": round(simulated.busy_s / capacity_s, 3),
        "busy_free_driver": round(simulated.busy_s / (workers * simulated.clock_s), 3),
    }


def filled(arguments: argparse.Namespace) -> None:
    """Every sampler at the end of one long run: the run is filled with random candidates, and each
    sampler starts from these and goes on for a few cycles."""
    from flashnas.bench import load
    from flashnas.search import make_algorithm
    from flashnas.search.algorithm import Evaluation

    config = SearchConfig(
        space=SPACE,
        table=TABLE,
        workload=WORKLOAD,
        budgets={"latency_ms": BUDGET_MS},
        trials=10**6,
        cycle_size=arguments.cycle,
        sampler="random",
        measure=False,
        seed=1,
    )
    question = load_problem(config, note=lambda _: None, evaluator=never)
    simulated = SimulatedWorkers(arguments.workers, load()["seconds"].to_numpy())
    rng = np.random.default_rng(0)
    print(
        "| sampler | trials | ms per candidate | of it the sampler | MB |\n|---|--:|--:|--:|--:|",
        flush=True,
    )
    known: list[Evaluation] = []

    class Filled(Loop):
        """Evaluates random candidates, then a few cycles of each sampler, which starts from
        these.
        """

        def _cycles(self) -> Iterator[list[Candidate]]:
            while len(known) < arguments.filled:
                genotypes = {
                    g
                    for g in (question.space.sample(rng) for _ in range(512))
                    if question.fitter.latency_of(g)[0] is not None
                } - {each.genotype for each in known}
                cycle = self._drawn(sorted(genotypes, key=str), pending=False)
                yield cycle
                known.extend(map(self.record.evaluation, cycle))
            for sampler in arguments.samplers:
                self.algorithm = make_algorithm(
                    sampler,
                    space=question.space,
                    seed=1,
                    latency_of=question.fitter.latency_of,
                    cycle_size=arguments.cycle,
                )
                self.algorithm.start_from(known)
                own, spent, count = 0.0, 0.0, 0
                for _ in range(arguments.cycles):
                    simulated.own_cpu_s, started = 0.0, time.process_time()
                    cycle = self._drawn(self.algorithm.ask(arguments.cycle), pending=False)
                    asked = time.process_time()
                    yield cycle
                    evaluations = list(map(self.record.evaluation, cycle))
                    before = time.process_time()
                    self.algorithm.tell(evaluations)
                    ended = time.process_time()
                    own += asked - started + ended - before
                    spent += ended - started - simulated.own_cpu_s
                    count += len(cycle)
                print(
                    f"| {sampler} | {len(known):,} | {1e3 * spent / count:.1f} |"
                    f" {1e3 * own / count:.1f} |"
                    f" {memory_mb():.0f} |",
                    flush=True,
                )

        def _learn(self, candidates: Sequence[Candidate]) -> None:
            """Timed apart."""

    with (
        tempfile.TemporaryDirectory() as folder,
        opened(
            question,
            simulated,
            Path(folder) / "run",
            resume=False,
            progress=Silent(),
            command="scaling",
        ) as loop,
    ):
        Filled(loop.record).search(simulated)


def memory_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def driver(arguments: argparse.Namespace) -> None:
    print(
        "| sampler | workers | cycle | trials | ms at | MB at | peak MB | busy | busy, free driver"
        " |\n"
        "|---|--:|--:|--:|---|---|--:|--:|--:|",
        flush=True,
    )
    for sampler in arguments.samplers:
        words = [
            sys.executable,
            __file__,
            "one",
            sampler,
            "--trials",
            str(arguments.trials),
            "--workers",
            str(arguments.workers),
            "--cycle",
            str(arguments.cycle),
        ]
        if arguments.profile:
            words[1:1] = ["-m", "cProfile", "-o", f"{arguments.profile}-{sampler}.pstats"]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        shown = {
            name: ", ".join(f"{int(mark):,}: {value:g}" for mark, value in found[name].items())
            for name in ("ms_at", "mb_at")
        }
        print(
            f"| {sampler} | {found['workers']} | {found['cycle']} | {found['trials']:,} |"
            f" {shown['ms_at']} |"
            f" {shown['mb_at']} | {found['peak_mb']:,} | {found['busy']:.1%} |"
            f" {found['busy_free_driver']:.1%} |",
            flush=True,
        )


def one(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(
                drive(
                    arguments.sampler,
                    arguments.trials,
                    arguments.workers,
                    arguments.cycle,
                    arguments.keep or Path(folder) / "run",
                )
            )
        )


# -- report ----------------------------------------------------------------------------------------


def report(arguments: argparse.Namespace) -> None:
    """Search with simulated trainings, then write the report of that run."""
    from flashnas.report import write_report

    with tempfile.TemporaryDirectory() as folder:
        out = arguments.keep or Path(folder) / "run"
        if not out.exists():
            drive("random", arguments.trials, 256, 256, out)
        started = time.process_time()
        html, png = write_report(out)
        took = time.process_time() - started
        print(
            f"report of {arguments.trials:,} trials: {took:.1f} s of CPU,"
            f" {html.stat().st_size / 1e6:.1f} MB of HTML,"
            f" {png.stat().st_size / 1e6:.1f} MB of PNG"
        )


# -- efficiency ------------------------------------------------------------------------------------


def efficiency(arguments: argparse.Namespace) -> None:
    """The same trainings with 1 and 2 workers, by wall clock."""
    import dataclasses

    from flashnas.training.recipe import Recipe

    recipe = Recipe.load("cpu")
    recipe = dataclasses.replace(recipe, tokens=arguments.steps * recipe.batch_tokens)
    config = SearchConfig(
        space=SPACE,
        table=TABLE,
        workload=WORKLOAD,
        budgets={"latency_ms": BUDGET_MS},
        bench=False,
        measure=False,
        seed=1,
    )
    question = load_problem(config, note=lambda _: None, recipe=recipe)
    rng = np.random.default_rng(0)
    networks: dict[str, Any] = {}
    while len(networks) < arguments.trainings:
        network = question.fitter.latency_of(question.space.sample(rng))[0]
        if network is not None:
            networks[network.hash] = network
    jobs = {key: question.job(network) for key, network in networks.items()}
    took = {}
    for workers in arguments.counts:
        with WorkerPool(run_job, workers=workers, timeout_s=1800) as pool:
            warm = dict(list(jobs.items())[:workers])  # the processes start and load torch
            list(pool.run(warm))
            started = time.perf_counter()
            failed = [reason for _, score, reason in pool.run(jobs) if score is None]
            took[workers] = time.perf_counter() - started
        if failed:
            raise SystemExit(f"{len(failed)} trainings failed: {failed[0]}")
    first, base = next(iter(took.items()))
    print("| workers | seconds | trainings per minute | efficiency |\n|--:|--:|--:|--:|")
    for workers, seconds in took.items():
        print(
            f"| {workers} | {seconds:.1f} | {60 * len(jobs) / seconds:.1f} |"
            f" {first * base / (workers * seconds):.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    part = commands.add_parser("driver")
    part.add_argument("--samplers", nargs="+", default=list(ALGORITHMS))
    part.add_argument(
        "--profile", metavar="START", help="write START-<sampler>.pstats for pstats or snakeviz"
    )
    part.set_defaults(run=driver, trials=10_000)
    long = commands.add_parser("filled")
    long.add_argument("--samplers", nargs="+", default=list(ALGORITHMS))
    long.add_argument("--filled", type=int, default=5000, metavar="TRIALS")
    long.add_argument("--cycles", type=int, default=10, help="that are measured")
    long.set_defaults(run=filled)
    single = commands.add_parser("one")
    single.add_argument("sampler")
    single.set_defaults(run=one)
    page = commands.add_parser("report")
    page.set_defaults(run=report)
    for command, trials in ((part, 10_000), (single, 10_000), (page, 5000)):
        command.add_argument("--trials", type=int, default=trials)
    for command, count in ((part, 256), (single, 256), (long, 10)):
        command.add_argument("--workers", type=int, default=count)
        command.add_argument("--cycle", type=int, default=count)
    for command in (single, page):
        command.add_argument("--keep", type=Path, metavar="DIR", help="run folder that stays")
    workers = commands.add_parser("efficiency")
    workers.add_argument("--steps", type=int, default=RECIPE_STEPS, help="of a training")
    workers.add_argument("--trainings", type=int, default=12)
    workers.add_argument("--counts", type=int, nargs="+", default=[1, 2], metavar="WORKERS")
    workers.set_defaults(run=efficiency)
    arguments = parser.parse_args()
    limit_threads(1, keep=True)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
