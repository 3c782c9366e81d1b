import dataclasses
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_builder import header, made_up_trainings, metadata, row, write
from offenders import every
from one_line import one_line

import flashnas as fn
from flashnas.base.errors import BenchError
from flashnas.bench import COLUMNS, Bench, load
from flashnas.bench.table import FILE, META, Header
from flashnas.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(name="quick", width_factor=1, vocab=300, tokens=1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 trained networks of `tiny`, one published one, and one that failed."""
    place = tmp_path_factory.mktemp("bench") / "mine"
    trainings = made_up_trainings(RECIPE, vocab=300, count=12)
    published = {
        **made_up_trainings(RECIPE, vocab=300, count=1, space="small")[0],
        "origin": "published:group",
    }
    network = fn.Architecture.parse("64: m f")
    failed = row("tiny", network, RECIPE.proxy_of(network, 300), 0, {"reason": "diverged"})
    write(place, header(RECIPE), [*trainings, published, failed])
    return place


def test_rows_hold_what_was_trained(folder):
    frame = load(folder)
    assert len(frame) == 13
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    for found, training in zip(
        frame.itertuples(), made_up_trainings(RECIPE, vocab=300, count=12), strict=False
    ):
        network = fn.Architecture.parse(found.architecture)
        assert (found.loss, found.seed, found.tokens, found.curve) == (
            training["loss"],
            0,
            1024,
            training["curve"],
        )
        assert (found.hidden, found.depth, found.params) == (
            network.hidden,
            len(network.operators),
            network.params,
        )
        assert found.n_d == sum(spec.kind == "d" for spec in network.operators)
        assert found.backends == {"a": "torch"}
        assert found.more == {"late_loss": training["loss"] - 0.1}
        proxy = fn.Architecture.parse(found.proxy)
        assert (proxy.hash, proxy.params, proxy.vocab) == (
            found.proxy_hash,
            found.proxy_params,
            300,
        )
        assert proxy.hash == RECIPE.proxy_of(network, 300).hash
    assert frame.attrs["recipe"]["tokens"] == 1024


def test_latencies_of_the_shipped_bench_are_predictions_of_the_shipped_tables():
    frame = load()
    columns = [name for name in frame if name.startswith("latency_ms/")]
    assert all(frame[name].dtype == "float64" for name in columns)
    network = frame.iloc[2]
    for table, workload in (("h100_sxm", "decode-8k"), ("l40s", "chat")):
        assert network[f"latency_ms/{table}/{workload}"] == pytest.approx(
            fn.estimate(
                network["architecture"], table=table, workload=workload, calibration="paper"
            ).latency_ms
        )
    assert frame["latency_ms/a100_sxm/prefill-2k"].isna().any()


def test_failed_trainings_are_there_if_asked_for(folder):
    everything = load(folder, failed=True)
    assert (len(everything), len(load(folder))) == (14, 13)
    assert list(everything[everything["loss"].isna()]["reason"]) == ["diverged"]


def test_what_does_not_exist_is_one_line():
    with pytest.raises(BenchError, match="bench 'nowhere': no shipped bench and no folder"):
        load("nowhere")


def test_the_card_documents_every_column():
    card = (ROOT / "bench_tables" / "cpu" / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in COLUMNS)


def test_measured_latencies_are_columns(tmp_path):
    rows = made_up_trainings(RECIPE, vocab=300, count=2)
    rows[0] |= {"measured_ttft_ms/chat": 12.5, "measured_tpot_ms/chat": 2.5}
    write(tmp_path, header(RECIPE), rows)
    assert load(tmp_path)["measured_tpot_ms/chat"].isna().tolist() == [False, True]


def test_what_the_loss_of_a_network_does_not_depend_on_may_differ():
    one = header(RECIPE)
    for same in (
        dataclasses.replace(RECIPE, name="other"),
        dataclasses.replace(RECIPE, width_factor=16),
    ):
        assert one.difference(same, one.dataset, one.vocab) is None
    for other, words in (
        (
            header(dataclasses.replace(RECIPE, lr_multipliers={"d": 2.0})),
            "recipe.lr_multipliers is {} in the bench and {'d': 2.0} in this",
        ),
        (header(RECIPE, vocab=301), "the vocabulary has 300 tokens in the bench and 301 in this"),
        (
            header(RECIPE, dataset="1" * 24),
            f"have the digest {'0' * 24} (sotu) in the bench and {'1' * 24} in this",
        ),
    ):
        assert words in one.difference(other.recipe, other.dataset, other.vocab)


def test_a_recipe_that_was_recorded_before_a_field_existed_has_its_default():
    data = metadata(header(RECIPE))
    del data["recipe"]["conv_noise"]
    assert Header.from_dict(data, "x").recipe.training_settings == RECIPE.training_settings


@every(
    case=[
        ({"flashnas_bench": 2}, "x: a bench of format 2; this version of flashnas"),
        ({"vocab": "many"}, "header.vocab must be a whole number; got 'many'"),
        ({"recipe": {"tokns": 1}}, "x: recipe has no key 'tokns'"),
    ]
)
def test_a_wrong_header_is_one_line_with_its_place(case):
    changes, words = case
    assert words in one_line(
        BenchError, Header.from_dict, {**metadata(header(RECIPE)), **changes}, "x"
    )
    assert "not the header of a bench" in one_line(BenchError, Header.from_dict, {}, "x")


def rewritten(change):
    def damage(folder):
        pq.write_table(change(pq.read_table(folder / FILE)), folder / FILE)

    return damage


def with_meta(text):
    return rewritten(lambda table: table.replace_schema_metadata({META: text}))


def with_column(name, cell, kind=None):
    def change(table):
        cells = pa.array([cell] * len(table), kind)
        return table.set_column(table.column_names.index(name), name, cells)

    return rewritten(change)


def cut(folder):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:5000])


DAMAGE = {
    "cut short": (cut, "not readable as parquet"),
    "another table": (
        lambda folder: pd.DataFrame({"a": [1]}).to_parquet(folder / FILE),
        "not a bench of flashnas",
    ),
    "no JSON": (with_meta("{"), "metadata 'flashnas_bench': not valid JSON"),
    "nested metadata": (with_meta("[" * 100_000), "must be nested at most"),
    "seeds in words": (with_column("seed", "x"), "column 'seed': Unable to parse string"),
    "another format": (with_meta('{"flashnas_bench": 7}'), "a bench of format 7"),
    "no loss": (
        rewritten(lambda table: table.drop_columns("loss")),
        "column 'loss' is missing",
    ),
    "losses in words": (with_column("loss", "low"), "damaged"),
    "a loss without its tokens": (
        with_column("tokens", None, pa.int64()),
        "'tokens' has no value",
    ),
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
