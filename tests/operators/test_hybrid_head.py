"""`h`: it is its halves, those of `a`, `swa` and `m2`; it has no layer, which is said where one is
needed."""

import pytest

import flashnas as fn
from flashnas.base.errors import OperatorError
from flashnas.network.model import HybridLM
from flashnas.operators import OPERATORS
from flashnas.profiling.torch_target import Torch
from flashnas.testing import check_operator

H = OPERATORS["h"]
NONE = "operator 'h' has no layer: it can be estimated, but not trained, timed, exported or tested"
NETWORK = "64(vocab=300): h(head_dim=16,ssm_head_dim=16,state=16) f"
SPACE = """
template: layerwise
widths: [64, 128]
layers:
  depth: [2, 3]
  choices:
    - h(head_dim=16,ssm_head_dim=16,state=16) f
    - a(head_dim=16) f
"""


@pytest.mark.parametrize("window", [0, 7])
def test_it_is_its_halves(window):
    spec = H(head_dim=64, kv_heads=2, window=window, groups=2)
    attention, ssm = spec.attention(512), spec.ssm(512)
    assert attention.window_tokens == window
    for context in (1, 5, 300):
        assert spec.cache_bytes(512, context) == sum(
            half.cache_bytes(512, context) for half in (attention, ssm)
        )
    both, norm = attention.params(512) + ssm.params(512), 512  # each half has a pre-norm
    assert spec.params(512) == both - norm - 512 * 512 + spec.inner(512)


def test_wrong_sizes_name_the_operator():
    for options, message in (
        ({"kv_heads": 5}, "operator 'h': kv_heads must divide heads 4; got 5"),
        ({"ssm_head_dim": 48}, "operator 'h': ssm_head_dim must divide heads x head_dim = 512"),
        ({"groups": 3}, "operator 'h': groups must divide the 8 heads of the Mamba2; got 3"),
    ):
        with pytest.raises(OperatorError, match=message):
            H(**options).resolved(512)


def test_its_specification_keeps_the_contract_and_is_estimated():
    for spec in (H(head_dim=8, ssm_head_dim=8, state=8), "h"):
        check_operator(spec)
    assert fn.estimate("1024: 4x(h f)", table="h100_sxm", workload="chat").latency_ms > 0


def test_where_a_layer_is_needed_one_line_says_that_it_has_none(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError, match=NONE):
        HybridLM(fn.Architecture.parse(NETWORK))
    assert not Torch().holds(fn.Architecture.parse(NETWORK))
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "texts.txt").write_text("Some words. " * 4000)
    for words in (
        f"train '{NETWORK}' --data texts.txt --out run",
        f"export '{NETWORK}' --to hf --init-seed 0 --out exported",
        "profile --space space.yaml --out table",
        "doctor --operators h",
    ):
        assert NONE in refused(words), words
    assert not {path.name for path in tmp_path.iterdir()} - {"space.yaml", "texts.txt"}


def test_a_search_that_trains_refuses_it_before_anything_is_trained(tmp_path, refused):
    (tmp_path / "space.yaml").write_text(SPACE)
    words = (
        f"search --space {tmp_path}/space.yaml --budget-ms 500 --workload chat --trials 2"
        f" --out {tmp_path}/run"
    )
    assert f"{NONE}; search it without --trials" in refused(words)
    assert not (tmp_path / "run").exists()
