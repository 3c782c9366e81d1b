"""A synthetic bench: networks of a space with made-up losses under a given recipe, written as a
real one is.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flashnas.bench.table import COLUMNS, COUNTS, FILE, META, Bench, Header
from flashnas.space import load_space


def made_up_trainings(
    recipe,
    *,
    vocab,
    count=20,
    space="tiny",
    seed=0,
):
    """The rows of `count` different networks of a space, some at each width; deeper ones have lower
    losses.
    """
    found, rng = load_space(space), np.random.default_rng(0)
    rows = {}
    while len(rows) < count:
        hidden = found.hidden_sizes[-1 - len(rows) % len(found.hidden_sizes)]
        network = found.architecture(found.sample(rng), hidden)
        proxy = recipe.proxy_of(network, vocab)
        loss = 4.0 - 0.1 * len(network.operators) - hidden / 1000 + 0.001 * len(rows)
        rows.setdefault(
            proxy.hash, row(space, network, proxy, seed, score(recipe, loss, proxy.params))
        )
    return list(rows.values())


def row(origin, network, proxy, seed, values):
    """A row of a bench, without what all rows have in common. values: those of a score, or the
    reason of a failure.
    """
    kinds = [spec.kind for spec in network.operators]
    more = {name: value for name, value in values.items() if name not in COLUMNS}
    return {
        "origin": origin,
        "architecture": network.notation,
        "hidden": network.hidden,
        "depth": len(kinds),
        "mixers": " ".join(sorted({spec.kind for spec in network.operators if spec.mixes_tokens})),
        **{name: kinds.count(name.removeprefix("n_")) for name in COUNTS},
        "params": network.params,
        "width_factor": 1,
        "proxy": proxy.canonical().notation,
        "proxy_hash": proxy.hash,
        "proxy_params": proxy.params,
        "seed": seed,
        "curve": [],
        "reason": "",
        **values,
        "backends": json.dumps(values.get("backends", {})),
        "more": json.dumps(more),
    }


def score(recipe, loss, proxy_params):
    tokens = recipe.steps * recipe.batch_tokens
    return {
        "loss": loss,
        "bits_per_byte": loss / 2.5,
        "curve": [[tokens // 2, loss + 0.5], [tokens, loss]],
        "tokens": tokens,
        "tokens_per_s": 1000.0,
        "seconds": 77.0,
        "proxy_params": proxy_params,
        "backends": {"a": "torch"},
        "late_loss": loss - 0.1,
    }


def header(
    recipe,
    *,
    dataset="0" * 24,
    vocab=300,
    source="sotu",
):
    return Header(recipe=recipe, source=source, dataset=dataset, vocab=vocab)


def metadata(head):
    """The header as the file holds it."""
    return {
        "flashnas_bench": 1,
        "recipe": head.recipe.to_dict(),
        "source": head.source,
        "dataset": head.dataset,
        "vocab": head.vocab,
        "made_by": {"flashnas": "0.1.0"},
    }


def write(folder, head, rows):
    """Write rows as a bench, and read it back."""
    common = {
        "recipe": head.recipe.name,
        "recipe_digest": "of the recipe",
        "dataset": head.source,
        "dataset_digest": head.dataset,
        "vocab": head.vocab,
    }
    frame = pd.DataFrame([{**dict.fromkeys(COLUMNS), **row, **common} for row in rows])
    frame = frame[
        [*COLUMNS, *(name for name in frame if name.startswith(("latency_ms/", "measured_")))]
    ]
    table = pa.Table.from_pandas(frame.drop(columns="curve"), preserve_index=False)
    curves = pa.array(
        [[list(map(float, point)) for point in row["curve"]] for row in rows],
        pa.list_(pa.list_(pa.float64())),
    )
    table = table.append_column("curve", curves).replace_schema_metadata(
        {META: json.dumps(metadata(head)).encode()}
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / FILE)
    return Bench.read(folder)


def write_bench(
    folder,
    recipe,
    *,
    dataset="0" * 24,
    vocab=300,
    count=20,
    space="tiny",
    seed=0,
):
    rows = made_up_trainings(recipe, vocab=vocab, count=count, space=space, seed=seed)
    return write(folder, header(recipe, dataset=dataset, vocab=vocab), rows)
