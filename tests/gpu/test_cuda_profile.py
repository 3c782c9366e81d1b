"""The CUDA path of the profiler; needs a device."""

import pytest
import torch

from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS
from flashnas.profiling.device_timing import CudaGraphTimer, Effort
from flashnas.profiling.profile import profile
from flashnas.profiling.setup import Setup
from flashnas.space import load_space

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_graph_replays_scale_with_the_work():
    timer = CudaGraphTimer(launch=True)
    small, large = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for n in (1024, 8192))
    times = [
        timer.measure([lambda x=x: x @ x], Effort(least=10, seconds=1)).latency_us
        for x in (small, large)
    ]
    assert times[1] > 20 * times[0]


def test_a_row_is_measured_without_the_launch_of_its_graph():
    timer, whole = CudaGraphTimer(launch=False), CudaGraphTimer(launch=True)
    assert 0 < timer.launch_us() < 100
    x = torch.ones(1, device="cuda")
    one, many = ([lambda: x.add_(1)] * count for count in (1, 64))
    effort = Effort(least=50, seconds=1)
    assert timer.measure(one, effort).latency_us < whole.measure(one, effort).latency_us
    assert timer.measure(one, effort).latency_us == pytest.approx(
        timer.measure(many, effort).latency_us, abs=3
    )


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
