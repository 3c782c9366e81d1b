"""Names that options take, with one line about each; nothing heavy is imported for it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name

from flashnas.api.calling import Result, takes
from flashnas.architecture.notation import preset_notations
from flashnas.base.documents import read_yaml
from flashnas.base.registry import (
    PACKAGE,
    installed_plugins,
    shipped_names,
    shipped_root,
)
from flashnas.base.settings import Settings, option
from flashnas.base.text import first_sentence, one_of


def list_names(kind: str) -> dict[str, str]:
    """The names that an option may take, with one line about each.

    Args:
        kind (str): tables, spaces, families, workloads, samplers, executors, recipes, presets, operators,
            objectives, exports or plugins.

    Returns:
        Name -> description. For plugins: package -> the names that it adds.

    Raises:
        ConfigError: for an unknown kind.

    Example:
        >>> import flashnas as fn
        >>> "aging-evolution" in fn.list_names("samplers"), "d" in fn.list_names("operators")
        (True, True)
    """
    return dict(names(kind).names)


def _tables() -> dict[str, str]:
    tables = {}
    for name, folder in shipped_names("latency_tables").items():
        device, meta = read_yaml(folder / "device.yaml"), read_yaml(folder / "meta.yaml")
        stacks = meta["stacks"]
        machines = {stack["measured_on"] for stack in stacks.values()}
        label = device["label"] or ", ".join(sorted(machines))
        tables[name] = f"{label}, {device['platform']}; {', '.join(sorted(stacks))}"
    return tables


FOLDERS = {
    "spaces": shipped_root("search_spaces"),
    "families": PACKAGE / "families",
    "recipes": PACKAGE / "training/recipes",
}


def _texts(kind: str) -> dict[str, str]:
    """The shipped YAML files of spaces, families or recipes, by name."""
    paths = sorted(FOLDERS[kind].glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").rstrip() for path in paths}


def _commented(kind: str) -> dict[str, str]:
    """Each with the first sentence of the comment at its top."""
    return {
        name: first_sentence(re.sub(r"\n[^#](.|\n)*", "", text).replace("#", ""))
        for name, text in _texts(kind).items()
    }


def _families() -> dict[str, str]:
    from flashnas.families.family import PROGRAMS, families

    listed = {}
    for name, family in families().items():
        programs = [
            f"{PROGRAMS[program]} {entry.version}{'' if entry.run else ' (read)'}"
            for program, entry in family.programs.items()
        ]
        listed[name] = f"{family.title}, {family.seen}: {', '.join(programs)}"
    return listed


def _workloads() -> dict[str, str]:
    from flashnas.latency.workload import WORKLOADS

    return {
        name: f"batch {workload.batch}, {workload.prompt_tokens:,} tokens in,"
        f" {workload.generated_tokens:,} out"
        for name, workload in WORKLOADS.items()
    }


def _operators() -> dict[str, str]:
    from flashnas.operators import OPERATORS

    return {
        name: spec.label
        + ("" if name in OPERATORS.shipped else f" (from {OPERATORS.origin(name)})")
        for name, spec in OPERATORS.items()
    }


def _objectives() -> dict[str, str]:
    from flashnas.latency.metrics import METRICS
    from flashnas.trials.pareto import FULL, OBJECTIVES, RECALL, larger_is_better

    own = {
        "loss": "validation loss in nats per token, trained",
        FULL: "expected loss of a full training in nats per token, from evidence and training",
        RECALL: "recall less that of the transformer, from evidence",
    }
    listed = {}
    for name in OBJECTIVES:
        what = own.get(name) or f"{METRICS[name]}, from the table"
        listed[name] = f"{what}; {'higher' if larger_is_better(name) else 'lower'} is better"
    return listed


def _plugins() -> dict[str, str]:
    return {package: ", ".join(names) for package, names in installed_plugins().items()}


# kind -> what it is, and its names with a line about each: a function, or the registry at
# "module:OBJECT"
KINDS: dict[str, tuple[str, Callable[[], dict[str, str]] | str]] = {
    "tables": ("of --table: latencies of a device; flashnas table info NAME says more", _tables),
    "spaces": (
        "of --space; --show NAME prints the YAML text, from which to write one's own",
        functools.partial(_commented, "spaces"),
    ),
    "families": (
        "of --space, each with the programs that load it; --show NAME prints the YAML text",
        _families,
    ),
    "workloads": ("of --workload: batch, prompt and generated tokens", _workloads),
    "samplers": ("of --sampler", "flashnas.samplers:SAMPLERS"),
    "executors": ("of --executor: where candidates run", "flashnas.executors:EXECUTORS"),
    "recipes": (
        "of --recipe: how networks are trained; --show NAME prints the YAML text",
        functools.partial(_commented, "recipes"),
    ),
    "presets": ("architectures by name, for estimate, train and export", preset_notations),
    "operators": ("of the notation and of spaces; --show NAME prints the options", _operators),
    "objectives": ("of --objectives", _objectives),
    "exports": ("of export --to", "flashnas.exporting.exporter:EXPORTS"),
    "plugins": ("names that installed packages add", _plugins),
}
SHOWN = ("spaces", "families", "recipes", "operators")


@dataclass(frozen=True, kw_only=True)
class ListOptions(Settings, where="list"):
    kind: str | None = option(
        None,
        f"one of {', '.join(KINDS)}; without it, what each of these is",
        positional=True,
        choices=tuple(KINDS),
    )
    show: str | None = option(
        None,
        "of spaces, families and recipes, the YAML text; of operators, the options",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show is not None and self.kind not in SHOWN:
            self.wrong("show", f"is for {', '.join(SHOWN)}; got {self.kind or 'no kind'}")


@dataclass(frozen=True)
class NamesResult(Result):
    """kind: of what. names: name -> description. shown: of one of them, what `show` prints."""

    kind: str | None
    names: dict[str, str]
    shown: str | None = None

    def __str__(self) -> str:
        if self.shown is not None:
            return self.shown
        width = max(map(len, self.names), default=0)
        lines = [f"{name:<{width}}  {words}".rstrip() for name, words in self.names.items()]
        return "\n".join(lines or [f"no {self.kind}"])


@takes(ListOptions)
def names(options: ListOptions) -> NamesResult:
    """As `list_names`; the result prints as the command line shows it.

    Returns:
        A NamesResult: `kind` and `names`, name -> description; with `show` also `shown`.
    """
    if options.kind is None:
        return NamesResult(None, {kind: words for kind, (words, _) in KINDS.items()})
    listed = KINDS[options.kind][1]
    choices = resolve_name(listed).described() if isinstance(listed, str) else listed()
    if options.show is None:
        return NamesResult(options.kind, choices)
    if options.show not in choices:
        options.wrong("show", one_of("", options.show, choices).strip())
    text = (
        _operator_text(options.show)
        if options.kind == "operators"
        else _texts(options.kind)[options.show]
    )
    return NamesResult(options.kind, {options.show: choices[options.show]}, text)


def _operator_text(name: str) -> str:
    """The notation of an operator with all its options and their defaults, and its docstring."""
    from flashnas.operators import OPERATORS

    spec = OPERATORS[name]
    fields = dataclasses.fields(spec)
    options = ", ".join(f"{field.name}={str(field.default).lower()}" for field in fields)
    return f"{name}({options})  {spec.label}, {spec.family}\n\n{inspect.getdoc(spec) or ''}"
