"""Import of a small fake package in the layout of aiconfigurator-core."""

import json

import pandas as pd
import pytest
from cases import data_of
from golden import check_golden
from one_line import one_line

from flashnas.api.tables import import_table
from flashnas.base.errors import TableError
from flashnas.latency.importers import aiconfigurator
from flashnas.latency.importers.aiconfigurator import import_system
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_info import facts_of

SYSTEM = """\
gpu:
  mem_bw: 1000000000000
  mem_bw_empirical_scaling_factor: 0.8
  mem_empirical_constant_latency: 0.000003
  mem_capacity: 80000000000
  bfloat16_tc_flops: 100000000000000
misc:
  nccl_mem:
    1: 0
"""


def parquet(root, path, rows, **common):
    file = root / "aiconfigurator_core/systems/data/fake" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**common, **row} for row in rows]).assign(device="NVIDIA Fake").to_parquet(file)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installed."""
    root = tmp_path / "package"
    (root / "aiconfigurator_core-9.9.dist-info").mkdir(parents=True)
    (root / "aiconfigurator_core-9.9.dist-info/METADATA").write_text(
        "Name: aiconfigurator-core\nVersion: 9.9\n"
    )
    systems = root / "aiconfigurator_core/systems"
    systems.mkdir(parents=True)
    (systems.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(root))
    (systems / "fake.yaml").write_text(SYSTEM)
    files = data_of("latency/aiconfigurator")
    for name, content in files.items():
        parquet(root, name, content["rows"], **content["common"])
    return root


def check(folder):
    """Of each kernel of several versions the newest one, by number; of measurements of other key
    heads the median; no kernels that include a convolution; experts of two devices at half of their
    width, without a gate, and with a scale for each block."""
    table = LatencyTable.load(folder)
    columns = ["p10_us", "p90_us", "repeats"]
    rows = [
        f"== {kind}\n{rows.drop(columns=columns).to_csv(index=False, float_format='%.6g')}"
        for kind, rows in table.frames.items()
    ]
    facts = facts_of(table)
    said = [facts["device"], facts["stacks"], facts["kinds"]["gemm"]["origin"]]
    check_golden("imported.txt", "\n".join([*rows, json.dumps(said, indent=1)]) + "\n")


def test_from_the_installed_package(package, tmp_path):
    check(import_system("fake", tmp_path / "out"))


def test_an_interrupted_import_begins_anew(package, tmp_path, monkeypatch):
    call = {"system": "fake", "out": tmp_path / "table"}
    writes = iter([aiconfigurator.write_rows])
    with monkeypatch.context() as patch:
        patch.setattr(
            aiconfigurator, "write_rows", lambda *rows, **more: next(writes)(*rows, **more)
        )
        with pytest.raises(StopIteration):
            import_table("aiconfigurator", **call)
    check(import_table("aiconfigurator", **call).path)


def test_what_cannot_be_imported_is_one_line(package, tmp_path, monkeypatch):
    systems = package / "aiconfigurator_core/systems"
    measurements = systems / "data/fake/gemm/vllm/0.10.0/gemm_perf.parquet"
    (systems / "bare.yaml").write_text(SYSTEM)
    broken = "fake.yaml: cannot be read"

    def refused(words, system="fake", out="out"):
        assert words in one_line(TableError, import_system, system, tmp_path / out)

    refused("system must be one of bare, fake; got 'fakes' (did you mean 'fake'", "fakes")
    refused("bare has no bfloat16 measurements", "bare")
    import_system("fake", tmp_path / "there")
    refused("there: cannot be written: Directory not empty", out="there")
    measurements.write_bytes(b"junk")
    refused("gemm_perf.parquet: damaged, not readable as parquet")
    pd.DataFrame({"m": [1]}).to_parquet(measurements)
    refused("latency is missing")
    for columns, words in (({}, "gemm_dtype is missing"), ({"latency": "x"}, "cannot be read: ")):
        pd.DataFrame({"m": [1], "latency": [1.0], **columns}).to_parquet(measurements)
        refused(words)
    for text, words in (
        (SYSTEM.replace("mem_bw:", "bw:"), "fake.yaml: mem_bw is missing"),
        ("gpu: [", broken),
        ("gpu: !!int ''", broken),
    ):
        (systems / "fake.yaml").write_text(text)
        refused(words)
    monkeypatch.setattr(aiconfigurator, "DISTRIBUTION", "aiconfigurator-corn")
    refused("not installed: pip install 'flashnas[import]'")


def test_rows_of_the_triton_kernel_beside_those_of_a_faster_one(package, tmp_path):
    """Of repeated measurements the shortest; what takes longer than smaller ones, for a sequence
    and token, is left out.
    """
    gdn = dict(head_k_dim=128, head_v_dim=128, d_conv=4, num_v_heads=4, phase="context")
    parquet(
        package,
        "linear_attention/vllm/0.10.0/gdn_perf.parquet",
        [
            {
                "kernel_source": "chunk_gated_delta_rule_flashinfer",
                "num_k_heads": 2,
                "batch_size": 1,
                "seq_len": 64,
                "latency": 0.01,
            }
        ],
        **gdn,
    )
    parquet(
        package,
        "linear_attention/sglang/0.5/gdn_perf.parquet",
        [
            {"num_k_heads": heads, "batch_size": batch, "seq_len": tokens, "latency": latency}
            for heads, batch, tokens, latency in (
                (2, 1, 64, 0.03),
                (4, 1, 64, 0.02),
                (2, 2, 64, 0.041),
                (2, 1, 128, 0.2),
                (2, 2, 128, 0.2),
                (2, 4, 64, 0.081),
            )
        ],
        kernel_source="chunk_gated_delta_rule",
        **gdn,
    )
    table = LatencyTable.load(import_system("fake", tmp_path / "out"))
    assert table.frames["gated_delta_rule_prefill"]["latency_us"].tolist() == pytest.approx([10])
    found = table.frames["gated_delta_rule_triton_prefill"].sort_values(["batch", "tokens"])
    assert found[["batch", "tokens"]].to_numpy().tolist() == [[1, 64], [1, 128], [2, 64], [4, 64]]
    assert found["latency_us"].tolist() == pytest.approx(
        [20, 200, 41, 81]
    )  # of one sequence all rows are kept
    assert set(found["stack"]) == {"sglang-0.5"}
