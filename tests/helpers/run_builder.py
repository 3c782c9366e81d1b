"""Run folders of a recorded search, written as a search writes them: 4 baselines and 36 candidates,
of which some fail. tests/golden has the trials, run.yaml and the answer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from flashnas.architecture import Architecture
from flashnas.run_folder.layout import FORMAT, write_front, write_trials, yaml_text
from flashnas.trials.pareto import non_dominated
from flashnas.trials.trial import STATES, Trial

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCES = {"imported": 0.5, "derived": 0.4, "roofline": 0.1}


@functools.cache
def _recorded() -> list[tuple[Trial, dict[str, Any]]]:
    """The trials, and what published trainings let expect of each."""
    rows = map(json.loads, (GOLDEN / "trials.jsonl").read_text().splitlines())
    return [(Trial(**row), expected) for row in rows for expected in [row.pop("expected", {})]]


def make_trials(count: int = 40, reason: str = "", *, expected: bool = False) -> list[Trial]:
    """reason: why some failed, if not for a loss that is not finite. expected: with full losses."""
    return [
        dataclasses.replace(
            trial,
            **(figures if expected else {}),
            reason=reason if reason and trial.state == "failed" else trial.reason,
        )
        for trial, figures in _recorded()[:count]
    ]


def untrained(trial: Trial, state: str, **reason: str) -> Trial:
    """The trial without what a training tells."""
    return dataclasses.replace(
        trial,
        state=state,
        curve=[],
        **dict.fromkeys(("loss", "bits_per_byte", "tokens", "train_seconds")),
        **reason,
    )


def on_front(trial: Trial) -> Trial:
    """With its network, and its latency in equal parts of embedding, operators and head."""
    network = Architecture.parse(trial.notation)
    parts = Counter(["embedding", *(spec.kind for spec in network.operators), "head"])
    part_ms = trial.latency_ms / parts.total()  # type: ignore[operator]
    times = {
        kind: {source: share * count * part_ms for source, share in SOURCES.items()}
        for kind, count in parts.items()
    }
    return dataclasses.replace(trial, architecture=network, operators_ms=times, sources=SOURCES)


def best_of(trials: list[Trial]) -> list[Trial]:
    """The trained ones that no other beats in loss and latency, fastest first."""
    scored = [trial for trial in trials if trial.state == "complete"]
    if not scored:
        return []
    mask = non_dominated([[trial.latency_ms, trial.loss] for trial in scored])
    front = [trial for trial, keep in zip(scored, mask, strict=True) if keep]
    return sorted(front, key=lambda trial: trial.latency_ms or 0.0)


def write_run(
    folder: Path,
    trials: list[Trial],
    *,
    front: list[Trial] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """front: by default the best of the trials."""
    folder.mkdir(parents=True, exist_ok=True)
    states = Counter(trial.state for trial in trials)
    facts = {
        "format": FORMAT,
        "name": folder.name,
        **yaml.safe_load((GOLDEN / "run.yaml").read_text()),
        "totals": {
            **{state: states[state] for state in STATES},
            "tokens": 150_016 * states["complete"],
        },
        **(config or {}),
    }
    (folder / "run.yaml").write_text(yaml_text(facts))
    write_trials(folder / "trials.parquet", trials)
    write_front(
        folder / "pareto",
        [on_front(trial) for trial in (best_of(trials) if front is None else front)],
    )
    return folder


def write_answered_run(folder: Path, *, trained: bool = True) -> Path:
    """Of a search that ranks by the full loss."""
    config = yaml.safe_load((GOLDEN / "answer.yaml").read_text())
    trials = make_trials(expected=True)
    if not trained:
        config["answer"] |= {"trained": [], "ranked_by": "published trainings"}
        trials = [untrained(trial, "expected") for trial in trials if trial.state == "complete"]
    beside = [*config["answer"]["families"], config["answer"]["free_mix"]]
    # in place of the baselines, which come first
    for number, (entry, costs) in enumerate(zip(beside, config.pop("beside"), strict=True)):
        trials[number] = dataclasses.replace(
            trials[number],
            label=entry["family"],
            **{name: entry[name] for name in ("notation", "hash")},
            **dict(zip(("latency_ms", "params"), costs, strict=True)),
        )
    by_hash = {trial.hash: trial for trial in reversed(trials)}
    front = [
        dataclasses.replace(
            by_hash[key], full_loss_difference=difference, full_loss_difference_sd=sd
        )
        for key, difference, sd in config.pop("front")
    ]
    return write_run(folder, trials, front=front, config=config)


def only_failed() -> list[Trial]:
    return [untrained(trial, "failed", reason="out of memory") for trial in make_trials(3)]


# runs that lack something: arguments of the fixture `build_run`
THIN_RUNS: dict[str, dict[str, Any]] = {
    "one trial": {"count": 1},
    "all failed": {"trials": only_failed()},
    "unreadable notations": {
        "trials": [dataclasses.replace(t, notation="???", curve=[]) for t in make_trials(8)],
        "front": [],
    },
    "almost nothing in run.yaml": {
        "count": 8,
        "config": dict.fromkeys(
            ["command", "space", "table", "workload", "options", "recipe", "host", "totals"]
        ),
    },
}
