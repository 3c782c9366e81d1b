"""Run folders of a search that ranks by the full loss: the runs of `run_builder` with full losses
and an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_builder import BUDGET_MS, finalist_entry, make_trials, write_run, write_yaml

from flashnas.runs.answer import Answer, Rival, Standing
from flashnas.search.objectives import non_dominated
from flashnas.search.trial import Trial

SD = 0.05
TOKENS = 100e9
FIGURES = ("full_loss", "full_loss_sd", "silence", "expected_recall", "expected_recall_sd")


def foretold(trial: Trial) -> Trial:
    """The trial with what is expected of it: deeper stacks are better, attention recalls more."""
    if trial.params is None:
        return trial
    mixers = [word for word in trial.notation.partition(": ")[2].split() if word != "f"]
    recall = -0.15 + 0.6 * mixers.count("a") / len(mixers)
    return dataclasses.replace(
        trial,
        full_loss=float(3.5 - 0.3 * np.log(trial.params / 1e8)) - 0.05 * len(set(mixers)),
        full_loss_sd=SD,
        silence=0.0 if len(mixers) > 6 else 0.11,
        expected_recall=min(recall, 0.02),
        expected_recall_sd=0.06,
        outside=""
        if len(mixers) > 6
        else "its width is 300 times its depth; publications have 2 to 270",
    )


def write_answered_run(
    folder: Path, *, trained: bool = True, count: int = 40, **answered: Any
) -> Path:
    """A finished run folder whose run.yaml has an answer; answered: entries of the answer that are
    otherwise.
    """
    trials = [foretold(trial) for trial in make_trials(count)]
    if not trained:
        trials = [
            dataclasses.replace(
                trial,
                state="expected",
                loss=None,
                bits_per_byte=None,
                curve=[],
                tokens=None,
                train_seconds=None,
                source="",
            )
            for trial in trials
            if trial.state == "complete"
        ]
    scored = [trial for trial in trials if trial.state in ("complete", "expected")]
    mask = non_dominated(np.array([[trial.latency_ms, trial.full_loss] for trial in scored]))
    front = sorted(
        (trial for trial, keep in zip(scored, mask, strict=True) if keep),
        key=lambda t: t.latency_ms or 0,
    )
    answer = dataclasses.replace(
        answer_of_trials(front, [trial for trial in scored if trial.origin == "baseline"], trained),
        **answered,
    )
    write_run(
        folder,
        trials,
        finalists=False,
        config={
            "objectives": ["full_loss", "latency_ms"],
            "rank_by": "full",
            "answer": answer.to_dict(),
            "foresight": {"train_tokens": TOKENS, "reads_short_loss": trained},
        },
    )
    standings = {standing.hash: standing for standing in answer.standings}
    for number, trial in enumerate(front, start=1):
        entry, standing = finalist_entry(trial), standings[trial.hash]
        entry["figures"] |= {
            **{name: getattr(trial, name) for name in FIGURES},
            "probability_best": standing.best,
            "full_loss_difference": standing.difference,
            "full_loss_difference_sd": standing.sd,
        }
        write_yaml(folder / "pareto" / f"{number:02d}.yaml", entry)
    return folder


MODEL = {"params": 1e9, "sd": 0.02, "recall": -0.004, "silence": 0.0}
PUBLISHED = (
    ("Nemotron-Flash-1B", 14300.0, 0.02, 0.13),
    ("LFM2-1.2B", 18700.0, -0.01, 0.6),
    ("Qwen3-1.7B", 36900.0, -0.08, 0.98),
    ("Untimed-1B", None, 0.03, 0.1),
)


def answer_of_trials(front: Sequence[Trial], baselines: Sequence[Trial], trained: bool) -> Answer:
    """The last network of the front is recommended; the one before it cannot be told from it."""
    chosen, tied = front[-1], front[-2]

    def standing(trial: Trial) -> Standing:
        gap = trial.full_loss - chosen.full_loss  # type: ignore[operator]
        return Standing(
            hash=trial.hash,
            difference=gap,
            sd=0.0 if trial is chosen else SD,
            best={chosen.hash: 0.6, tied.hash: 0.4}.get(trial.hash, 0.0),
            tied=trial in (chosen, tied),
        )

    def rival(trial: Trial, difference: float, probability: float) -> Rival:
        return {
            "label": trial.label,
            "notation": trial.notation,
            "hash": trial.hash,
            "latency_ms": trial.latency_ms or 0.0,
            "difference": difference,
            "sd": 0.02,
            "probability": probability,
            "ms": 15400.0,
            "params": 1.57e9,
        }

    pure = min(baselines, key=lambda trial: trial.full_loss or 0.0)
    attention = next(trial for trial in baselines if trial.label == "pure a")
    return Answer(
        recommended=chosen.hash,
        standings=tuple(map(standing, front)),
        baselines=tuple(map(standing, baselines)),
        cheapest=tied.hash,
        min_recall=-0.5,
        kept=True,
        trained=trained,
        train_tokens=TOKENS,
        before=chosen.notation,
        pure=rival(pure, -0.031, 0.74),
        transformer=rival(attention, -0.171, 0.9999),
        published=tuple(
            {**MODEL, "name": name, "latency_ms": ms, "difference": gap, "probability": odds}  # type: ignore[misc]
            for name, ms, gap, odds in PUBLISHED
        ),
        support={"pairs": 5, "better": 4, "publications": ["2604.03444", "2511.18890"]},
        training={"tokens": TOKENS, "flops": 8.1e20, "h100_hours": 572.2, "utilisation": 0.4},
        experiment={
            "hash": tied.hash,
            "notation": tied.notation,
            "tokens": 5.46e9,
            "flops": 1.6e19,
            "h100_hours": 11.31,
            "probability": 0.91,
        },
        limit="budget",
        keeps=0.75,
        reasons={
            "size": -0.012,
            "shape": 0.004,
            "mix": -0.025,
            "training": 0.002 if trained else 0.0,
        },
        above_budget=tuple(trial.hash for trial in front if (trial.upper_ms or 0.0) > BUDGET_MS),
    )
