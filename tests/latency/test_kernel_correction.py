import dataclasses

import numpy as np
import pandas as pd
import pytest
from fit_kernels import WHOLE_THROUGHPUT, fit, main, whole_models
from tiny_tables import TINY, tiny_kinds, write_entry, write_table

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import TableError
from flashnas.latency.calibration import Calibration
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable

MODELS = [
    f"{hidden}(vocab=64): {layers}x(a(heads=2,kv_heads={kv},head_dim={dim})"
    f" f(intermediate={inner}))"
    for hidden, layers, kv, dim, inner in (
        (32, 1, 1, 16, 64),
        (32, 4, 2, 8, 64),
        (64, 2, 1, 8, 256),
        (64, 6, 2, 16, 128),
        (64, 3, 1, 16, 32),
        (32, 3, 2, 16, 256),
    )
]
SLOW = dataclasses.replace(
    TINY, bandwidth_bytes_s=2e7
)  # so that the bytes of attention count in some of the models
CONSTANTS = {
    "scale": 1.7,
    "gap_us": 5.0,
    "attention_us": 40.0,
    "attention_slowdown": 5.0,
    "head_dim_power": 0.2,
}
STEPS, RATES = "prompt=2,generated=2", "batch=4,prompt=4,generated=8"


def measured(table):
    """What the table's constants give for the models, as if somebody had measured it."""
    architectures = [Architecture.parse(text) for text in MODELS]
    seconds = LatencyModel(table, STEPS, calibration="paper").latencies(architectures) / 1000
    model = LatencyModel(table, RATES, calibration="paper")
    rates = [model.estimate(architecture).throughput_tok_s for architecture in architectures]
    return pd.concat(
        [
            pd.DataFrame({"model": MODELS, "workload": STEPS, "latency_s": seconds}),
            pd.DataFrame({"model": MODELS, "workload": RATES, "throughput_tok_s": rates}),
        ]
    )


def test_fit_recovers_the_constants_that_made_the_times_and_rates(tmp_path):
    """Prompts are read too: no constant touches their time."""
    write_table(tmp_path / "t", tiny_kinds(), device=SLOW)
    write_entry(tmp_path / "t", "calibration", {"paper": CONSTANTS})
    result = fit(str(tmp_path / "t"), measured(tmp_path / "t"))
    for name, value in CONSTANTS.items():
        assert getattr(result.correction, name) == pytest.approx(value, rel=1e-4), name
    np.testing.assert_allclose(result.left_out, 0, atol=1e-4)
    assert result.rates.tolist() == [False] * 6 + [True] * 6


def test_fit_needs_more_measurements_than_constants(tiny_table):
    few = pd.DataFrame({"model": MODELS[:5], "workload": "generated=8", "latency_s": 1.0})
    with pytest.raises(
        TableError, match="calibration paper needs at least 6 measurements of whole models; got 5"
    ):
        fit(tiny_table, few)


def test_many_blocks_of_threads_fill_the_device():
    correction = Calibration(attention_slowdown=4.0, attention_filled=2.0, attention_blocks=100)
    times = [
        correction.attention(1, bytes_us=20, head_dim=128, pairs=pairs)
        for pairs in (8, 100, 200, 10**6)
    ]
    assert times == [4 * 20, 4 * 20, 3 * 20, pytest.approx(2 * 20, rel=1e-3)]


@pytest.mark.slow
def test_shipped_paper_constants_are_what_the_fit_gives(capsys):
    table = LatencyTable.load("h100_sxm")
    for key, value in fit(table, whole_models(table)).to_dict().items():
        assert table.calibration["paper"][key] == pytest.approx(value, abs=0.01), key
    main(["h100_sxm"])
    assert "Llama-3.2-1B        throughput-32k" in capsys.readouterr().out


def test_throughput_at_32k_is_met_within_its_interval():
    """The one bound of attention holds for grouped and other heads, for one sequence and for
    many.
    """
    table = LatencyTable.load("h100_sxm")
    measured = pd.read_csv(table.path / WHOLE_THROUGHPUT, comment="#")
    model = LatencyModel(table, "throughput-32k", calibration="paper")
    estimates = [model.estimate(load_architecture(name)) for name in measured["model"]]
    for estimate, seen in zip(estimates, measured["throughput_tok_s"], strict=True):
        assert estimate.throughput_tok_s == pytest.approx(seen, rel=0.13)
        lower, upper = estimate.bounds["throughput_tok_s"]
        assert lower < seen < upper
        assert "take throughput as a ranking" in estimate.notes[0]
    told = pd.Series([estimate.throughput_tok_s for estimate in estimates])
    assert told.corr(measured["throughput_tok_s"], "spearman") > 0.95
