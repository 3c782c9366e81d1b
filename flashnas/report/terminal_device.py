"""What `flashnas doctor` and `flashnas validate` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.text import MISSING, columns, counted, known, shortened
from flashnas.operators import OPERATORS

FORMS = ("forward", "state", "backward", "step", "graph")


def doctor_text(examined: Mapping[str, Any]) -> str:
    machine, tests = examined["machine"], examined["tests"]
    parts = [_machine(machine), _packages(examined["packages"])]
    parts.append(_choices(machine, examined["choices"]))
    if tests:
        parts.append(_tests(machine, tests))
    return "\n\n".join(parts)


def _machine(facts: Mapping[str, Any]) -> str:
    detail = (
        f"capability {facts['capability']}, CUDA {facts['cuda']}, driver"
        f" {facts['driver'] or 'unknown'}, {counted(facts['devices'], 'device')}"
        if facts["device"] == "cuda"
        else f"{counted(facts['cores'], 'core')}, {facts['instructions']}"
    )
    return (
        f"flashnas {facts['flashnas']}, torch {facts['torch']}, Python {facts['python']},"
        f" {facts['system']}\n"
        f"{facts['device']}: {facts['label']}, {detail}, {facts['memory_bytes'] / 2**30:.0f} GiB"
    )


def _packages(packages: Sequence[Mapping[str, str]]) -> str:
    rows = []
    for package in packages:
        state, purpose = package["version"] or "not installed", package["purpose"]
        if package["version"] and (problem := package.get("problem")):
            state, purpose = "cannot be used", f"{purpose}; {problem}"
        rows.append((package["name"], state, purpose))
    return _table(("package", "version", "for"), rows)


def _choices(machine: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> str:
    """Dtypes that agree are one line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for choice in choices:
        operator = choice["operator"]
        reasons = choice["passes_over"].items()
        why = "; ".join(f"not {library}: {reason}" for library, reason in reasons)
        line = (f"{operator:<4} {OPERATORS[operator].label}", choice["takes"], why)
        rows.setdefault(line, []).append(choice["dtype"])
    return _table(
        (f"operator on {machine['device']}", "auto takes", "in", "why"),
        [(name, takes, ", ".join(dtypes), why) for (name, takes, why), dtypes in rows.items()],
    )


def _tests(machine: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> str:
    ran = [test for test in tests if test["status"] != "refused"]
    passed = sum(test["status"] == "passed" for test in ran)
    forms = [form for form in FORMS if any(form in test["errors"] for test in tests)]
    rows = [
        (
            test["operator"],
            test["runs"] or test["backend"],
            test["dtype"],
            test["status"],
            *(f"{test['errors'][form]:.0e}" if form in test["errors"] else "-" for form in forms),
        )
        for test in tests
    ]
    head = (
        f"self-test: {passed} of {len(ran)} passed; relative errors against the float64 reference"
        f" ({machine['device']})"
    )
    return "\n".join(
        [
            head,
            _table(("operator", "computed by", "dtype", "result", *forms), rows),
            *(test_words(test) for test in tests if test["reason"]),
        ]
    )


def test_words(test: Mapping[str, Any]) -> str:
    """What came of a case of the self-test, and why."""
    return (
        f"{test['operator']} by {test['runs'] or test['backend']} in {test['dtype']},"
        f" {test['status']}: {test['reason']}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(columns([head, *rows], range(len(head))))


# -- validate --------------------------------------------------------------------------------------

WORDS = {"ttft_ms": "prefill", "tpot_ms": "decode step", "latency_ms": "request"}
WIDTH = 150  # of the table


def validation_text(result: Mapping[str, Any]) -> str:
    names = [summary["metric"] for summary in result["metrics"]]
    header = [
        "",
        *(word for name in names for word in (f"{WORDS[name]} ms: predicted", "measured", "error")),
        "architecture",
    ]
    table = [header]
    for entry in result["architectures"]:
        cells = ["*" if entry["fitted"] else ""]
        for name in names:
            cells += [f"{entry[part][name]:.3f}" for part in ("predicted", "measured")]
            cells.append(f"{entry['error'][name]:+.1%}")
        table.append([*cells, ""])
    room = WIDTH - max(map(len, columns(table)))
    for line, entry in zip(table[1:], result["architectures"], strict=True):
        line[-1] = shortened(compressed(entry["notation"]), room)
    lines = columns(table, (0,))
    if result["before"]:
        lines += [
            "* calibrated on; the lines below are of the others",
            "",
            *_summaries("before", result["before"]),
            *_summaries("calibrated", result["metrics"]),
            "",
            *_corrections(result["corrections"]),
        ]
    else:
        lines += ["", *_summaries("", result["metrics"])]
    lines += [
        f"left out: {compressed(notation)}: {reason}"
        for notation, reason in result.get("left_out", ())
    ]
    return "\n".join([*lines, "", *_carriers(result["carriers"])]).rstrip()


def _summaries(label: str, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{label:<12}{WORDS[s['metric']]:<12} mean error {s['mean_error']:.1%}, worst"
        f" {s['max_error']:.1%}, bias {s['bias']:+.1%}, rank correlation"
        f" {format(s['spearman'], '.3f') if known(s['spearman']) else MISSING} over {s['count']}"
        " architectures"
        for s in summaries
    ]


def _corrections(corrections: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    for phase, c in corrections.items():
        yield (
            f"{phase:<8} = {c['scale']:g} x rows + {c['operator_us']:g} us per operator +"
            f" {c['model_us']:g} us per model + {c['mb_us']:g} us per MB"
        )


def _carriers(carriers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterable[str]:
    for phase, kinds in carriers.items():
        parts = [
            f"{kind} {entry['carries']:+.1%} ({entry['own_error']:+.1%} of its own"
            f" {entry['share']:.0%})"
            for kind, entry in kinds.items()
        ]
        if parts:
            yield (
                f"error that each operator carries, {phase} (+: takes longer than predicted):"
                f" {', '.join(parts)}"
            )
