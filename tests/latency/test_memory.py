"""memory_gb against what the built models allocate on CPU, by torch's own record of every
allocation.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from offenders import every
from tiny_tables import TINY
from torch.profiler import ProfilerActivity, profile

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.memory import MemorySizes, check_fits, largest_batch, memory_bytes
from flashnas.latency.workload import Workload
from flashnas.network.cache import state_bytes
from flashnas.network.model import HybridLM

torch.set_num_threads(1)
# The torch models use no fused kernels and keep a prompt's projections alive behind its cache; an
# engine needs less.
FACTOR = 2.0
OPERATORS = [
    "m",
    "moe(experts=4)",
    "a(head_dim=32)",
    "swa(head_dim=32,window=64)",
    "m2(head_dim=32,state=32)",
    "d(head_dim=32)",
    "gd(head_dim=32)",
    "gla(head_dim=32)",
]
NOTATIONS = [
    *(f"128(vocab=512): 4x({operator} f)" for operator in OPERATORS),
    "128(vocab=512,meta=16): d(head_dim=32) f m2(head_dim=32,state=32) f a(head_dim=32) f",
]


def peak_bytes(run):
    """-> what `run` returns, and the most bytes that it had allocated at any time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = run()
    events = [
        event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return result, most


@every(notation=NOTATIONS)
def test_a_prompt_and_a_step_take_what_is_told_within_a_factor(notation):
    """And never less than weights and caches."""
    a, token = Architecture.parse(notation), torch.zeros(3, dtype=torch.long)
    model, prompts = HybridLM(a), torch.randint(0, 512, (3, 96))
    model.prefill(prompts)  # masks and tables are made once
    (_, cache), most = peak_bytes(lambda: model.prefill(prompts))
    weights = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    told = memory_bytes(a, Workload(batch=3, prompt_tokens=96), 3, "float32")
    assert weights == 4 * a.params
    assert state_bytes(cache.states) == 3 * a.cache_bytes(96, 4)
    assert told >= weights + state_bytes(cache.states)
    assert (weights + most) / FACTOR < told < FACTOR * (weights + most)
    _, cache = model.decode_step(token, model.start_cache(3))
    (_, cache), most = peak_bytes(lambda: model.decode_step(token, cache))
    told = memory_bytes(a, Workload(batch=3, generated_tokens=2), 3, "float32")
    assert state_bytes(cache.states) == 3 * a.cache_bytes(2, 4)
    assert weights + state_bytes(cache.states) <= told
    assert (
        weights + most < FACTOR * told
    )  # `most` holds the new states and the temporaries of one layer


def test_a_window_caps_the_cache_and_meta_tokens_stay_in_it():
    def bytes_after(notation, tokens):
        return memory_bytes(
            Architecture.parse(notation), Workload(batch=8, generated_tokens=tokens), 8, "bfloat16"
        )

    full, window = "64(vocab=64): a(head_dim=16)", "64(vocab=64): swa(head_dim=16,window=32)"
    assert bytes_after(window, 32) == bytes_after(full, 32)
    assert bytes_after(window, 999) == bytes_after(window, 32)
    assert bytes_after(full, 33) - bytes_after(full, 32) == 8 * 2 * 16 * 16 * 2, (
        "a page of 16 tokens"
    )
    assert bytes_after(full, 48) == bytes_after(full, 33)
    assert bytes_after("64(vocab=64): d(head_dim=16)", 999) == bytes_after(
        "64(vocab=64): d(head_dim=16)", 32
    )
    with_meta = Architecture.parse("64(vocab=64,meta=8): a(head_dim=16)")
    assert with_meta.cache_bytes(32) == Architecture.parse(full).cache_bytes(40)


def test_pages_of_a_hybrid_are_as_large_as_its_state():
    """vLLM prints 528 tokens for Qwen3.5-9B: its states are 512 tokens of attention, and those of its
    convolutions 12."""
    a = Architecture.parse(
        "4096(vocab=64): gd(k_heads=16,expand_v=2,head_dim=128) a(heads=16,kv_heads=4,head_dim=256)"
    )
    one, last, next_page = (
        memory_bytes(a, Workload(batch=8, generated_tokens=tokens), 8, "bfloat16")
        for tokens in (1, 528, 529)
    )
    assert one == last
    assert next_page - last == 8 * 528 * 4096


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**5),
    st.integers(1, 10**4),
    st.integers(1, 40000),
    st.integers(1, 10**9),
)
def test_the_largest_batch_is_the_last_that_fits(weights, per_sequence, per_token, tokens, usable):
    sizes = MemorySizes(weights, per_sequence, per_token, tokens)
    most = sizes.most(usable)
    assert most == 0 or sizes.total(most) <= usable
    assert sizes.total(most + 1) > usable


def test_a_batch_that_does_not_fit_names_the_largest_that_does():
    a = Architecture.parse("64(vocab=64): a(head_dim=16)")
    workload = Workload(name="long", batch=10**6, prompt_tokens=1000)
    largest = largest_batch(a, workload, TINY, "bfloat16")
    with pytest.raises(
        BudgetError,
        match=rf"^memory_gb \d+\.\d of batch 1000000 of long is more than 90% of the 1\.0"
        rf" GB of tiny; the largest batch is {largest}$",
    ):
        check_fits(a, workload, TINY, "bfloat16")
    check_fits(a, Workload(batch=largest, prompt_tokens=1000), TINY, "bfloat16")
    with pytest.raises(BudgetError):  # between 90 % and all of the memory
        check_fits(a, Workload(batch=int(1.09 * largest), prompt_tokens=1000), TINY, "bfloat16")
    check_fits(a, Workload(batch="max", prompt_tokens=1000), TINY, "bfloat16")
