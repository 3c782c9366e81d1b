"""What `flashnas doctor` prints: the machine, the packages, the choices of `auto`, and the self-test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flashnas.operators import OPERATORS

if TYPE_CHECKING:
    from flashnas.testing.self_test import LayerTest

FORMS = ("forward", "state", "backward", "step", "graph")


def text_of(machine: Mapping[str, Any], packages: Sequence[Mapping[str, str]], choices: Sequence[Mapping[str, Any]],
            tests: Sequence[LayerTest]) -> str:
    """All of it; arguments as in `flashnas.api.doctor.Examined`."""
    parts = [_machine(machine), _packages(packages), _choices(machine, choices)]
    if tests:
        parts.append(_tests(machine, tests))
    return "\n\n".join(parts)


def _machine(facts: Mapping[str, Any]) -> str:
    detail = (f"capability {facts['capability']}, CUDA {facts['cuda']}, {facts['devices']} device"
              f"{'' if facts['devices'] == 1 else 's'}" if facts["device"] == "cuda" else
              f"{facts['cores']} core{'' if facts['cores'] == 1 else 's'}, {facts['instructions']}")
    return (f"flashnas {facts['flashnas']}, torch {facts['torch']}, Python {facts['python']}, {facts['system']}\n"
            f"{facts['device']}: {facts['label']}, {detail}, {facts['memory_bytes'] / 2**30:.0f} GiB")


def _packages(packages: Sequence[Mapping[str, str]]) -> str:
    rows = []
    for package in packages:
        problem = package.get("problem", "")
        state = package["version"] if not problem else "not installed" if not package["version"] else "cannot be used"
        told = f"{package['purpose']}; {problem}" if problem and package["version"] else package["purpose"]
        rows.append((package["name"], state, told))
    return _table(("package", "version", "for"), rows)


def _choices(machine: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> str:
    """Dtypes that agree are one line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for choice in choices:
        operator = choice["operator"]
        why = "; ".join(f"not {library}: {reason}" for library, reason in choice["passes_over"].items())
        line = (f"{operator:<4} {OPERATORS[operator].label}", choice["takes"], why)
        rows.setdefault(line, []).append(choice["dtype"])
    return _table((f"operator on {machine['device']}", "auto takes", "in", "why"),
                  [(name, takes, ", ".join(dtypes), why) for (name, takes, why), dtypes in rows.items()])


def _tests(machine: Mapping[str, Any], tests: Sequence[LayerTest]) -> str:
    ran = [test for test in tests if test.status != "refused"]
    passed = sum(test.status == "passed" for test in ran)
    forms = [form for form in FORMS if any(form in test.errors for test in tests)]
    rows = [(test.operator, test.runs or test.backend, test.dtype, test.status,
             *(f"{test.errors[form]:.0e}" if form in test.errors else "-" for form in forms)) for test in tests]
    told = [f"{test.operator} by {test.runs or test.backend} in {test.dtype}, {test.status}: {test.reason}"
            for test in tests if test.reason]
    head = (f"self-test: {passed} of {len(ran)} passed; relative errors against the float64 reference"
            f" ({machine['device']})")
    return "\n".join([head, _table(("operator", "computed by", "dtype", "result", *forms), rows), *told])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)
