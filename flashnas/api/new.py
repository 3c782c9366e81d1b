"""A package of one's own that adds an operator to flashnas, written from the example that flashnas
ships.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from flashnas.api.calling import Result, takes, writable_out
from flashnas.base.errors import ConfigError
from flashnas.base.registry import shipped_root
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.base.system import atomic_folder, disk_errors

EXAMPLE = "flashnas-short-conv"
LEFT_OUT = ("build", "dist", "test_as_lfm2.py")  # the last is of the example alone
TEXTS = {".py", ".toml", ".yaml", ".md"}


@dataclass(frozen=True, kw_only=True)
class NewOptions(Settings, where="new"):
    kind: str = option(REQUIRED, "operator", positional=True, choices=("operator",))
    name: str = option(
        REQUIRED,
        "its short name in the notation: lower-case letters and digits, such as mix2",
        positional=True,
    )
    out: Path | None = option(
        None,
        "folder of the package; must not hold anything yet",
        shown="flashnas-NAME",
        yaml=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch("[a-z][a-z0-9]*", self.name) or keyword.iskeyword(self.name):
            self.wrong(
                "name",
                "must be lower-case letters and digits, and not a word of Python; got"
                f" {self.name!r}",
            )
        if self.out is None:
            object.__setattr__(self, "out", Path(f"flashnas-{self.name}"))


@dataclass(frozen=True)
class NewPackage(Result):
    kind: str
    name: str
    out: str
    files: list[str]

    def __str__(self) -> str:
        out = self.out
        last = f"install and test it: pip install --editable {out} && python -m pytest {out}"
        return "\n".join([*self.files, last])


@takes(NewOptions)
def new(options: NewOptions) -> NewPackage:
    """Write a package that adds an operator, and tests that it passes.

    It is an example of flashnas under another name: change it step by step, and keep its test
    green.

    Returns:
        A NewPackage: `out`, the folder, and `files`.
    """
    from flashnas.operators import OPERATORS

    name = options.name
    if name in OPERATORS:
        options.wrong("name", f"must be a new one: operator {name!r} exists")
    root = shipped_root("examples") / EXAMPLE
    out = writable_out(options, empty=True)
    title = name.capitalize()
    words = {
        f"examples/(?={EXAMPLE})": "",
        "flashnas_short_conv": f"flashnas_{name}",
        EXAMPLE: f"flashnas-{name}",
        r"\bgsc\b": name,
        "GatedShortConvolution": title,
        "gated_short_convolution": name,
        'Gated short convolution(?=")': title,
        r"\n## In LFM2\n(.|\n)*": "",
        ', "transformers>=5".*': "]",
    }

    def renamed(text: str) -> str:
        for pattern, word in words.items():
            text = re.sub(pattern, word, text)
        return text

    files: list[str] = []
    with (
        disk_errors(f"{out}: cannot be written", ConfigError),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        for path in sorted(root.rglob("*")):
            where = path.relative_to(root)
            if path.suffix in TEXTS and not {
                part for part in where.parts if part in LEFT_OUT or part[0] == "."
            }:
                place = renamed(str(where))
                target = fresh / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
                files.append(str(out / place))
    return NewPackage(options.kind, name, str(out), files)
