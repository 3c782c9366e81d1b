"""Results files of programs: as these write them (those of vLLM are of runs, others follow sources)."""

import json
import math

import numpy as np
import pytest
from cases import cases
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.exporting.configuration import export_configuration
from flashnas.latency.prediction import model_of
from flashnas.latency.workload import WORKLOADS
from flashnas.observations.correction import corrected
from flashnas.observations.read_times import MAX_TIMES, read_times
from flashnas.observations.times import REPEAT_SD

NETWORK = Architecture.parse("1024: 4x(a f)")
# of vllm 0.32 on a CPU. vllm bench latency --output-json
VLLM = {
    "model_id": "runs/small/timed/01",
    "avg_latency": 1.2218238100002055,
    "latencies": [
        1.3182222629984608,
        0.7722865309988265,
        1.1855403510053293,
        1.4221689120022347,
        1.4109009929961758,
    ],
    "percentiles": {"10": 0.9375880590014276, "50": 1.3182222629984608},
}


def llama_bench(read, written, depth, kind="llama 1B F16", nanoseconds=(5_000_000, 5_100_000)):
    """An entry of llama-bench -o json."""
    return {
        "build_commit": "abc1234",
        "build_number": 11549,
        "gpu_info": "NVIDIA H100",
        "model_filename": "f.gguf",
        "model_type": kind,
        "model_n_params": NETWORK.params,
        "n_prompt": read,
        "n_gen": written,
        "n_depth": depth,
        "avg_ns": int(np.mean(nanoseconds)),
        "samples_ns": list(nanoseconds),
    }


@pytest.fixture
def write(tmp_path):
    """Writes a file into the folder of the network, as `export --no-weights` makes it."""
    export_configuration(NETWORK.notation, tmp_path / "01", dtype="bfloat16", tokenizer=None)

    def written(name, *entries):
        path = tmp_path / "01" / name
        lines = name.endswith(".jsonl")
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        path.write_text(text if lines else json.dumps(*entries))
        return path

    return written


def test_vllm_bench_latency_is_of_the_request_that_its_name_states(write):
    """Whose first token is drawn from the prompt: of 32 tokens 31 steps, of one none."""
    path = write("batch=1,prompt=64,generated=32.json", VLLM)
    (time,) = read_times(path)
    assert (time.program, time.network.hash) == ("vllm", NETWORK.hash)
    assert (time.workload.prompt_tokens, time.workload.generated_tokens) == (64, 31)
    (one,) = read_times(write("batch=1,prompt=64,generated=1.json", VLLM))
    assert (one.workload.prompt_tokens, one.workload.generated_tokens) == (64, 0)
    assert time.milliseconds == {"latency_ms": pytest.approx(1318.2222629984608)}
    assert time.noise == pytest.approx(np.std(np.log(VLLM["latencies"])))
    assert time.place == f"{path}:1"


def test_repeats_in_one_process_are_rarely_as_near_as_they_say(write):
    (time,) = read_times(write("decode-8k.json", {**VLLM, "latencies": [14.0, 14.0, 14.01]}))
    assert (time.workload, time.noise) == (WORKLOADS["decode-8k"], REPEAT_SD)


def test_llama_bench_reads_generates_behind_a_depth_or_both(write):
    entries = [
        llama_bench(512, 0, 0),
        llama_bench(0, 48, 1024),
        llama_bench(0, 48, 0),
        llama_bench(512, 48, 0),
        llama_bench(512, 0, 1024),  # of no request
    ]
    read, deep, first, both = read_times(write("any.json", entries))
    assert read.milliseconds == {"ttft_ms": pytest.approx(5.05)}
    assert deep.milliseconds == first.milliseconds == {"tpot_ms": pytest.approx(5.05 / 48)}
    assert (deep.workload.prompt_tokens, first.workload.prompt_tokens) == (1024, 0)
    assert both.milliseconds == {"latency_ms": pytest.approx(5.05)}
    assert {time.program for time in (read, deep, first, both)} == {"llama.cpp 11549"}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("llama 1B F16", "float16"),
        ("granite 3B BF16", "bfloat16"),
        ("qwen3 0.6B all F32", "float32"),
        ("llama 1B Q4_K - Medium", "q4_k"),
        ("llama 1B Q8_0", "q8_0"),
        ("llama ?B", "auto"),
    ],
)
def test_llama_bench_names_the_type_of_the_weights(kind, dtype, write):
    (time,) = read_times(write("any.json", [llama_bench(0, 48, 0, kind)]))
    assert time.workload.dtype == dtype


def test_float16_counts_as_bfloat16_and_other_types_are_left_out(write):
    model = model_of("h100_sxm", WORKLOADS["decode-8k"])
    half = write("f16.json", [llama_bench(0, 48, 0)])
    quantized = write("q8.json", [llama_bench(0, 48, 0, "llama 1B Q8_0")])
    with pytest.warns(UserWarning, match="left out, because not on h100_sxm: 1 of q8_0"):
        assert corrected(model, half, quantized).observed["times"] == 1
    message = one_line(ConfigError, corrected, model, quantized)
    assert "must have a time on h100_sxm in bfloat16; got 1 of q8_0" in message


def test_a_folder_is_all_files_in_it_and_in_its_folders(write, tmp_path):
    write("decode-8k.json", VLLM)
    write("chat.json", VLLM)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        write(name, {"version": "1.0"})
    write("model.safetensors.index.json", {"weight_map": {}})
    (tmp_path / "more.csv").write_text(
        "network,workload,program,device,latency_ms\n1024: d,chat,vllm,,90\n"
    )
    times = read_times(tmp_path)
    assert [time.workload.name for time in times] == ["chat", "decode-8k", "chat"]
    assert [time.place.rpartition("/")[2] for time in times][2] == "more.csv:2"
    assert len(read_times(tmp_path / "more.csv", tmp_path / "01" / "chat.json")) == 2


def test_a_folder_without_times_and_a_link_out_of_it_are_one_line(write, tmp_path):
    message = one_line(ConfigError, read_times, tmp_path)
    assert f"{tmp_path}: must hold 1 to {MAX_TIMES} observed times; got 0" in message
    (tmp_path / "01" / "chat.json").symlink_to("/etc/hostname")
    assert "must lie in the folder" in one_line(ConfigError, read_times, tmp_path)


def test_two_programs_are_two_searches(write):
    paths = write("chat.json", VLLM), write("any.jsonl", llama_bench(0, 48, 0))
    assert "program must be the same in all times, 'vllm'; got 'llama.cpp 11549'" in one_line(
        ConfigError, read_times, *paths
    )


def test_a_results_file_lies_beside_its_network(write, tmp_path):
    path = write("chat.json", VLLM).rename(tmp_path / "chat.json")
    message = one_line(ConfigError, read_times, path)
    assert message.startswith(f"{path}:1: must lie beside the config.json of its network")


@pytest.mark.parametrize(("name", "entry", "words"), cases("observations", "wrong_results"))
def test_a_wrong_results_file_is_one_line(name, entry, words, write):
    message = one_line(ConfigError, read_times, write(name, entry))
    assert all(word in message for word in (name, *words)), message


def test_a_config_that_is_a_link_out_of_the_folder_is_not_read(write, tmp_path):
    path = write("chat.json", VLLM)
    config = path.with_name("config.json")
    config.rename(tmp_path.parent / "theirs.json").touch()
    config.symlink_to(tmp_path.parent / "theirs.json")
    assert "config.json: must lie in the folder" in one_line(ConfigError, read_times, path)


def test_numbers_that_no_program_writes_are_one_line(write):
    entries = [math.nan, math.inf, -1, 0, True, 10**400, -(10**400), "1", [], [[1]], {}]
    for number in entries:
        for entry in (
            {**VLLM, "latencies": [1.0, number]},
            {**llama_bench(0, 48, 0), "samples_ns": number},
        ):
            message = one_line(ConfigError, read_times, write("chat.json", entry))
            assert "chat.json" in message


def test_requests_that_no_program_writes_are_one_line(write):
    for value in (math.nan, -1, 0.5, 10**400, "1", [1], None):
        for entry in (
            {**llama_bench(0, 48, 0), "n_gen": value},
            {**llama_bench(0, 48, 0), "n_depth": value or -1},
        ):
            assert "chat.json:1: workload" in one_line(
                ConfigError, read_times, write("chat.json", entry)
            )
