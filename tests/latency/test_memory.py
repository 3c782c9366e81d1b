"""memory_gb against what the built models allocate on CPU, by torch's own record of every
allocation.
"""

import csv
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from offenders import every
from tiny_tables import TINY
from torch.profiler import ProfilerActivity, profile

from flashnas.architecture import Architecture, parse_operators
from flashnas.architecture.networks import Networks
from flashnas.base.errors import BudgetError
from flashnas.latency import memory
from flashnas.latency.memory import (
    MemorySizes,
    check_fits,
    largest_batch,
    memory_bytes,
    memory_sizes,
)
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
    assert state_bytes(cache) == 3 * a.cache_bytes(96, 4)
    assert told >= weights + state_bytes(cache)
    assert (weights + most) / FACTOR < told < FACTOR * (weights + most)
    _, cache = model.decode_step(token, model.start_cache(3))
    (_, cache), most = peak_bytes(lambda: model.decode_step(token, cache))
    told = memory_bytes(a, Workload(batch=3, generated_tokens=2), 3, "float32")
    assert state_bytes(cache) == 3 * a.cache_bytes(2, 4)
    assert weights + state_bytes(cache) <= told
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
    assert bytes_after(window, 999) == bytes_after(window, 33), "a window may begin within a page"
    assert bytes_after(window, 999) == bytes_after(full, 48)
    assert bytes_after(full, 33) - bytes_after(full, 32) == 8 * 2 * 16 * 16 * 2, (
        "a page of 16 tokens"
    )
    assert bytes_after(full, 48) == bytes_after(full, 33)
    assert bytes_after("64(vocab=64): d(head_dim=16)", 999) == bytes_after(
        "64(vocab=64): d(head_dim=16)", 32
    )
    with_meta = Architecture.parse("64(vocab=64,meta=8): a(head_dim=16)")
    assert with_meta.cache_bytes(32) == Architecture.parse(full).cache_bytes(40)


SERVING = Path(__file__).parents[2] / "experiments/serving"
FULL = "a(heads={},kv_heads={},head_dim={})"
QWEN = f"4096: 24x(gd(k_heads=16,expand_v=2,head_dim=128) f) 8x({FULL.format(16, 4, 256)} f)"
QWEN_27B = f"5120: 48x(gd(k_heads=16,expand_v=3,head_dim=128) f) 16x({FULL.format(24, 4, 256)} f)"
NEMOTRON = f"4480: 27x(m2(heads=128,head_dim=80,groups=8) f) 4x({FULL.format(40, 8, 128)})"
LFM2 = f"2048(vocab=64): 10x(conv f) 6x({FULL.format(32, 8, 64)} f)"
# "Setting attention block size to N tokens", as vLLM logs it of Qwen3.5-9B, Qwen3.8-27B (the type of its
# keys is not stated; 784 is half of it) and Nemotron-Nano-9B-v2 (vllm#24280). 864 to 2048 tokens are
# logged of the first under settings that are not counted here, such as speculative tokens.
BLOCKS = [
    (QWEN, {}, 528),
    (QWEN, {"kv_dtype": "fp8"}, 1056),
    (QWEN_27B, {}, 784),
    (QWEN_27B, {"kv_dtype": "fp8"}, 1568),
    (NEMOTRON, {"state_dtype": "bfloat16"}, 672),
    (LFM2, {}, 16),
    (f"2048: 16x({FULL.format(32, 8, 64)} f)", {}, 16),
]


def sizes_of(notation, **workload):
    networks = Networks.of([Architecture.parse(notation)])
    return memory_sizes(networks, Workload(**{"generated_tokens": 1, **workload}), "bfloat16")


@every(case=BLOCKS)
def test_blocks_are_those_that_vllm_prints(case):
    notation, types, tokens = case
    sizes = sizes_of(notation, **types)
    assert sizes.block_tokens == tokens
    last, next_page = (
        sizes_of(notation, generated_tokens=count, **types).per_sequence
        for count in (tokens, tokens + 1)
    )
    assert sizes.per_sequence == last < next_page


# reused tokens of a second turn, as vLLM 0.32 gives them
REUSED = [
    (BLOCKS[-1][0], 640, 100, 736),  # of a prompt and an answer; the last token was not read
    (LFM2, 640, 100, 624),  # of the prompt alone, one token of which is read again
    (QWEN, 860, 300, 528),  # 1,159 tokens would be two blocks
    (QWEN, 0, 8192, 0),
    ("1024: 4x(m2 f)", 4096, 1, 0),
]


@every(case=REUSED)
def test_a_second_turn_reuses_what_vllm_keeps(case):
    notation, prompt, generated, reused = case
    sizes = sizes_of(notation, prompt_tokens=prompt, generated_tokens=generated)
    assert sizes.reused_tokens == reused


def test_pages_and_reused_tokens_are_those_of_a_running_vllm(monkeypatch):
    """A window may begin within a page, so that up to a page more is counted of it."""
    run = runpy.run_path(str(SERVING / "users.py"))
    monkeypatch.setattr(memory, "BLOCK", run["PAGE"])
    with (SERVING / "vllm.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * len(run["FAMILIES"])
    for row in table:
        ours, *_ = run["counted"](row["network"])
        other = {name for name in run["COLUMNS"] if str(ours[name]) != row[name]}
        assert other == ({"pages", "concurrency"} if row["family"] == "ministral" else set())


def test_groups_of_layers_are_padded_as_vllm_warns():
    """LFM2.5-1.2B, 6 layers of attention and 10 convolutions: "Add 2 padding layers, may waste at most
    20.00%". Where the sorts are nearly as many, the most frequent one sets the group."""
    page = 16 * 2 * 8 * 64 * 2
    assert sizes_of(LFM2).per_sequence == 4 * 64 + (6 + 12) * page
    alike = LFM2.replace("10x", "8x")
    assert sizes_of(alike).per_sequence == 4 * 64 + (8 + 8) * page


@given(
    st.lists(
        st.sampled_from(("a", "a(kv_heads=1)", "swa(window=100)", "m2", "gd", "conv", "f")),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 9000),
    st.integers(1, 9000),
)
def test_pages_hold_what_they_must(kinds, prompt, generated):
    """No fewer bytes than the caches, no fewer requests by narrower keys and values, and none more by a
    token. Narrower states make smaller pages, of which a layer may need one more."""
    networks = Networks.of([Architecture(hidden=1024, operators=parse_operators(" ".join(kinds)))])
    usable = 80e9

    def sizes(tokens=generated, **types):
        asked = Workload(prompt_tokens=prompt, generated_tokens=tokens, **types)
        return memory_sizes(networks, asked, "bfloat16")

    here = sizes()
    assert here.per_sequence >= networks[0].cache_bytes(prompt + generated)
    assert here.block_tokens % 16 == 0
    most = here.most(usable)
    assert here.total(most) <= usable < here.total(most + 1)
    assert sizes(generated + 1).most(usable) <= most
    assert sizes(kv_dtype="fp8").most(usable) >= most
    narrow = sizes(state_dtype="bfloat16")
    page = narrow.block_tokens * 2 * 2 * 128 * 2  # of two key heads; a group may be padded
    assert narrow.per_sequence <= here.per_sequence + len(kinds) * page
    assert sizes(kv_dtype="fp8").block_tokens >= here.block_tokens


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
