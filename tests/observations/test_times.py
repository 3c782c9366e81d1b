import math

import pytest
from cases import cases
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.latency.workload import WORKLOADS
from flashnas.observations import read_times as times
from flashnas.observations.read_times import read_times
from flashnas.observations.times import REPEAT_SD

HEADER = "network,workload,program,device,latency_ms"


def written(folder, *lines):
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_is_an_observation(tmp_path):
    path = written(
        tmp_path,
        "network,program,device,workload,batch,prompt_tokens,generated_tokens,latency_ms,tpot_ms,p10_ms,p90_ms,source",
        '"1024(vocab=500): 2x(d f)",vllm 0.11,h100_sxm,chat,,,,90,0.3,88,93,mine',
        "Nemotron-Flash-1B,vllm 0.11,,,4,,64,,0.5",
    )
    first, second = read_times(path)
    assert first.network == Architecture.parse("1024(vocab=500): 2x(d f)")
    assert first.workload == WORKLOADS["chat"]
    assert first.milliseconds == {"latency_ms": 90, "tpot_ms": 0.3}
    assert first.noise == pytest.approx(math.log(93 / 88) / (2 * 1.2816), rel=1e-3)
    assert (first.place, first.source) == (f"{path}:2", "mine")
    assert (second.workload.batch, second.workload.generated_tokens) == (4, 64)
    assert (second.noise, second.sd) == (None, REPEAT_SD)


def test_a_network_is_what_estimate_takes(tmp_path):
    (tmp_path / "01.yaml").write_text("architecture: '128: a f'\n")
    path = written(tmp_path, HEADER, f"{tmp_path / '01.yaml'},chat,p,,9")
    assert read_times(path)[0].network == Architecture.parse("128: a f")
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / "folder", HEADER, f"{tmp_path / '01.yaml'},chat,p,,9")
    assert "t.csv:2: " in (line := one_line(ConfigError, read_times, path))
    assert "01.yaml: must lie in the folder" in line


@pytest.mark.parametrize(("row", "words"), cases("observations", "wrong_times"))
def test_a_wrong_row_is_one_line(row, words, tmp_path):
    message = one_line(ConfigError, read_times, written(tmp_path, HEADER, row))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("header", "row", "words"), cases("observations", "wrong_columns"))
def test_wrong_columns_are_one_line(header, row, words, tmp_path):
    message = one_line(ConfigError, read_times, written(tmp_path, header, row))
    assert all(word in message for word in words), message


def test_there_is_a_most(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "MAX_TIMES", 1)
    path = written(tmp_path, HEADER, *["1024: d,chat,p,,90"] * 2)
    assert "1 to 1 observed times; got 2" in one_line(ConfigError, read_times, path)
