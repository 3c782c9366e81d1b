"""Everything that a search is asked to do, checked when it is built."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flashnas.base.settings import (
    MAX_SEED,
    MAX_THREADS,
    SettingError,
    Settings,
    option,
    settings_of,
)
from flashnas.base.text import MAX_TOKENS, TIMES_HELP, from_hub, range_of, tokens_of
from flashnas.executors import EXECUTORS
from flashnas.families.family import PROGRAMS
from flashnas.latency.metrics import METRICS, Budget
from flashnas.latency.workload import (
    CALIBRATION_HELP,
    CALIBRATIONS,
    ENGINE,
    MODE_GONE,
    WEIGHTS_GONE,
    WORKLOAD_HELP,
)
from flashnas.samplers import SAMPLERS
from flashnas.space.served import EXPERTS
from flashnas.trials.pareto import DEFAULT, check_objectives

TIMEOUT_S = 1800.0  # of a training, unless its recipe is longer (study/trainings.py)
DEFAULT_SPACE = "served"
TRAIN_TOKENS = "100B"  # of the full training, unless asked otherwise
EXPECTED = "expected"  # of --budget-holds
NO_EVIDENCE = "none"  # of --evidence: no publication is read
WINDOW_RECALL = -0.05  # least recall of networks of a family with windows, unless asked otherwise
# networks that a search trains where each proposal is trained, unless asked otherwise
TRIALS = 24


def params_option() -> Any:
    return option(
        None,
        "keep to networks with so many parameters in all, such as 1B..2B, 1B.. or ..2B",
        metavar="A..B",
        shown="the space's; 0.1B..4B of families",
    )


def vocab_option() -> Any:
    return option(None, "words of the vocabulary", shown="the space's", min=2, max=2**30)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Settings, where="search"):
    """The question of one run. Paths and names are as the user wrote them.

    The trajectory depends on `cycle_size` and never on `workers`. Candidates that are infeasible
    or whose score an earlier run has cost nothing and do not count against `trials`.
    """

    gone: ClassVar[dict[str, str]] = {
        "dry_run": "the line before the first training says what is expected to come of it",
        "min_layers": "a space of your own says which depths it has",
        "mode": MODE_GONE,
        "short_text": "short_text: true in a recipe takes a short text",
        "weights": WEIGHTS_GONE,
    }

    space: str = option(
        DEFAULT_SPACE,
        "served: what serving programs load; a family such as granite; free: any order of mixers;"
        " another shipped search space or YAML file",
        instance="flashnas.space.base:SearchSpace",
        heading="what is searched, and for which device",
    )
    table: str | None = option(
        "h100_sxm",
        "shipped latency table or folder",
        instance="flashnas.latency.table:LatencyTable | Callable",
    )
    workload: str = option(
        "decode-8k", WORKLOAD_HELP, instance="flashnas.latency.workload:Workload"
    )
    calibration: str = option(ENGINE, CALIBRATION_HELP, choices=CALIBRATIONS)
    runtime: tuple[str, ...] = option(
        (),
        "keep to networks that all of these programs load without flashnas, such as vllm,sglang; the"
        " milliseconds are of their hosts",
        metavar="A,B,..",
        choices=PROGRAMS,
        separator=",",
        shown="at least one where the space is served, else any network",
    )
    params: str | None = params_option()
    experts: str | None = option(
        None,
        "networks without mixtures of experts, with or without, which are compared, or with them only",
        choices=EXPERTS,
        shown="none, or as the file of the space says",
    )
    vocab: int | None = vocab_option()
    budget_ms: float | None = option(
        None,
        "largest latency_ms of the workload, such as 14k",
        metavar="MS",
        min=1e-6,
        max=10**12,
        identity=False,
    )
    budgets: dict[str, float] = option(
        dict,
        "bound another metric, such as memory_gb=8 or params=1B; may be repeated",
        flag="--budget",
        metavar="METRIC=LIMIT",
        keys=tuple(METRICS),
        min=1e-6,
        max=10**18,
    )
    budget_holds: str = option(
        EXPECTED,
        "what of a latency the budgets are held against: its expected value, or the upper end of its 90 %"
        " interval",
        choices=(EXPECTED, "upper"),
    )
    as_good_as: str | None = option(
        None,
        "find the network of the least latency_ms, or of the second objective, whose loss is expected"
        " to be no higher than that of this one, as of flashnas estimate; the space has its vocabulary",
        metavar="MODEL",
    )
    objectives: tuple[str, ...] = option(
        DEFAULT, "what the front is drawn for, 2 to 4 names", metavar="A,B,..", separator=","
    )
    train_tokens: str | None = option(
        None,
        "length of the full training that is planned, in tokens",
        shown=TRAIN_TOKENS,
        identity=False,
        heading="what ranks the networks",
    )
    train_hours: float | None = option(
        None,
        "in place of tokens: hours of one GPU, that of the table, else an H100; each network is trained"
        " on as many tokens as they bring it, so that size and length are traded",
        metavar="HOURS",
        min=0.001,
        max=10**9,
        identity=False,
    )
    train_utilisation: float = option(
        0.4,
        "share of the FLOP/s of the GPU that the full training reaches",
        min=0.001,
        max=1,
        identity=False,
    )
    train_context: int = option(
        4096, "tokens of a text of the full training", min=1, max=MAX_TOKENS, identity=False
    )
    full_trainings: int = option(
        1,
        "full trainings of the recommended mix, such as at several sizes, which share the hours of"
        " short ones",
        min=1,
        max=1000,
        identity=False,
    )
    evidence: str | None = option(
        None,
        "CSV of one's own trainings, which then count as the publication that is predicted; none:"
        " leave out all publications, and train what the sampler proposes, as the paper does",
        metavar="FILE",
        identity=False,
    )
    times: tuple[str, ...] = option((), TIMES_HELP, metavar="PATH", identity=False)
    min_recall: float | None = option(
        None,
        "leave out networks whose recall is expected to be further below a transformer's than this,"
        " in full marks, such as -0.05",
        metavar="X",
        min=-1,
        max=1,
        shown=f"leave out none; {WINDOW_RECALL:g} in a family with windows",
    )
    sampler: str | None = option(
        None,
        "what proposes networks; flashnas list samplers",
        choices=SAMPLERS,
        instance="type[flashnas.samplers.sampler:Sampler]",
        shown="exhaustive of up to 20,000 networks that are scored, else aging-evolution; bayes where"
        " nothing but trainings or an evaluator ranks",
        heading="the search",
    )
    trials: int | None = option(
        None,
        "networks to train: those whose trainings are expected to improve the recommended network"
        " most, or, of a sampler that is named with --evidence none, and with an evaluator, those that"
        " it proposes",
        shown=f"0, or {TRIALS} where nothing else ranks",
        min=0,
        max=1_000_000,
        identity=False,
    )
    seed: int = option(0, "fixes the whole trajectory", min=0, max=MAX_SEED)
    recipe: str | None = option(
        None,
        "shipped training recipe or YAML file",
        instance="flashnas.training.recipe:Recipe",
        heading="the trainings that a search buys",
        shown="that of the runs of --start-from, else cpu, at"
        " the width factor of the space where that names one",
        identity=False,
    )
    data: str = option("sotu", "sotu, stdlib, a file or folder, or hf:NAME", connects=from_hub)
    tokens: int | None = option(
        None,
        "training tokens per candidate",
        shown="the recipe's",
        min=1,
        max=MAX_TOKENS,
        identity=False,
    )
    executor: str = option(
        "local",
        "where candidates run; flashnas list executors",
        choices=EXECUTORS,
        identity=False,
        heading="where it runs",
    )
    executor_options: dict[str, Any] = option(
        dict,
        "an option of the executor, such as worker_memory_gb=4; may be repeated",
        flag="--executor-option",
        identity=False,
    )
    workers: int | None = option(
        None,
        "candidates that are trained side by side, each in a process with one thread or one GPU",
        shown="all cores that this process may use, or all GPUs",
        min=1,
        max=MAX_THREADS,
        identity=False,
    )
    start_from: tuple[str, ...] = option(
        (),
        "earlier run whose networks are known and not trained again; the search starts from them;"
        " may be repeated",
        metavar="RUN",
        identity=False,
    )
    again: str | None = option(
        None,
        "run whose question is asked again, with what is given here in place of its options, such as"
        " --times; the answer says what changed",
        metavar="RUN",
        identity=False,
    )
    # keys of a configuration file, and keywords of Python
    measure: bool = option(
        True,
        "time the finalists where the table's device is at hand",
        identity=False,
        flagged=False,
    )
    sampler_options: dict[str, Any] = option(dict, "options of the sampler", flagged=False)
    cycle_size: int | None = option(
        None,
        "candidates drawn together",
        shown="by the number of trials, 10 at most",
        min=1,
        max=10_000,
        flagged=False,
    )
    baselines: bool = option(
        False,
        "also train the layouts of the space that the paper compares, where nothing but trainings"
        " ranks",
    )
    tokenizer: str | None = option(
        None, "tokenizer.json to use instead of training one on the corpus", flagged=False
    )
    candidate_timeout_s: float | None = option(
        None,
        "time limit of one training, in seconds",
        min=1,
        max=10_000_000,
        shown="1800, or four times what the recipe is expected to take",
        identity=False,
        flagged=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.params is not None:
            try:
                range_of(self.params)
            except ValueError as error:
                self.wrong("params", str(error))
        if self.as_good_as is not None and self.trials:
            self.wrong("trials", f"must be 0 with --as-good-as; got {self.trials}")
        if self.budget_ms is not None:
            if "latency_ms" in self.budgets:
                self.wrong("budget_ms", "and a budget on latency_ms are the same; give one of them")
            object.__setattr__(self, "budgets", {"latency_ms": self.budget_ms, **self.budgets})
            object.__setattr__(self, "budget_ms", None)
        if self.budget_holds != EXPECTED and "turn2_ttft_ms" in self.budgets:
            self.wrong("budget_holds", f"{self.budget_holds}: turn2_ttft_ms has no interval")
        object.__setattr__(
            self,
            "objectives",
            check_objectives(self.objectives, functools.partial(self.wrong, "objectives")),
        )
        if self.train_hours is not None and self.train_tokens is not None:
            self.wrong("train_hours", "and train_tokens say how long is trained; give one of them")
        try:
            self.planned_tokens  # noqa: B018 - raises for what is not a number of tokens
        except ValueError as error:
            self.wrong("train_tokens", str(error))
        if self.executor_options:
            self._check_executor_options()

    def _check_executor_options(self) -> None:
        try:
            EXECUTORS[self.executor].Options.build(**self.executor_options)
        except SettingError as error:
            setting = self.setting("executor_options")
            raise SettingError(setting, error.rule, error.setting.name) from None

    def connections(self) -> Iterator[tuple[str, str | None]]:
        yield from super().connections()
        executor = EXECUTORS[self.executor] if self.executor_options else None
        for setting in settings_of(executor.Options) if executor is not None else ():
            if not setting.yaml and setting.name in self.executor_options:
                yield "executor_options", setting.name

    @property
    def bounds(self) -> tuple[Budget, ...]:
        upper = self.budget_holds != EXPECTED
        return tuple(Budget(metric, limit, upper) for metric, limit in self.budgets.items())

    @property
    def planned_tokens(self) -> float | None:
        """Of the full training; None: as many as its hours bring."""
        return None if self.train_hours else tokens_of(self.train_tokens or TRAIN_TOKENS)

    @classmethod
    def over(cls, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        """`budget_ms` and the budget on latency_ms override each other."""
        below, budgets = dict(below), above.get("budgets")
        if "budget_ms" in above and isinstance(below.get("budgets"), Mapping):
            below["budgets"] = {
                name: limit for name, limit in below["budgets"].items() if name != "latency_ms"
            }
        elif isinstance(budgets, Mapping) and "latency_ms" in budgets:
            below.pop("budget_ms", None)
        return super().over(below, above)
