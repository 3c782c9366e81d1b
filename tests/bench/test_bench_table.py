import dataclasses
import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_builder import header, made_up_trainings
from offenders import every
from one_line import one_line

import flashnas as fn
from flashnas.base.errors import BenchError
from flashnas.base.files import append_synced
from flashnas.bench import COLUMNS, Bench, load
from flashnas.bench.build import build
from flashnas.bench.journal import Training
from flashnas.bench.table import FILE, META
from flashnas.latency.table import shipped_tables
from flashnas.training.recipe import Recipe

RECIPE = Recipe(name="quick", width_factor=1, vocab=300, tokens=1024)
FAILED = {"origin": "tiny", "architecture": "64: m f", "width_factor": 1, "proxy": "64(vocab=300): m f", "seed": 0,
          "reason": "diverged"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 trained networks of `tiny`, one published one, and one that failed."""
    place = tmp_path_factory.mktemp("bench") / "mine"
    trainings = made_up_trainings(RECIPE, vocab=300, count=12)
    published = dataclasses.replace(made_up_trainings(RECIPE, vocab=300, count=1, space="small")[0],
                                    origin="published:group")
    build(header(RECIPE), [*trainings, published, Training(**FAILED)], place)
    return place


@pytest.mark.slow
def test_rows_hold_what_was_trained(folder):
    frame = load(folder)
    assert len(frame) == 13
    assert list(frame.columns[:len(COLUMNS)]) == list(COLUMNS)
    for row, training in zip(frame.itertuples(), made_up_trainings(RECIPE, vocab=300, count=12), strict=False):
        network = fn.Architecture.parse(row.architecture)
        assert (row.loss, row.seed, row.tokens, row.curve) == (training.loss, 0, 1024, training.curve)
        assert (row.hidden, row.depth, row.params) == (network.hidden, len(network.operators), network.params)
        assert row.n_d == sum(spec.kind == "d" for spec in network.operators)
        assert row.backends == {"a": "torch"}
        assert row.more == {"late_loss": training.loss - 0.1}
        proxy = fn.Architecture.parse(row.proxy)
        assert (proxy.hash, proxy.params, proxy.vocab) == (row.proxy_hash, row.proxy_params, 300)
        assert proxy.hash == RECIPE.proxy_of(network, 300).hash
    assert frame.attrs["recipe"]["tokens"] == 1024


def test_latencies_are_those_of_the_shipped_tables_and_missing_where_a_table_cannot_answer(folder):
    frame = load(folder, failed=True)
    columns = [name for name in frame if name.startswith("latency_ms/")]
    assert len(columns) == 4 * len(shipped_tables())
    assert all(frame[name].dtype == "float64" for name in columns)
    row = frame.iloc[2]
    for table, workload in (("h100_sxm", "decode-8k"), ("l40s", "chat")):
        assert row[f"latency_ms/{table}/{workload}"] == pytest.approx(
            fn.estimate(row["architecture"], table=table, workload=workload).latency_ms)
    assert frame["latency_ms/a100_sxm/prefill-2k"].isna().any()


def test_filters(folder):
    everything = load(folder, failed=True)
    assert len(everything) == 14
    assert list(everything[everything["loss"].isna()]["reason"]) == ["diverged"]
    assert set(load(folder, hidden=96)["hidden"]) == {96}
    assert load(folder, depth=(4, 6))["depth"].between(4, 6).all()
    assert set(load(folder, origin="tiny")["origin"]) == {"tiny"}
    assert list(load(folder, origin="published")["origin"]) == ["published:group"]
    mixers = everything["mixers"].iloc[0].split()
    assert set(load(folder, mixers=mixers[::-1])["mixers"]) == {" ".join(mixers)}
    assert len(load(folder, seed=1)) == 0
    assert len(load(folder, recipe=recipe_file(folder, tokens=1024))) == 13


def recipe_file(folder, **changes):
    path = folder.parent / "recipe.yaml"
    dataclasses.replace(RECIPE, **changes).save(path)
    return path


def test_what_does_not_exist_is_one_line(folder):
    assert "origin must be one of published, published:group, tiny; got 'tyni' (did you mean 'tiny'?)" in one_line(
        BenchError, load, folder, origin="tyni")
    assert "mixers must be one of" in one_line(BenchError, load, folder, mixers=["d", "x"])
    with pytest.raises(BenchError, match="bench 'nowhere': no shipped bench and no folder"):
        load("nowhere")
    with pytest.raises(BenchError, match=r"is of another recipe: recipe\.tokens is 1024 in the bench and 9 in recipe"):
        load(folder, recipe=recipe_file(folder, tokens=9))


def test_the_card_says_what_and_how_and_documents_every_column(folder):
    card = (folder / "README.md").read_text()
    for words in ("14 trainings of 13 hybrid", "1 of them failed", "Recipe `quick`", "1,024 tokens", "Apache-2.0",
                  "| tiny | 12 |", "## Limits"):
        assert words in card
    assert all(f"| `{name}` |" in card for name in COLUMNS)
    assert max(map(len, (line for line in card.splitlines() if not line.startswith("|")))) <= 120


def test_measured_latencies_become_columns(folder, tmp_path):
    trainings = made_up_trainings(RECIPE, vocab=300, count=2)
    path = tmp_path / "latencies-chat.jsonl"
    append_synced(path, json.dumps({"flashnas_bench_latencies": 1, "device": "a CPU", "stack": "torch-2", "dtype":
                                  "float32", "workload": fn.Workload(name="chat", prompt_tokens=4).to_dict()}))
    append_synced(path, json.dumps({"hash": trainings[1].network.hash, "ttft_ms": 12.5, "tpot_ms": 2.5}))
    bench = build(header(RECIPE), trainings, tmp_path / "bench", [path], tables=())
    frame = bench.frame
    assert "measured  1 networks on a CPU (torch-2, float32): chat" in str(bench)
    card = (tmp_path / "bench" / "README.md").read_text()
    assert "timed on a CPU (torch-2, float32, random weights) by `flashnas bench measure`: 1 of 2" in card
    assert frame["measured_ttft_ms/chat"].tolist()[1] == 12.5
    assert frame["measured_tpot_ms/chat"].isna().tolist() == [True, False]
    append_synced(path, "{}")
    with pytest.raises(BenchError, match=r"latencies-chat.jsonl:3: training needs the key 'hash'"):
        build(header(RECIPE), trainings, tmp_path / "bench", [path], tables=())


def rewritten(folder, change):
    table = pq.read_table(folder / FILE)
    pq.write_table(change(table), folder / FILE)


def with_meta(text):
    return lambda table: table.replace_schema_metadata({META: text})


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


DAMAGE = {
    "cut short": (lambda folder: cut(folder / FILE), "not readable as parquet"),
    "another table": (lambda folder: pd.DataFrame({"a": [1]}).to_parquet(folder / FILE), "not a bench of flashnas"),
    "no JSON": (lambda folder: rewritten(folder, with_meta("{")), "metadata 'flashnas_bench': not valid JSON"),
    "nested metadata": (lambda folder: rewritten(folder, with_meta("[" * 100_000)), "must be nested at most"),
    "seeds in words": (lambda folder: rewritten(folder, lambda table: table.set_column(
        table.column_names.index("seed"), "seed", [["x"] * len(table)])), "column 'seed': Unable to parse string"),
    "another format": (lambda folder: rewritten(folder, with_meta('{"flashnas_bench": 7}')), "a bench of format 7"),
    "no loss": (lambda folder: rewritten(folder, lambda table: table.drop_columns("loss")), "column 'loss' is missing"),
    "losses in words": (lambda folder: rewritten(folder, lambda table: table.set_column(
        table.column_names.index("loss"), "loss", [["low"] * len(table)])), "damaged"),
    "a loss without its tokens": (lambda folder: rewritten(folder, lambda table: table.set_column(
        table.column_names.index("tokens"), "tokens", [pa.nulls(len(table), pa.int64())])), "'tokens' has no value"),
    "no file": (lambda folder: (folder / FILE).unlink(), "not a bench, it has no bench.parquet"),
}


@every(case=DAMAGE)
def test_a_damaged_bench_is_one_line(case, folder, tmp_path):
    shutil.copytree(folder, tmp_path / case)
    damage, words = DAMAGE[case]
    damage(tmp_path / case)
    message = one_line(BenchError, Bench.read, tmp_path / case)
    assert words in message
    assert str(tmp_path / case) in message
