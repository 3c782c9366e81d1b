"""The predictions of predictions.csv against the full trainings of trainings.csv.

    python experiments/full_training/compare.py    # prints the figures and writes
    full_training.png; seconds

It also writes own.csv, the same trainings as rows of evidence: `flashnas evidence --evidence
experiments/full_training/own.csv`. Of each network the better of its rates counts. It does not run
unless every network has a prediction in a predictions.csv that git holds unchanged.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import subprocess
from pathlib import Path

import numpy as np
from scipy.stats import norm, spearmanr

HERE = Path(__file__).parent
CLEAR_NATS = 0.02  # a pair that lies further apart is clear
CONFIDENCE = 0.9  # of the intervals
COLUMN = {"short loss": "short_loss", "law": "law", "evidence": "evidence", "full": "full"}
WITH_SD = ("evidence", "full")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none if it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_committed(path: Path) -> None:
    """Stop unless git holds the file as it is."""
    run = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "--", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode or run.stdout.strip() or not path.exists():
        raise SystemExit(f"{path}: commit the predictions before the trainings are looked at")


def trained(rows: list[dict[str, str]], factors: set[float] | None) -> dict[str, float]:
    """Notation -> loss under the better of its rates, of those in `factors`; None: of all."""
    found: dict[str, float] = {}
    for row in rows:
        if row["loss"] and (factors is None or float(row["rate_factor"]) in factors):
            found[row["notation"]] = min(float(row["loss"]), found.get(row["notation"], math.inf))
    return found


def report(
    losses: dict[str, float], predictions: dict[str, dict[str, str]], order: list[str]
) -> list[str]:
    """The lines of the table, for the networks that have a loss."""
    places = [place for place, notation in enumerate(order) if notation in losses]
    pairs = list(itertools.combinations(range(len(places)), 2))
    true = np.array([losses[order[place]] for place in places])
    gaps = np.array([true[one] - true[other] for one, other in pairs])
    clear = np.abs(gaps) > CLEAR_NATS
    lines = [
        f"{len(places)} networks, {len(pairs)} pairs, {clear.sum()} of them more than"
        f" {CLEAR_NATS:g}"
        f" nats apart; standard deviation of the losses {true.std(ddof=1):.4f} nats",
        "             clear pairs in order    Spearman   RMSE of differences   90 % intervals hold",
    ]
    for name, column in COLUMN.items():
        values = np.array([float(predictions[order[place]][column]) for place in places])
        foretold = np.array([values[one] - values[other] for one, other in pairs])
        right = float(
            np.sum(np.where(foretold == 0, 0.5, np.sign(foretold) == np.sign(gaps))[clear])
        )
        share = f"{right:5.1f} of {clear.sum()} ({right / max(1, clear.sum()):.0%})"
        held = ""
        if name in WITH_SD:
            sds_NN = [json.loads(predictions[order[place]][f"{column}_sds"]) for place in places]
            sds = np.array([sds_NN[one][places[other]] for one, other in pairs])
            inside = np.abs(gaps - foretold) <= norm.ppf((1 + CONFIDENCE) / 2) * sds
            held = f"{inside.mean():.0%} of {len(pairs)}"
        lines.append(
            f"{name:<12} {share:<23} {spearmanr(values, true).statistic:>8.3f}   "
            f"{np.sqrt(np.mean((gaps - foretold) ** 2)):>19.4f}   {held}".rstrip()
        )
    return lines


def picture(
    losses: dict[str, float], predictions: dict[str, dict[str, str]], order: list[str], path: Path
) -> None:
    """Trained over predicted differences to the first network that has a loss, a panel for each
    predictor.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = [place for place, notation in enumerate(order) if notation in losses]
    first = places[0]
    gaps = np.array([losses[order[place]] - losses[order[first]] for place in places])
    figure, panels = pyplot.subplots(
        1, len(COLUMN), figsize=(13, 3.6), layout="constrained", sharey=True
    )
    for (name, column), axes in zip(COLUMN.items(), panels, strict=True):
        values = np.array([float(predictions[order[place]][column]) for place in places])
        values -= values[0]
        bars = None
        if name in WITH_SD:
            sds = [
                json.loads(predictions[order[place]][f"{column}_sds"])[first] for place in places
            ]
            bars = norm.ppf((1 + CONFIDENCE) / 2) * np.array(sds)
            bars[0] = 0.0
        axes.errorbar(values, gaps, xerr=bars, fmt="o", color="C0", ecolor="0.75", ms=5)
        ends = [min(values.min(), gaps.min()), max(values.max(), gaps.max())]
        axes.plot(ends, ends, color="0.5", lw=1, ls="--")
        axes.set(title=name, xlabel="predicted difference, nats a token")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("difference of the full trainings")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_evidence(losses: dict[str, float], rows: list[dict[str, str]], path: Path) -> None:
    """The trainings as a publication of one's own."""
    facts = {row["notation"]: row for row in rows}
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            [
                "group",
                "source",
                "operators",
                "params",
                "tokens",
                "hidden",
                "vocab",
                "metric",
                "value",
            ]
        )
        for notation, loss in losses.items():
            width, operators = notation.split(": ", 1)
            table.writerow(
                [
                    "small_equal_ms",
                    "flashnas experiments/full_training",
                    operators,
                    facts[notation]["params"],
                    facts[notation]["tokens"],
                    width.split("(")[0],
                    0,
                    "val_loss",
                    f"{loss:.4f}",
                ]
            )


def main() -> None:
    """Check, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE, help="of the three CSV files")
    parser.add_argument(
        "--uncommitted", action="store_true", help="for made-up numbers: git is not asked"
    )
    given = parser.parse_args()
    path = given.folder / "predictions.csv"
    order = [row["notation"] for row in read(given.folder / "networks.csv")]
    predictions = {row["notation"]: row for row in read(path)}
    for notation in order:
        if notation not in predictions:
            raise SystemExit(
                f"{path}: every network needs a prediction before the trainings are looked at;"
                f" it lacks {notation!r}"
            )
    if not given.uncommitted:
        check_committed(path)
    rows = read(given.folder / "trainings.csv")
    factors = sorted({float(row["rate_factor"]) for row in rows})
    by_factor = {factor: trained(rows, {factor}) for factor in factors}
    best = trained(rows, None)
    if len(best) < 3:
        raise SystemExit(
            f"{given.folder / 'trainings.csv'}: needs the full training of 3 networks; it has"
            f" {len(best)}"
        )
    both = {
        notation: loss
        for notation, loss in best.items()
        if all(notation in found for found in by_factor.values())
    }
    for factor, found in by_factor.items():
        better = sum(found[notation] == best[notation] for notation in both if notation in found)
        print(
            f"rate factor {factor:g}: {len(found)} of {len(order)} networks"
            + (
                f"; the better one for {better} of the {len(both)} that have all rates"
                if len(factors) > 1
                else ""
            )
        )
    print("\nThe better rate of each network", *report(best, predictions, order), sep="\n")
    if len(both) < len(best):
        for title, found in (
            (f"Rate factor {factors[0]:g} alone", by_factor[factors[0]]),
            ("Networks that have all rates", both),
        ):
            if len(found) >= 3:
                print(f"\n{title}", *report(found, predictions, order), sep="\n")
    write_evidence(best, rows, given.folder / "own.csv")
    picture(best, predictions, order, given.folder / "full_training.png")
    print(f"\n{given.folder / 'full_training.png'}")


if __name__ == "__main__":
    main()
