"""What `flashnas doctor --read` prints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flashnas.base.hints import printable, shown_path
from flashnas.report.text import columns, duration, number

if TYPE_CHECKING:
    from flashnas.api.bundle import Bundle


def bundle_text(bundle: Bundle) -> str:
    """The parts of a bundle that hold something, problems in full."""
    passed = sum(step.status == "passed" for step in bundle.steps)
    parts: list[tuple[str, ...]] = [(f"{shown_path(bundle.path)}: `make gpu` on {printable(bundle.device)},"
                                     f" {passed} of {len(bundle.steps)} steps passed",)]
    parts.append(tuple(printable(f"{check.check}: {check.value or 'missing'}"
                                 f"{'; ' + check.problem if check.problem else ''}")
                       for check in bundle.checks))
    parts.append(tuple(columns([("step", "result", "took", "limit"), *(
        (step.name, step.status, duration(step.seconds), duration(step.limit_s)) for step in bundle.steps)],
        (0, 1))))
    if bundle.tests:
        ran = [test for test in bundle.tests if test.status != "refused"]
        parts.append((f"self-test: {sum(test.status == 'passed' for test in ran)} of {len(ran)} passed", *(
            printable(f"  {test.operator} by {test.runs or test.backend} in {test.dtype}, {test.status}:"
                      f" {test.reason}") for test in ran if test.status != "passed")))
    if bundle.trainings:
        parts.append(tuple(columns([("trained", "tokens/s", "of the peak", "memory GiB", "first steps"), *(
            (training.network, number(training.tokens_per_s), f"{training.share_of_peak:.1%}",
             number(training.memory_bytes / 2**30, 3), duration(training.first_steps_s))
            for training in bundle.trainings)], (0,))))
    parts += [(printable(f"{step.name}, {step.status}: {step.command}"),
               *(f"  {printable(line)}" for line in step.tail.splitlines()))
              for step in bundle.steps if step.tail]
    parts.append(tuple(_table(bundle)))
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _table(bundle: Bundle) -> Iterable[str]:
    """How the latency table of the bundle joins another one."""
    if not bundle.table:
        return
    folder = bundle.unpacked or Path("bundle")
    yield "It holds a latency table. To join it with another one of the same device:"
    if bundle.unpacked is None:
        yield f"  flashnas doctor --read {shown_path(bundle.path)} --unpack {folder}"
    yield f"  flashnas table merge TABLE {shown_path(folder / 'table')} --out NEW"
