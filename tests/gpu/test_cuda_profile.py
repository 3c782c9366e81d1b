"""The CUDA path of the profiler; needs a device."""

import pytest
import torch

from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.platforms import CUDA
from flashnas.profiling.profile import profile
from flashnas.profiling.setup import Setup
from flashnas.space import load_space

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def graph_us(calls, effort, launch=True):
    return CUDA.time(calls, "cuda_graph", effort, launch=launch).latency_us


def test_graph_replays_scale_with_the_work():
    small, large = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for n in (1024, 8192))
    times = [graph_us([lambda x=x: x @ x], Effort(least=10, seconds=1)) for x in (small, large)]
    assert times[1] > 20 * times[0]


def test_a_row_is_measured_without_the_launch_of_its_graph():
    assert 0 < CUDA.launch_us < 100
    x = torch.ones(1, device="cuda")
    one, many = ([lambda: x.add_(1)] * count for count in (1, 64))
    effort = Effort(least=50, seconds=1)
    alone = graph_us(one, effort, launch=False)
    assert alone < graph_us(one, effort)
    assert alone == pytest.approx(graph_us(many, effort, launch=False), abs=3)


def test_a_space_is_profiled_and_answered(tmp_path):
    space, chat = load_space("tiny"), WORKLOADS["chat"]
    profile(
        space, [chat], tmp_path / "table", Setup(device="cuda", effort=Effort(least=5, seconds=0.1))
    )
    table = LatencyTable.load(tmp_path / "table")
    assert set(table.rows("operator_decode")["mode"].astype(str)) == {"cuda_graph"}
    (job,) = table.meta["jobs"]
    assert set(job["backends"]) >= {spec.kind for spec in space.kinds()}
    assert job["stack"] == Setup(device="cuda").stack
    for _, operators in space.pure_models():
        assert LatencyModel(table, chat).estimate(space.build(operators, 96)).latency_ms > 0
