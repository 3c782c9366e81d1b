"""What a GPU meets beyond the layers at their defaults: head sizes, widths, one token, and a library
without a part of it. On a CPU the same tests run at small sizes, so that only what is CUDA's own needs a
device."""

import sys

import fake_libraries
import pytest
import torch
from layer_cases import LAYERED

from flashnas.architecture import parse_operators
from flashnas.base.errors import DeviceError
from flashnas.testing.self_test import check_layer
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import check_kernels

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
HEAD_SIZES = (64, 256)  # of which each, as each width, is a further set of kernels to compile
WIDTHS = (1024, 2560)
HEADS = (
    "a(heads=2,kv_heads=1,head_dim={})",
    "swa(heads=2,kv_heads=2,head_dim={},window=20)",
    "d(head_dim={})",
    "gd(head_dim={},k_heads=1,expand_v=2)",
    "gla(head_dim={})",
    "m2(head_dim={},state=128)",
    "kda(head_dim={})",
    "r7(head_dim={})",
)
SIZES = [
    pytest.param("cpu", 512, 1),
    *(pytest.param("cuda", width, tokens, marks=GPU) for width in WIDTHS for tokens in (1, 70)),
]


def passes(operator, device, tokens, *, hidden, batch):
    found = check_layer(operator, "auto", DTYPE[device], device, tokens, hidden=hidden, batch=batch)
    assert (found.status, found.reason) == ("passed", ""), found


@pytest.mark.parametrize(
    ("size", "device"),
    [(64, "cpu"), *(pytest.param(size, "cuda", marks=GPU) for size in HEAD_SIZES)],
)
@pytest.mark.parametrize("operator", HEADS)
def test_heads_of_every_size(operator, size, device):
    passes(operator.format(size), device, 3 if device == "cpu" else 150, hidden=256, batch=2)


@pytest.mark.parametrize(("device", "width", "tokens"), SIZES)
@pytest.mark.parametrize("kind", LAYERED)
def test_one_sequence_at_real_widths(kind, tokens, device, width):
    """One token of one sequence, too, where strides count as contiguous whatever they are."""
    passes(kind, device, tokens, hidden=width, batch=1)


@pytest.mark.parametrize("device", DEVICES)
def test_mamba_ssm_without_its_cuda_part(device, monkeypatch):
    """Releases after 2.3.2 build selective_scan_cuda only on demand; Mamba2 needs nothing of it. On
    a CPU by stand-ins.
    """
    if device == "cpu":
        fake_libraries.install(monkeypatch, "mamba_ssm", devices=("cpu",))
    else:
        pytest.importorskip("mamba_ssm")
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    for kind, status in (("m2", "passed"), ("m", "refused")):
        found = check_layer(kind, "mamba-ssm", "bfloat16", device, 5)
        assert found.status == status, found
        assert found.runs.startswith("mamba-ssm") is (kind == "m2")
    assert "built without selective_scan_cuda" in found.reason
    assert check_layer("m", "auto", DTYPE[device], device, 5).status == "passed", "by another one"
    with pytest.raises(
        DeviceError, match=r"trained token by token by torch .*built without selective_scan_cuda"
    ):
        check_kernels(parse_operators("m"), 256, Recipe(device="cuda"))
