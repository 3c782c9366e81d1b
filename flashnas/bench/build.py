"""Journals to the parquet file and card of a bench, in seconds."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, MissingRowsError
from flashnas.base.files import atomic_file, write_atomic
from flashnas.bench.journal import Header, Training
from flashnas.bench.measure import read_latencies
from flashnas.bench.table import CARD, COLUMNS, FILE, FURTHER, LATENCY, MEASURED, META, MORE, WHOLE, Bench
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable, shipped_tables
from flashnas.latency.workload import WORKLOADS
from flashnas.operators import OPERATORS

LIST = pa.list_(pa.list_(pa.float64()))


def build(header: Header, trainings: Sequence[Training], out: Path, measured: Sequence[Path] = (),
          tables: Sequence[str] | None = None) -> Bench:
    """Write bench.parquet and its card into a folder, and read them back.

    Args:
        measured: journals of latencies on a CPU (flashnas.bench.measure).
        tables: latency tables that predict the latencies; None: all that are shipped.

    Raises:
        BenchError: there are no trainings, or a journal of latencies is damaged.
    """
    if not trainings:
        raise BenchError("the journals hold no training yet; flashnas bench grow adds some")
    out.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([_row(header, training) for training in trainings])
    networks = [training.network for training in trainings]
    for name, values in predicted(networks, list(shipped_tables()) if tables is None else tables).items():
        frame[name] = values
    how = []
    for path in measured:
        measurement, times = read_latencies(path)
        how.append(measurement.to_dict())
        for name in ("ttft_ms", "tpot_ms"):
            frame[f"{MEASURED}{name}/{measurement.workload['name']}"] = [
                getattr(times.get(training.network.hash), name, None) for training in trainings]
    frame = frame.astype({name: "float64" for name in frame.columns if name.startswith(MORE)})
    frame = frame.astype({name: "Int64" for name in WHOLE})
    table = pa.Table.from_pandas(frame.drop(columns="curve"), preserve_index=False)
    table = table.append_column("curve", pa.array(frame["curve"].tolist(), type=LIST))
    meta = {META: json.dumps({**header.to_dict(), "measured": how}).encode()}
    with atomic_file(out / FILE) as part:
        pq.write_table(table.replace_schema_metadata(meta), part.absolute(), compression="zstd")
    bench = Bench.read(out)
    write_atomic(out / CARD, card(bench))
    return bench


def predicted(networks: Sequence[Architecture], tables: Sequence[str]) -> dict[str, list[float | None]]:
    """Column -> latency_ms of each network, by each table for every named workload of a fixed batch."""
    estimates: dict[str, list[float | None]] = {}
    for table_name in tables:
        table = LatencyTable.load(table_name)
        for name, workload in WORKLOADS.items():
            if workload.batch != "max":
                model = LatencyModel(table, workload)
                estimates[f"{LATENCY}{table_name}/{name}"] = [_latency_ms(model, network)
                                                              for network in networks]
    return estimates


def _latency_ms(model: LatencyModel, network: Architecture) -> float | None:
    try:
        return float(model.latencies([network])[0])
    except MissingRowsError:
        return None


def _row(header: Header, training: Training) -> dict[str, Any]:
    network = training.network
    kinds = Counter(spec.kind for spec in network.operators)
    mixers = sorted({spec.kind for spec in network.operators if spec.mixes_tokens})
    row = {
        **dataclasses.asdict(training), "hidden": network.hidden, "depth": len(network.operators),
        "mixers": " ".join(mixers),
        **{f"n_{kind}": kinds.get(kind, 0) for kind in OPERATORS.shipped}, "params": network.params,
        "recipe": header.recipe.name, "recipe_digest": header.digest, "dataset": header.source,
        "dataset_digest": header.dataset, "vocab": header.vocab, "proxy_hash": training.key[0],
        "curve": [list(map(float, point)) for point in training.curve],
        "backends": json.dumps(dict(training.backends)), "more": json.dumps(dict(training.more))}
    return {name: row[name] for name in COLUMNS}


def card(bench: Bench) -> str:
    """The card: what the bench is, how it was made, its columns, licence and limits."""
    facts, recipe = bench.to_dict(), bench.header.recipe
    columns = "\n".join(f"| `{name}` | {words} |" for name, words in {**COLUMNS, **FURTHER}.items())
    origins = "\n".join(f"| {name} | {count} |" for name, count in facts["origins"].items())
    mixers = ", ".join(f"`{kind}` {count}" for kind, count in facts["mixers"].items())
    seeds = ", ".join(f"{count} under seed {seed}" for seed, count in facts["seeds"].items())
    made_by = ", ".join(f"{name} {value}" for name, value in bench.header.made_by.items()) or "not recorded"
    trained, networks = bench.frame[bench.frame["loss"].notna()], bench.frame["architecture"].nunique()
    span = "" if trained.empty else (
        f" Depths go from {trained['depth'].min()} to {trained['depth'].max()} operators, widths of the"
        f" trained networks from {min(map(_width, trained['proxy']))} to"
        f" {max(map(_width, trained['proxy']))}.")
    lead = (f"{facts['trainings']} trainings of {facts['networks']} hybrid language models, really trained"
            f" by one recipe on one text. {facts['failed']} of them failed and say why. Each row has the"
            f" validation curve, and the latencies of the network at full width on the shipped device tables."
            f"{span} `flashnas bench build` writes this page.")
    timed = "".join(_wrapped(
        f"- `{MEASURED}*/{entry['workload']['name']}` was timed on {entry['device']} ({entry['stack']},"
        f" {entry['dtype']}, random weights) by `flashnas bench measure`: {entry['networks']} of {networks}"
        f" networks. Larger ones than that machine's free memory have none.", "  ") + "\n" for entry
                    in facts["measured"])
    return f"""# flashnas-bench: {bench.name}

{_wrapped(lead)}

```python
import flashnas.bench
frame = flashnas.bench.load({'' if bench.name == 'cpu' else repr(bench.name)})   # a pandas DataFrame
```

A search whose recipe, text, vocabulary and seed are those of a row takes its score at once (`source` is
`bench` in `trials.parquet`). `--no-bench` turns that off.

## What it holds

| origin | networks |
|---|---|
{origins}

{_wrapped(f"Networks with each token mixer: {mixers}. Trainings: {seeds}.")}

## How it was made

- Recipe `{recipe.name}` (digest `{bench.header.digest}`): {recipe.tokens:,} tokens in sequences of
  {recipe.sequence_tokens}; widths divided by {recipe.width_factor}, or by the factor that a space or network
  has of its own. All fields of the recipe are in the metadata of the file.
- Text `{bench.header.source}` (digest `{bench.header.dataset}`), vocabulary {bench.header.vocab}.
- Started with {made_by}. {facts['core_hours']:g} core-hours in all.
- `flashnas bench grow` trained the rows; `flashnas bench build` added counts and latencies.

## Limits

- The losses are of small networks after few tokens. They rank architectures as far as
  `flashnas proxy-trust` says, and not further. Differences below the noise between seeds, which the
  repeated rows show, mean nothing.
- The same training on another processor gives losses that differ by about 0.01 nats.
- `{LATENCY}*` are predictions of the shipped tables for the network at full width and not measurements.
{timed}- `tokens_per_s` and `seconds` are of the machines that trained the rows, at low priority beside other
  work.

## Licence

Apache-2.0, as flashnas. The latencies come from tables that are made from NVIDIA's AIConfigurator data
(Apache-2.0).

## Columns

| column | meaning |
|---|---|
{columns}
"""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _width(notation: str) -> int:
    return Architecture.parse(notation).hidden
