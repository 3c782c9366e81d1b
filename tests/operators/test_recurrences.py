"""The recurrences alone: correlated keys and strong decay in both precisions, chunks of any length,
and fla's plain implementations."""

import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import cases
from layer_cases import assert_close
from offenders import every

from flashnas.operators import OPERATORS
from flashnas.operators.recurrences import selective_scan
from flashnas.operators.recurrences.chunks import MAX_DECAY, solve_unit_lower
from flashnas.operators.recurrences.delta_rule import delta_rule_chunked
from flashnas.operators.recurrences.dplr import dplr_chunked
from flashnas.operators.recurrences.gla import gla_chunked
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.operators.recurrences.ssd import ssd_chunked
from flashnas.testing.forms import make_inputs, make_layer

BATCH, HEADS = 2, 4
# strongest decay of a token: RWKV7's, one that leaves a chunk of 32 near MAX_DECAY, and beyond it
DECAYS = {"": 0.1, "wide": 0.1, "weak": 0.607, "near": 3.0, "strong": 40.0, "all": 1e4}
CASES = cases("operators", "recurrences")


def units(*shape):
    """Unit vectors [B, T, H, K] around one direction per sequence."""
    return F.normalize(torch.randn(shape[0], 1, *shape[2:]) + 0.05 * torch.randn(*shape), dim=-1)


def delta_reference(q, k, v, beta, g, state):
    writes = k * beta.unsqueeze(-1)
    return token_by_token(q, writes, v, None if g is None else g.unsqueeze(-1), state, -k, writes)


def dplr_reference(q, k, v, a, b, g, state):
    return token_by_token(q, k, v, g, state, a, k if b is None else b)


def ssd_reference(q, k, v, g, state):
    q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (q, k))
    return token_by_token(q, k, v, g.unsqueeze(-1), state)


def case(name, tokens):
    """(reference, chunked, float32 arguments with the state last)."""
    torch.manual_seed(tokens)
    kind, _, variant = name.partition(" ")
    shape = (BATCH, tokens, HEADS, 64 if variant == "wide" else 16)
    q, k, v, state = (
        units(*shape),
        units(*shape),
        torch.randn(*shape[:3], 24),
        torch.randn(BATCH, HEADS, shape[3], 24),
    )
    beta, decay = torch.full(shape[:3], 0.99), DECAYS[variant]
    g = -torch.rand(shape[:3]) * decay
    if kind in ("dplr", "kda"):
        g = -torch.rand(shape) * decay * (torch.rand(shape) > 0.5)  # some channels do not decay
        a = -units(*shape)  # b takes out 0.99 of what the unit vector -a reads
        if kind == "dplr":
            return dplr_reference, dplr_chunked, [q, k, v, a, -0.99 * a, g, state]

        def delta(rule):  # the form with one vector that writes
            return lambda q, v, a, g, state, **more: rule(
                q, -0.99 * a, v, a, None, g, state, **more
            )

        return delta(dplr_reference), delta(dplr_chunked), [q, v, a, g, state]
    if kind == "delta":

        def plain(rule):
            return lambda q, k, v, beta, state, **more: rule(q, k, v, beta, None, state, **more)

        return (
            plain(delta_reference),
            plain(delta_rule_chunked),
            [q, k, v, beta, state],
        )
    if kind == "gated_delta":
        return delta_reference, delta_rule_chunked, [q, k, v, beta, g, state]
    if kind == "ssd":
        return ssd_reference, ssd_chunked, [q[:, :, :2], k[:, :, :2], v, g, state]
    return token_by_token, gla_chunked, [q, k, v, -torch.rand(shape) * decay, state]


def results(rule, arguments):
    """Output, final state and all gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in arguments]
    o, state = rule(*leaves)
    torch.manual_seed(1)
    total = sum((x * torch.randn(x.shape, dtype=torch.float64)).sum() for x in (o, state))
    return [o.detach(), state.detach(), *torch.autograd.grad(total, leaves)]


def check(reference, chunked, arguments):
    expected = results(reference, [tensor.double() for tensor in arguments])
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        got = results(chunked, [tensor.to(dtype) for tensor in arguments])
        for n, (result, tensor) in enumerate(zip(got, expected, strict=True)):
            assert result.isfinite().all()
            assert_close(result, tensor, tolerance, f"{dtype} result {n}")


@pytest.mark.parametrize("tokens", [1, 80])
@every(name=CASES)
def test_chunked_equals_reference(name, tokens):
    check(*case(name, tokens))


@every(name=CASES, chunk=(16, 32, 64))
def test_chunk_length_does_not_matter(name, chunk):
    reference, chunked, arguments = case(name, 100)
    expected = reference(*(tensor.double() for tensor in arguments))
    for result, tensor in zip(chunked(*arguments, chunk=chunk), expected, strict=True):
        assert_close(result, tensor, 1e-4, "result")


def scan_case(tokens, strong=False):
    """x, dt, A, B, C and an initial state; neighbours in time are nearly equal."""
    torch.manual_seed(tokens)
    channels, entries = 12, 5
    x, b, c = (
        torch.randn(BATCH, 1, size) + 0.05 * torch.randn(BATCH, tokens, size)
        for size in (channels, entries, entries)
    )
    dt = torch.rand(BATCH, tokens, channels) * (40 if strong else 0.1)
    return [
        x,
        dt,
        -torch.rand(entries, channels) - 0.1,
        b,
        c,
        torch.randn(BATCH, entries, channels),
    ]


@every(strong=(False, True), chunk=(1, 7, 64, 2000))
def test_a_scan_in_chunks_equals_its_reference(strong, chunk, monkeypatch):
    for tokens in (1, 64, 65):
        arguments = scan_case(tokens, strong)
        monkeypatch.setattr(selective_scan, "CHUNK_ENTRIES", chunk * arguments[5].numel())
        check(selective_scan.scan_reference, selective_scan.selective_scan, arguments)


def test_a_scan_keeps_states_between_chunks_only(monkeypatch):
    monkeypatch.setattr(selective_scan, "CHUNK_ENTRIES", 1 << 14)
    arguments = [tensor.requires_grad_() for tensor in scan_case(4096)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selective_scan.selective_scan(*arguments)
    assert sum(tensor.numel() for tensor in kept) < 4096 * arguments[5].numel()


def test_both_ways_to_the_scores_of_dplr_meet():
    _, _, tensors = case("dplr weak", 64)
    tensors[5][:, 0] = -0.8 * MAX_DECAY  # 15 more tokens stay below it
    below = dplr_chunked(*tensors, chunk=16)
    tensors[5][0, 0] -= 1000  # one sequence beyond the limit: the other must not notice
    above = dplr_chunked(*tensors, chunk=16)
    for one, other in zip(below, above, strict=True):
        assert_close(other[1], one[1], 1e-5, "the sequence that did not change")


def test_the_solution_survives_parallel_keys():
    # the worst case: all keys equal, beta 0.99; powers of the matrix reach 1e6 and more, its
    # inverse stays below 1
    for size in (16, 64):
        lower = torch.full((3, size, size), 0.99, dtype=torch.float64).tril(-1)
        eye = torch.eye(size, dtype=torch.float64)
        exact = torch.linalg.inv(eye + lower)
        assert_close(solve_unit_lower(lower, eye), exact, 1e-12, "float64")
        assert_close(solve_unit_lower(lower.float(), eye.float()), exact, 1e-5, "float32")


@pytest.mark.parametrize("name", ["delta_rule", "gla"])
def test_references_equal_flas(name):
    """Those of operators whose layers are not held against other implementations."""
    spec = PathFinder.find_spec("fla")
    if spec is None or spec.origin is None:
        pytest.skip("flash-linear-attention is not installed")
    naive = runpy.run_path(str(Path(spec.origin).parent / "ops" / name / "naive.py"))
    reference, _, arguments = case(name.partition("_")[0], 65)
    expected = reference(*(tensor.double() for tensor in arguments))
    q, *rest, state = arguments
    parts = 4 * q, *rest  # fla scales q by the root of its 16 channels
    if name == "gla":
        o, final = naive["naive_recurrent_gla"](
            *parts, initial_state=state, output_final_state=True
        )
    else:
        by_head = [x.transpose(1, 2) for x in parts]
        o, final = naive["delta_rule_recurrence"](*by_head, state)
        o = o.transpose(1, 2)
    for got, tensor in zip((o, final), expected, strict=True):
        assert_close(got, tensor, 1e-5, name)


@every(kind=[kind for kind, spec in OPERATORS.items() if spec.layer])
def test_a_reference_calls_nothing_that_it_is_the_oracle_of(kind):
    layer, called = make_layer(OPERATORS[kind]().scaled(512, 16), 32), set()

    def note(frame, event, argument):
        folder = Path(frame.f_code.co_filename).parent
        if folder.name in ("recurrences", "backends") and folder.parent.name == "operators":
            called.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        layer.reference(make_inputs(3, 32))
    finally:
        sys.setprofile(None)
    assert called <= {"token_by_token", "scan_reference"}


def test_gla_is_its_formula():
    """No other implementation holds its layer; heads of 4 key and 8 value channels."""
    layer, x = make_layer(OPERATORS["gla"](head_dim=8), 32), make_inputs(5, 32)
    sizes = layer.tensor("in_proj.weight").rows()
    *qkv, gate, low = (x @ layer.in_proj.weight.T).split(sizes, -1)
    decay = low @ layer.gate_proj.weight.T + layer.gate_proj.bias
    q, k, v, g = (part.unflatten(-1, (4, -1)) for part in (*qkv, decay))
    g = -torch.log1p((-g).exp()) / 16
    o, _ = token_by_token(q / 2, k, v, g, torch.zeros(2, 4, 4, 8, dtype=x.dtype))
    o = o / (o.square().mean(-1, keepdim=True) + layer.norm_eps).sqrt() * layer.norm.weight
    expected = (o.flatten(-2) * gate * torch.sigmoid(gate)) @ layer.out_proj.weight.T
    assert_close(layer(x)[0], expected, 1e-8, "output")
