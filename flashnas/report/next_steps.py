"""What a user does next: the commands that train and export a network, and the programs that run it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from flashnas.base.text import names_text
from flashnas.runs.front import front_path
from flashnas.runs.run import RecordedRun
from flashnas.runs.trained import TRAINED
from flashnas.search.trial import Trial

LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A
    network that a CPU trains in full gets the tokens that suit its size."""
    if run.answer is None:
        return []
    entry = run.finalists[run.answer.recommended]
    tokens, params = run.answer.train_tokens, entry.figures.get("params") or SMALL_PARAMS
    if params < SMALL_PARAMS:
        tokens = min(tokens, float(f"{TOKENS_EACH * params:.1g}"))
    gpu = " --device cuda" if tokens >= LARGE_TOKENS else ""
    to = next(iter((entry.runs_in or {}).values()), "hf")
    config = front_path(run.path, entry)
    path, out = shlex.quote(str(config)), shlex.quote(str(run.path / TRAINED / config.stem))
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens:.0f}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]


def runs_in(front: Sequence[Trial]) -> str:
    """The programs that each finalist runs in, those with equal ones together; "" where none was
    recorded.
    """
    groups: dict[str, list[str]] = {}
    for entry in front:
        if entry.runs_in is not None:
            text = ", ".join(
                f"{program} (export --to {to})" for program, to in entry.runs_in.items()
            )
            groups.setdefault(
                text or "transformers with flashnas installed (export --to hf)", []
            ).append(entry.name)
    return "; ".join(f"{names_text(names)}: {text}" for text, names in groups.items())
