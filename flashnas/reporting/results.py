"""What commands print of their results, by templates; figures that need no words are texts here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashnas.architecture.architecture import compressed
from flashnas.base.text import (
    INTERVAL_90,
    columns,
    shortened,
)
from flashnas.operators import OPERATORS
from flashnas.reporting.words import REASONS, chance, render_text, shape_of

Figures = Mapping[str, Any]  # JSON-ready, by name

# -- estimate --------------------------------------------------------------------------------------


def estimate_text(estimate: Any, architecture: Any, model: Any, workload: Any) -> str:
    """What was estimated, the metrics with their bounds, what a full training is expected to give,
    and the time by operator and source."""
    parts = [
        {"operator": name, "source": source, "ms": ms, "share": ms / estimate.latency_ms}
        for name, by_source in estimate.operators_ms().items()
        for source, ms in by_source.items()
    ]
    return render_text(
        "estimate.txt",
        estimate=estimate,
        architecture=architecture,
        model=model,
        workload=workload,
        interval=INTERVAL_90,
        parts=sorted(parts, key=lambda part: -part["ms"]),
        sources=[f"{name} {share:.1%}" for name, share in estimate.sources.items()],
    )


# -- compare ---------------------------------------------------------------------------------------


def comparison_text(result: Figures) -> str:
    """The networks, and for each but the first one how it differs from that one, why, and what would
    settle it."""
    return render_text(
        "comparison.txt",
        result=result,
        shape_of=shape_of,
        reasons=REASONS,
        chance=chance,
    )


# -- doctor and validate ---------------------------------------------------------------------------

FORMS = ("forward", "state", "backward", "step", "graph")
PHASES = {"ttft_ms": "prefill", "tpot_ms": "decode step", "latency_ms": "request"}
LONGEST = 60  # letters of a notation


def doctor_text(found: Figures) -> str:
    packages = []
    for package in found["packages"]:
        state, purpose = package["version"] or "not installed", package["purpose"]
        if package["version"] and (problem := package.get("problem")):
            state, purpose = "cannot be used", f"{purpose}; {problem}"
        packages.append({"name": package["name"], "state": state, "purpose": purpose})
    choices: dict[tuple[str, str, str], list[str]] = {}  # dtypes that agree are one line
    for choice in found["choices"]:
        reasons = choice["passes_over"].items()
        why = "; ".join(f"not {library}: {reason}" for library, reason in reasons)
        choices.setdefault((choice["operator"], choice["takes"], why), []).append(choice["dtype"])
    forms = [form for form in FORMS if any(form in test["errors"] for test in found["tests"])]
    tests = [
        {**dict.fromkeys(forms), **test["errors"], **test, "by": test["runs"] or test["backend"]}
        for test in found["tests"]
    ]
    return render_text(
        "doctor.txt",
        machine=found["machine"],
        packages=packages,
        choices=[
            {
                "operator": f"{operator:<4} {OPERATORS[operator].label}",
                **{"takes": takes, "dtypes": ", ".join(dtypes), "why": why},
            }
            for (operator, takes, why), dtypes in choices.items()
        ],
        tests=tests,
        forms={f"<{form}": f"{{{form}:.0e}}" for form in forms},
    )


def validation_text(result: Figures) -> str:
    """Each architecture as predicted and as timed, and summaries of the errors."""
    metrics = [summary["metric"] for summary in result["metrics"]]
    head: list[str] = []
    for metric in metrics:
        head += [f"{PHASES[metric]} ms: predicted", "measured", "error"]
    lines = [[*head, "architecture"]]
    for entry in result["architectures"]:
        cells: list[str] = []
        for metric in metrics:
            cells += [f"{entry[part][metric]:.3f}" for part in ("predicted", "measured")]
            cells.append(f"{entry['error'][metric]:+.1%}")
        lines.append([*cells, shortened(compressed(entry["notation"]), LONGEST)])
    architectures = "\n".join(columns(lines))
    return render_text("validation.txt", **{**result, "architectures": architectures}, words=PHASES)
