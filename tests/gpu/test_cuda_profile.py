"""The CUDA path of the profiler; needs a device."""

import pytest
import torch

from flashnas.base.errors import DeviceError
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS
from flashnas.profiling.profile import profile
from flashnas.profiling.timing import captured
from flashnas.profiling.torch_target import Torch
from flashnas.space import load_space

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_space_is_profiled_and_answered(tmp_path):
    space, chat = load_space("tiny"), WORKLOADS["chat"]
    target = Torch(device="cuda", seconds=0.1)
    profile(space, [chat], tmp_path / "table", target)
    table = LatencyTable.load(tmp_path / "table")
    assert set(table.frames["operator_decode"]["mode"].astype(str)) == {"cuda_graph"}
    (job,) = table.meta["jobs"]
    assert set(job["backends"]) >= {spec.kind for spec in space.kinds()}
    assert job["stack"] == target.stack
    for _, operators in space.pure_models():
        assert LatencyModel(table, chat).estimate(space.build(operators, 96)).latency_ms > 0


def test_what_waits_for_the_host_is_refused_before_a_capture():
    x = torch.ones(4, device="cuda")
    with pytest.raises(
        DeviceError, match="graph can hold it: called a synchronizing CUDA operation"
    ):
        captured(lambda: x.sum().item())
