"""Which programs run a network without flashnas, by the formats that the exporters write."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.formats import lfm2, nemotron_h
from flashnas.formats.fitting import closest_format
from flashnas.formats.gguf.families import FAMILIES

FORMATS = (*(family.format for family in FAMILIES.values()), nemotron_h.FORMAT, lfm2.FORMAT)


def refusal(architecture: Architecture, program: str) -> str:
    """Why a program cannot hold a network, in one line; "" where it can."""
    formats = [form for form in FORMATS if program in form.programs]
    return closest_format(architecture, formats, program)[1]


def exports_of(architecture: Architecture) -> dict[str, str]:
    """The programs that run a network, each with the `--to` of `flashnas export` that writes it."""
    exports: dict[str, str] = {}
    for form in FORMATS:
        if set(form.programs) - set(exports) and not form.problems(architecture):
            for program in form.programs:
                exports.setdefault(program, form.export)
    return exports
