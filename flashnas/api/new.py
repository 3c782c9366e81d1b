"""A package of one's own that adds a name to flashnas, written from an example that flashnas ships."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import Figures, check_out, takes
from flashnas.base.errors import ConfigError
from flashnas.base.files import disk_errors
from flashnas.base.registry import load_object
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.base.shipped import shipped_root

# kind -> its registry, the example, and its own words: of its entry point, its module and its class; {name},
# {module} and {title} are those of the new package
EXAMPLES: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "operator": ("flashnas.operators:OPERATORS", "flashnas-short-conv", {
        r"\bgsc\b": "{name}", "GatedShortConvolution": "{title}", "gated_short_convolution": "{module}",
        'Gated short convolution(?=")': "{title}"}),
    "sampler": ("flashnas.search:ALGORITHMS", "flashnas-sampler", {
        r"(?<=\.)annealing\b|\bannealing(?=\.py)": "{module}", r"(?<!Simulated )\bannealing\b": "{name}",
        r"\bAnnealing\b": "{title}"}),
    "task": ("flashnas.proxy.tasks:TASKS", "flashnas-task", {
        "state_tracking": "{module}", "state-tracking": "{name}", "StateTracking": "{title}"}),
    "space": ("flashnas.space:TEMPLATES", "flashnas-gpt2-space", {
        r"(?<![.\w])gpt2(?![\w])": "{name}", "Gpt2Space": "{title}"})}
WORD = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
BUILT = ("build", "dist")
TEXTS = {".py", ".toml", ".yaml", ".md"}


@dataclass(frozen=True, kw_only=True)
class NewOptions(Settings, where="new"):
    kind: str = option(REQUIRED, f"one of {', '.join(EXAMPLES)}", positional=True, choices=tuple(EXAMPLES))
    name: str = option(REQUIRED, "its name in flashnas: lower-case letters and digits, such as fast-mixer",
                       positional=True)
    out: Path | None = option(None, "folder of the package; must not hold anything yet", metavar="DIR",
                              shown="flashnas-NAME", yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not WORD.fullmatch(self.name) or keyword.iskeyword(self.name):
            self.wrong("name", "must be lower-case letters and digits, with '-' between, and not a word of"
                               f" Python; got {self.name!r}")
        if self.kind == "operator" and not re.fullmatch("[a-z][a-z0-9]*", self.name):
            self.wrong("name", f"of an operator must be letters and digits alone; got {self.name!r}")
        if self.out is None:
            object.__setattr__(self, "out", Path(f"flashnas-{self.name}"))


@takes(NewOptions)
def new(options: NewOptions) -> Figures:
    """Write a package that adds an operator, a sampler, a task or a space, and tests that it passes.

    It is an example of flashnas under another name: change it step by step, and keep its test green.

    Returns:
        Figures: `out`, the folder, and `files`.
    """
    registry, example, words = EXAMPLES[options.kind]
    if options.name in load_object(registry):
        options.wrong("name", f"must be a new one: {options.kind} {options.name!r} exists")
    root = shipped_root("examples") / example
    if not root.is_dir():
        raise ConfigError(f"{root}: the example is missing in this installation of flashnas")
    out, package = check_out(options, empty=True), f"flashnas-{options.name}"
    names = {"name": options.name, "module": options.name.replace("-", "_"),
             "title": "".join(part.capitalize() for part in options.name.split("-"))}
    rules = {f"examples/(?={example})": "",
             example.replace("-", "_"): package.replace("-", "_"), example: package,
             **{rule: word.format(**names) for rule, word in words.items()}}
    pattern = "|".join(f"(?P<r{number}>{rule})" for number, rule in enumerate(rules))
    new_words = list(rules.values())

    def renamed(text: str) -> str:
        return re.sub(pattern, lambda match: new_words[int(match.lastgroup[1:])], text)  # type: ignore[index]

    files: list[str] = []
    with disk_errors(f"{out}: cannot be written", ConfigError):
        for path in sorted(root.rglob("*")):
            where = path.relative_to(root)
            if path.suffix in TEXTS and not {part for part in where.parts if part in BUILT or part[0] == "."}:
                target = out / renamed(str(where))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
                files.append(str(target))
    return Figures({"kind": options.kind, "name": options.name, "out": str(out), "files": files}, _text)


def _text(values: dict[str, Any]) -> str:
    out = values["out"]
    last = f"install and test it: pip install --editable {out} && python -m pytest {out}"
    return "\n".join([*values["files"], last])
