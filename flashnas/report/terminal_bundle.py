"""What `flashnas doctor --read` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flashnas.base.hints import printable, shown_path
from flashnas.report.terminal_device import test_words
from flashnas.report.text import columns, duration, number


def bundle_text(bundle: Mapping[str, Any]) -> str:
    """The parts of a bundle (`flashnas.api.bundle`) that hold something, problems in full."""
    steps, checks, trainings = bundle["steps"], bundle["checks"], bundle["trainings"]
    passed = sum(step["status"] == "passed" for step in steps)
    parts = [
        [f"{shown_path(bundle['path'])}: `make gpu` on {printable(bundle['device'])}, {passed} of {len(steps)}"
         " steps passed"],
        [printable("; ".join(filter(None, (f"{check['check']}: {check['value'] or 'missing'}",
                                           check["problem"])))) for check in checks],
        columns([("step", "result", "took", "limit"), *(
            (step["name"], step["status"], duration(step["seconds"]), duration(step["limit_s"]))
            for step in steps)], (0, 1))]
    if ran := [test for test in bundle["tests"] if test["status"] != "refused"]:
        wrong = [test for test in ran if test["status"] != "passed"]
        parts.append([f"self-test: {len(ran) - len(wrong)} of {len(ran)} passed", *(
            printable(f"  {test_words(test)}") for test in wrong)])
    if trainings:
        parts.append(columns([("trained", "tokens/s", "of the peak", "memory GiB", "first steps"), *(
            (training["network"], number(training["tokens_per_s"]), f"{training['share_of_peak']:.1%}",
             number(training["memory_bytes"] / 2**30, 3), duration(training["first_steps_s"]))
            for training in trainings)], (0,)))
    parts += [[printable(f"{step['name']}, {step['status']}: {step['command']}"),
               *(f"  {printable(line)}" for line in step["tail"].splitlines())]
              for step in steps if step["tail"]]
    parts.append(list(_table(bundle)))
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _table(bundle: Mapping[str, Any]) -> Iterable[str]:
    """How the latency table of the bundle joins another one."""
    if not bundle["table"]:
        return
    folder = bundle["unpacked"] or "bundle"
    yield "It holds a latency table. To join it with another one of the same device:"
    if not bundle["unpacked"]:
        yield f"  flashnas doctor --read {shown_path(bundle['path'])} --unpack {folder}"
    yield f"  flashnas table merge TABLE {shown_path(folder)}/table --out NEW"
