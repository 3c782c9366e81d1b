"""What is expected of the full trainings before anyone has seen one.

    python experiments/full_training/predict.py    # predictions.csv; seconds; commit it before
    compare.py

Law, evidence and full model give differences to the first network of networks.csv, in nats per
token. Each network is trained on its own number of tokens, 20 for each parameter, and is predicted
for that number. `law` knows size and shape, `evidence` the mix, too, and `full` also the short loss
of short.csv.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import flashnas as fn

HERE = Path(__file__).parent
TOKENS_PER_PARAMETER = 20
COLUMNS = (
    "notation",
    "short_loss",
    "law",
    "evidence",
    "evidence_sd",
    "evidence_sds",
    "full",
    "full_sd",
    "full_sds",
)


def model() -> Any:
    """The shipped model of the full loss."""
    from flashnas.loss.load import loss_model

    return loss_model()


def predicted(
    found: Any, networks: list[fn.Architecture], tokens: list[float], beyond: list[float] | None
) -> Any:
    """The Prediction of all networks together, each for its own tokens."""
    from flashnas.loss.model import Table

    parts = [
        found.table([network], count, None if beyond is None else [beyond[number]])
        for number, (network, count) in enumerate(zip(networks, tokens, strict=True))
    ]
    return found.predict(
        Table(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("x", "shares", "ffn", "publication")
            )
        )
    )


def columns(name: str, prediction: Any) -> list[dict[str, Any]]:
    """Of each network: the mean difference to the first, its sd, and the sds of the differences to
    all. Each sd holds the noise of both trainings."""
    noise = math.sqrt(2) * prediction.noise
    sds_NN = np.array(
        [np.hypot(prediction.sd_to(place), noise) for place in range(len(prediction.mean))]
    )
    return [
        {
            name: f"{prediction.mean[place] - prediction.mean[0]:.5f}",
            f"{name}_sd": f"{sds_NN[0, place] if place else 0.0:.5f}",
            f"{name}_sds": json.dumps([round(float(sd), 5) for sd in sds_NN[place]]),
        }
        for place in range(len(prediction.mean))
    ]


def main() -> None:
    """Write predictions.csv."""
    with (HERE / "networks.csv").open(newline="") as file:
        notations = [row["notation"] for row in csv.DictReader(file)]
    with (HERE / "short.csv").open(newline="") as file:
        short = {row["notation"]: float(row["loss"]) for row in csv.DictReader(file)}
    networks = [fn.Architecture.parse(notation) for notation in notations]
    params = [network.params - network.vocab * network.hidden for network in networks]
    tokens = [float(TOKENS_PER_PARAMETER * count) for count in params]
    found = model()
    widths = [network.hidden for network in networks]
    laws = found.law.loss(np.array(params), np.array(tokens), np.array(widths))
    beyond = [
        found.beyond(network, short[notation])
        for network, notation in zip(networks, notations, strict=True)
    ]
    evidence = columns("evidence", predicted(found, networks, tokens, None))
    full = columns("full", predicted(found, networks, tokens, beyond))
    with (HERE / "predictions.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        for place, notation in enumerate(notations):
            rows.writerow(
                {
                    "notation": notation,
                    "short_loss": short[notation],
                    "law": f"{laws[place] - laws[0]:.5f}",
                    **evidence[place],
                    **full[place],
                }
            )


if __name__ == "__main__":
    main()
