"""Gradient norms, L2 norms, weight maps and losses with weight normalization and as nGPT (figures
6, 8, 10, table 12).

    python experiments/paper/norms.py           # norms.csv; 13 minutes of one core; continues
    python experiments/paper/norms.py --draw    # tables and pictures of norms.csv and maps.csv

arXiv 2511.18890. The networks, the text and the recipes are those of experiments/weight_norm,
besides what ARMS says.
"""

import functools
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from picture import framed, still

import flashnas as fn
from flashnas.base.system import keep_memory, limit_threads
from flashnas.data.dataset import prepare_dataset
from flashnas.network.model import Block
from flashnas.operators.parts import rms_normalise
from flashnas.operators.spec import Role
from flashnas.report.drawing import MUTED, SERIES
from flashnas.training.optimizer import NORM_DIMS, ROWS
from flashnas.training.trainer import Trainer

HERE = Path(__file__).parent
CSV, MAPS = HERE / "norms.csv", HERE / "maps.csv"
PLAN = yaml.safe_load((HERE.parent / "weight_norm" / "plan.yaml").read_text(encoding="utf-8"))
MUON = PLAN["arms"]["weight_norm"]["recipe"]
ADAMW = {"optimizer": "adamw", "adamw_lr": 0.001, "lr_multipliers": {"embedding": 30.0}}
ARMS = {
    "plain": {},
    "weight norm": MUON,
    "nGPT": {**MUON, "weight_decay": 0.0, "warmup_fraction": 0.0, "output_scale": 1.0},
    "plain, AdamW": ADAMW,
    "weight norm, AdamW": {
        **ADAMW,
        "adamw_lr": 0.015,
        "lr_multipliers": {"embedding": 2.0},
        "weight_norm": True,
    },
}
RUNS = [
    (arm, operator, seed)
    for seed in range(3)
    for operator in ("a", "d", "m2")
    for arm in ARMS
    if operator == "a" or (arm in ("plain", "weight norm") and seed < 1)
]
ALPHA = 0.3  # of nGPT at the start: how far a block moves the stream towards its output
EVERY = 10  # steps to a row
KEY = ["arm", "operator", "seed"]
MAP, MAPPED = 64, ("layers.10.mixer.in_proj.weight", "layers.11.mixer.out_proj.weight")


def on_sphere(
    block: Block, x_BTD: torch.Tensor, state: object = None
) -> tuple[torch.Tensor, object]:
    """A block of nGPT (arXiv 2410.01131): the stream goes from one point of a sphere to another
    one, by learned rates, for which the weight of the norm is taken."""
    x_BTD = rms_normalise(x_BTD)
    update_BTD, state = block.mixer(x_BTD, state)
    return rms_normalise(
        x_BTD + ALPHA * block.norm.weight * (rms_normalise(update_BTD) - x_BTD)
    ), state


def make_trainer(arm: str, operator: str, seed: int, **changes: object) -> Trainer:
    """A training that has not started."""
    recipe = fn.Recipe(**{**PLAN["base"], **ARMS[arm], **changes})
    dataset = prepare_dataset(PLAN["data"], recipe)
    kind = "a(qk_norm=true)" if arm == "nGPT" else operator
    network = fn.Architecture.parse(PLAN["architecture"].format(operator=kind, meta=0))
    trainer = Trainer(recipe.proxy_of(network, dataset.vocab), dataset, recipe, seed)
    if arm == "nGPT":
        for block in trainer.network.blocks:
            block.forward = functools.partial(on_sphere, block)  # type: ignore[method-assign]
    return trainer


def norms_of(trainer: Trainer) -> dict[str, float]:
    """L2 norms of all matrices and of the embedding, and how far hidden channels stick out: the
    largest norm over the median one, on average over the matrices."""
    uses, squares, ratios = trainer.network.parameter_uses(), {True: 0.0, False: 0.0}, []
    for name, weight in trainer.network.named_parameters():
        if (role := uses[name].role) in NORM_DIMS:
            tokens = role is Role.TOKENS
            squares[tokens] += weight.detach().square().sum().item()
            if not tokens:
                channels = weight.detach().norm(dim=-2 if NORM_DIMS[role] == ROWS else -1)
                ratios.append((channels.max() / channels.median().clamp(min=1e-9)).item())
    return {
        "matrices_l2": squares[False] ** 0.5,
        "embedding_l2": squares[True] ** 0.5,
        "channel_ratio": float(np.mean(ratios)),
    }


def run(trainer: Trainer) -> pd.DataFrame:
    """Train to the end: a row for every EVERY steps, with medians of gradient norm and processor
    time over them.
    """
    rows, norms, times, start = [], [], [], time.process_time()
    for step in trainer.steps():
        norms.append(step.gradient_norm)
        times.append(1e3 * (time.process_time() - start))
        if step.number % EVERY == 0:
            rows.append(
                {
                    "tokens": step.tokens,
                    "loss": step.validation,
                    "gradient_norm": np.median(norms),
                    **norms_of(trainer),
                    "step_cpu_ms": np.median(times),
                }
            )
            norms, times = [], []
        start = time.process_time()
    return pd.DataFrame(rows).round(4)


def maps_of(trainer: Trainer) -> pd.DataFrame:
    """Root mean squares of two matrices of the last layers in MAP x MAP cells, in thousandths."""
    rows = []
    for name in MAPPED:
        weight = trainer.network.get_parameter(name).detach()
        weight = weight[: len(weight) // MAP * MAP, : weight.shape[1] // MAP * MAP]
        cells = weight.reshape(MAP, -1, MAP, weight.shape[1] // MAP).square().mean((1, 3)).sqrt()
        rows += [[name, *row] for row in (1000 * cells).round().int().tolist()]
    return pd.DataFrame(rows, columns=["matrix", *(f"c{n}" for n in range(MAP))])


def append(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a CSV file, all of them or none."""
    before = [pd.read_csv(path)] if path.exists() else []
    pd.concat([*before, rows]).to_csv(path.with_suffix(".new"), index=False)
    os.replace(path.with_suffix(".new"), path)


def train_all() -> None:
    """Train what norms.csv does not have."""
    limit_threads(1)
    torch.set_num_threads(1)
    keep_memory()
    rows = pd.read_csv(CSV) if CSV.exists() else pd.DataFrame(columns=KEY)
    done = {*rows[KEY].itertuples(index=False, name=None)}
    for case in RUNS:
        if case not in done:
            trainer = make_trainer(*case)
            rows = run(trainer)
            if case[1:] == ("a", 0) and not (
                MAPS.exists() and case[0] in pd.read_csv(MAPS)["arm"].unique()
            ):
                maps = maps_of(trainer)
                append(
                    MAPS, pd.concat([pd.DataFrame({"arm": [case[0]] * len(maps)}), maps], axis=1)
                )
            append(CSV, pd.concat([pd.DataFrame([case] * len(rows), columns=KEY), rows], axis=1))
            print(case, *rows.tail(1).to_dict("records"), flush=True)


def draw_norms(rows: pd.DataFrame) -> None:
    """Norms and loss over the tokens of the training, for attention: means of the seeds and their
    range.
    """
    with still(
        HERE / "norms.png",
        (11.0, 8.4),
        "Norms and loss with weight normalization and as nGPT",
        "Six times attention and FFN, 128 wide; lines: mean of three seeds, bands: their range.",
    ) as figure:
        for place, (column, text) in enumerate(
            {
                "gradient_norm": "gradient norm before clipping",
                "loss": "validation loss, nats per token",
                "matrices_l2": "L2 norm of the operators' matrices",
                "embedding_l2": "L2 norm of the embedding",
            }.items()
        ):
            axes = framed(
                figure, (0.07 + 0.5 * (place % 2), 0.55 - 0.44 * (place // 2), 0.42, 0.34)
            )
            for colour, arm in zip(SERIES, ARMS, strict=False):
                part = rows[(rows["arm"] == arm) & (rows["operator"] == "a") & rows[column].notna()]
                lines = part.groupby("tokens")[column].agg(["mean", "min", "max"])
                tokens = lines.index / 1000
                axes.fill_between(
                    tokens, lines["min"], lines["max"], color=colour, alpha=0.2, linewidth=0
                )
                axes.plot(
                    tokens, lines["mean"], "--" if "AdamW" in arm else "-", color=colour, label=arm
                )
            axes.set(xlabel="training tokens, thousands", ylabel=text)
            if column == "gradient_norm":
                axes.set_yscale("log")
            if "l2" in column:
                axes.set_ylim(0)
                axes.text(
                    0.97,
                    0.05,
                    "nGPT and both with weight norm: one line",
                    transform=axes.transAxes,
                    ha="right",
                    fontsize=9,
                    color=MUTED,
                )
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=5, loc="lower center")


def draw_maps(maps: pd.DataFrame) -> None:
    """The weights of two matrices by arm, in units of the root mean square of the matrix."""
    with still(
        HERE / "maps.png",
        (13.0, 5.6),
        "Weights after the training",
        "64 x 64 cells, root mean square of each over that of the matrix. Hidden channels: columns"
        " above, rows"
        " below.",
    ) as figure:
        for column, arm in enumerate(ARMS):
            for line, (name, text) in enumerate(
                zip(MAPPED, ("last attention: in", "last FFN: out"), strict=True)
            ):
                cells = (
                    maps[(maps["arm"] == arm) & (maps["matrix"] == name)]
                    .filter(regex="^c")
                    .to_numpy(float)
                )
                axes = figure.add_axes((0.045 + 0.182 * column, 0.45 - 0.42 * line, 0.17, 0.37))
                image = axes.imshow(
                    cells / np.sqrt((cells**2).mean()), vmin=0, vmax=3, cmap="magma", aspect="auto"
                )
                axes.set(xticks=(), yticks=())
                if line == 0:
                    axes.set_title(arm, fontsize=10)
                if column == 0:
                    axes.set_ylabel(text, color=MUTED)
        figure.colorbar(image, cax=figure.add_axes((0.957, 0.03, 0.012, 0.79)))


def report(rows: pd.DataFrame) -> None:
    """Print the end of the trainings, and differences of loss to the plain arm of the same
    optimizer and seed.
    """
    last = rows[rows["tokens"] == rows["tokens"].max()].set_index(["operator", "arm", "seed"])
    print(
        last.groupby(["operator", "arm"], sort=False)
        .mean()
        .round(3)
        .drop(columns="tokens")
        .to_string()
    )
    losses = last["loss"].unstack("arm")
    for arm in ARMS:
        gaps = losses[arm] - losses["plain, AdamW" if "AdamW" in arm else "plain"]
        for operator, part in gaps.dropna().groupby("operator") if not gaps.eq(0).any() else ():
            print(f"{arm} less plain, {operator}: {part.mean():+.3f} ± {part.sem():.3f} nats")


def main() -> None:
    """Train unless --draw is given, print the tables and draw the pictures."""
    if "--draw" not in sys.argv:
        train_all()
    rows = pd.read_csv(CSV)
    report(rows)
    draw_norms(rows)
    draw_maps(pd.read_csv(MAPS))


if __name__ == "__main__":
    main()
