"""The search itself."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flashnas.api.calling import default_out, silent, takes, writable_out
from flashnas.base.settings import option, settings_of
from flashnas.study.config import SearchConfig

if TYPE_CHECKING:
    from flashnas.api.run import Run
    from flashnas.study.record import Progress
    from flashnas.study.record import Snapshot as Snapshot
    from flashnas.study.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SearchConfig, where="search"):
    out: Path | None = option(
        None,
        "run folder",
        shown="experiments/runs/search-<time>",
        yaml=False,
        heading="the run folder",
    )
    resume: str | None = option(
        None,
        "run folder to continue; its run.yaml holds the options that are not given here. Without a"
        " value: the run in --out, which begins if there is none",
        metavar="[RUN]",
        bare="",
        yaml=False,
    )

    def __post_init__(self) -> None:
        if isinstance(self.resume, bool):
            object.__setattr__(self, "resume", "" if self.resume else None)
        super().__post_init__()
        if self.resume == "" and self.out is None:
            self.wrong(
                "resume", "needs the folder of the run, such as experiments/runs/first_search"
            )
        if self.resume:
            if self.out is not None and self.out != Path(self.resume):
                self.wrong(
                    "resume", f"and --out name two folders: {self.resume} and {self.out}; give one"
                )
            object.__setattr__(self, "out", Path(self.resume))
        if self.out is None:
            object.__setattr__(self, "out", default_out("search"))

    @classmethod
    def build(cls, *files: Mapping[str, Any], **given: Any) -> Self:
        """As of other options. A run that is continued, or asked again, has those that its folder
        holds below the ones given.
        """
        from flashnas.run_folder.layout import recorded_options

        asked = dict(ChainMap(given, *map(dict, files)))
        run = asked.get("resume")
        alone = not any(setting.name in asked for setting in settings_of(cls) if setting.yaml)
        if run in (True, "") and alone:
            out = asked.get("out")
            run = out if out and (Path(out) / "run.yaml").exists() else None
        run = run or asked.get("again")
        if not run or not isinstance(run, str | Path):
            # a value of another type is refused as that of any option
            return super().build(*files, **given)
        recorded = recorded_options(Path(run))
        executor = recorded.get("executor", cls.setting("executor").default)
        if asked.get("executor", executor) != executor:
            recorded.pop("executor_options", None)  # of another executor
        return super().build(recorded, *files, **given)


@takes(SearchOptions)
def search(
    options: SearchOptions,
    *,
    objects: Mapping[str, Any],
    progress: Progress = silent,
    evaluator: Callable[[Any], Any] | None = None,
    scorer: Scorer | None = None,
    command: str = "flashnas.search",
) -> Run:
    """Find the Pareto-optimal architectures of a space within latency budgets.

    The networks of the space within the budgets are scored by published trainings. With `trials`,
    those whose training is expected to improve the recommended network are trained; where an
    evaluator or `evidence="none"` leaves nothing else to rank by, all that the sampler proposes. The
    run folder holds everything; a killed search continues with `resume="RUN"`.

    Further:
        evaluator (Callable): scores a network in place of a training: `evaluator(architecture)`
            returns a loss (lower is better) or a mapping with `loss` and further scores. What it
            raises is the reason of a failed trial, except ImportError and OSError, which stop the
            search. With an argument `seed` it is called with that of the search. Worker processes,
            with limits of time and memory, run it if it is in a module that they can import. Else
            it runs in this process, a warning says so, and such limits are refused.
        scorer (Scorer): ranks the networks in place of published trainings; an object with the
            methods of `flashnas.study.scorer.Scorer`.
        progress (Progress): an object with `note(text)` and `update(snapshot)`.
        command (str): what the folder records as the command that made it.

    Returns:
        The Run: `run.front`, the finalists; `run.trials`, a DataFrame; `run.plot_front()`;
            `run.report("report.html")`.

    Raises:
        ConfigError: for an option, space, recipe or corpus that cannot be used.
        BudgetError: no architecture of the space meets the budgets.
        MissingRowsError: the table lacks what the space needs.
        RunError: the folder holds another run, or no candidate could be trained.
        WorkerError: a worker's installation, driver or disk is broken.

    Example:
        >>> import flashnas as fn
        >>> run = fn.search(space="tiny", table="h100_sxm", workload="chat", budgets={"latency_ms": 14_000},
        ...                 evaluator=lambda architecture: 1 / architecture.params, workers=1, trials=4,
        ...                 measure=False, out="my_search")
        >>> run.front[0].architecture.hidden in (64, 96, 128)
        True
        >>> set(run.trials["state"]) <= {"complete"}
        True
    """
    out = writable_out(options)

    from flashnas.api.run import Run
    from flashnas.reporting.page import write_report
    from flashnas.run_folder.layout import TRIALS, read_trials
    from flashnas.study.run_search import run_search

    found = run_search(
        options,
        out,
        resume=options.resume is not None,
        progress=progress,
        command=command,
        evaluator=evaluator,
        scorer=scorer,
        **objects,
    )
    trials = read_trials(out / TRIALS)
    run = Run(out, found.config, trials, tuple(found.front), summary=found.summary)
    write_report(run)
    return run
