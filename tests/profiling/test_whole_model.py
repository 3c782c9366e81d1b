import numpy as np
import pytest
import torch

from flashnas.architecture import Architecture
from flashnas.latency.workload import Workload
from flashnas.network.model import HybridLM
from flashnas.profiling.device_timing import Measurement
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import build_model, decode_contexts, filled_cache

ARCHITECTURE = Architecture.parse("32(vocab=64,meta=3): a(head_dim=8) m2(head_dim=8,state=8) f")


@pytest.mark.parametrize(
    ("workload", "names"),
    [
        (Workload(prompt_tokens=20, generated_tokens=9), ["prefill", *["decode_step"] * 3]),
        (Workload(prompt_tokens=20), ["prefill"]),
        (Workload(generated_tokens=9), ["start_cache", *["decode_step"] * 3]),
    ],
)
def test_a_request_is_its_prompt_and_its_mean_step(workload, names, monkeypatch):
    """With a clock that counts the calls."""
    called, shapes = [], []

    def time(calls, *_, **__):
        result = calls[0]()
        shapes.append(result.shape if isinstance(result, torch.Tensor) else "cache")
        return Measurement(1000.0 * len(called), 1.0, 1.0, 3)

    monkeypatch.setattr(PLATFORMS["cpu"], "time", time)
    for name in set(names):
        real = getattr(HybridLM, name)
        monkeypatch.setattr(
            HybridLM, name, lambda *a, name=name, real=real: called.append(name) or real(*a)
        )
    measured = Setup().time_request(ARCHITECTURE, workload, 2)
    assert called == names
    assert shapes == ["cache" if name == "start_cache" else (2,) for name in names]
    assert measured.ttft_ms == 1.0
    if workload.generated_tokens:
        assert 2 <= measured.tpot_ms <= 4
    assert measured.latency_ms == pytest.approx(
        measured.ttft_ms + workload.generated_tokens * measured.tpot_ms
    )


def test_few_contexts_stand_for_all_steps():
    workload = Workload(prompt_tokens=100, generated_tokens=1000)
    contexts = np.arange(4 + 100 + 1, 4 + 100 + 1000 + 1)
    for time in (lambda c: 5.0 + 0 * c, lambda c: 2 + 0.01 * c, lambda c: 1 + 1e-5 * c**2):
        mean = sum(
            share * time(np.float64(context)) for context, share in decode_contexts(workload, 4)
        )
        assert mean == pytest.approx(time(contexts).mean(), rel=3e-3)
    assert decode_contexts(Workload(prompt_tokens=7, generated_tokens=1), 0) == [
        (8, pytest.approx(1))
    ]


def test_a_filled_cache_can_be_stepped_again_and_again_at_one_context():
    model = build_model(ARCHITECTURE, Setup())
    with torch.inference_mode():
        cache = filled_cache(model, 2, 50)
        keys = cache.states[0].keys_BGTK
        before = keys.clone()
        for _ in range(3):
            _, after = model.decode_step(torch.zeros(2, dtype=torch.long), cache)
            assert after.states[0].seen == 50
    assert after.states[0].keys_BGTK.data_ptr() == keys.data_ptr(), "no copy of the cache is timed"
    assert torch.equal(keys[:, :, :49], before[:, :, :49])


@pytest.mark.parametrize("drawn", [1000, 100])
def test_repeated_draws_give_every_weight_its_usual_spread_and_keep_what_is_not_drawn(
    monkeypatch, drawn
):
    monkeypatch.setattr("flashnas.profiling.whole_model.DRAWN", drawn)
    torch.manual_seed(0)
    usual = dict(HybridLM(ARCHITECTURE).named_parameters())
    torch.manual_seed(0)
    repeated = dict(build_model(ARCHITECTURE, Setup()).named_parameters())
    assert repeated.keys() == usual.keys()
    larger = 0
    for name, weight in repeated.items():
        assert torch.isfinite(weight).all()
        if weight.numel() > drawn and usual[name].std():
            larger += 1
            assert torch.equal(
                weight.flatten()[drawn : 2 * drawn],
                weight.flatten()[: weight.numel() - drawn][:drawn],
            )
            assert weight.std().item() == pytest.approx(usual[name].std().item(), rel=0.35), name
        elif not usual[name].std():
            assert torch.equal(weight, usual[name]), name
    assert larger > 3


def test_threads_are_set_back():
    before = torch.get_num_threads()
    state = Setup(threads=before + 1).run(
        lambda: (torch.get_num_threads(), torch.is_inference_mode_enabled())
    )
    assert state == (before + 1, True)
    assert torch.get_num_threads() == before
