"""The kinds of kernels that operators launch: one object each, with all that flashnas knows about
the kind.

A kind states the columns of its rows in a latency table, the rules by which a missing row is
derived, how its time grows, what it writes and moves, and which correction to whole models applies.
The lookup in tables, the memory rule, `flashnas table info` and the fit of corrections read these
objects; none of them knows a kind by name.

An operator of another package uses what is here, without a registration:

    from flashnas.operators.kernel_kinds import conv, gemm, pointwise
    gemm("in", self.named_tensors(hidden)["in_proj.weight"])

Or it brings a kind of its own: a module-level KernelKind, and one entry point under the same name,
so that tables may hold rows of the kind:

    FFT_CONV = KernelKind(
        name="fft_conv", shape=("channels",), decode=("channels", "batch"),
        prefill=("channels", "batch", "tokens"), written=lambda call: call["channels"],
        bytes_moved=lambda call, load, size: 2 * size * load.rows * call["channels"],
        rules=(Roofline(),))

    [project.entry-points."flashnas.kernel_kinds"]
    fft_conv = "my_package.spec:FFT_CONV"

`Roofline` answers the kind from the device's bandwidth until a table has rows. A package may also
subclass `Rule`.
"""

from typing import Any

from flashnas.base.errors import TableError
from flashnas.base.registry import Registry
from flashnas.operators.fused_experts import NearestExperts, expert_bytes, expert_numbers
from flashnas.operators.kernel import (
    AsCall,
    Chunks,
    FullAttention,
    KernelCall,
    KernelKind,
    Load,
    NextLarger,
    Phase,
    Roofline,
    SameState,
)
from flashnas.operators.spec import TensorSpec

STATE_BYTES = 4  # recurrent states are kept in float32 by most engines
# Chunked recurrent kernels (fla and ours) keep a state per chunk and a few square matrices per
# chunk and head.
CHUNK_TOKENS = 64
CHUNK_MATRICES = 3
# RWKV7's chunk kernel: two vectors write where the delta rule has one (arXiv 2510.26692, figure 2)
GENERAL_CHUNK = 2.0


# -- products and pointwise kernels ----------------------------------------------------------------


def _gemm_bytes(call: KernelCall, load: Load, size: int) -> float:
    return size * (load.rows * (call["k"] + call["n"]) + call["k"] * call["n"])


GEMM = KernelKind(  # [m, k] x [k, n]; m = batch x tokens
    name="gemm",
    shape=("n", "k"),
    decode=("m", "n", "k"),
    prefill=("m", "n", "k"),
    grow="n",
    written=lambda call: call["n"],
    bytes_moved=_gemm_bytes,
    weights=lambda call: call["k"] * call["n"],
    flops=lambda call, context: 2 * call["k"] * call["n"],
)

POINTWISE = KernelKind(  # elements: values read plus written per token
    name="pointwise",
    shape=("elements",),
    rules=(Roofline(),),
    written=lambda call: call["elements"] // 2,
    bytes_moved=lambda call, load, size: call["elements"] * load.rows * size,
    correction="",
)


_EXPERTS = ("experts", "active", "matrices")  # matrices of an expert: 3 (SwiGLU) or 2
EXPERTS = KernelKind(  # all that follows the product of the router
    name="experts",
    shape=("hidden", "inner", *_EXPERTS),
    decode=("hidden", "inner", *_EXPERTS, "m"),
    prefill=("hidden", "inner", *_EXPERTS, "m"),
    matched=("hidden", *_EXPERTS),
    strict=True,
    grow="inner",
    rules=(NearestExperts(),),
    written=lambda call: call["active"] * (call["matrices"] * call["inner"] + call["hidden"]),
    bytes_moved=lambda call, load, size: expert_bytes(call, load.rows, size),
    weights=lambda call: call["experts"] * expert_numbers(call),
    flops=lambda call, context: 2 * call["active"] * expert_numbers(call),
)


# -- attention and convolutions --------------------------------------------------------------------


def _attention_bytes(call: KernelCall, load: Load, size: int) -> float:
    """Keys and values that are seen once (of a prefill, those of its tokens), queries and
    outputs.
    """
    seen = _seen(call, load.context) if load.phase == "decode" else load.tokens
    return (
        2
        * size
        * call["head_dim"]
        * (load.batch * seen * call["kv_heads"] + load.rows * call["heads"])
    )


def _seen(call: KernelCall, context: float) -> Any:
    return min(context, call["window"]) if call["window"] else context


_ATTENTION = ("heads", "kv_heads", "head_dim", "window")  # window 0: full attention
ATTENTION = KernelKind(
    name="attention",
    shape=_ATTENTION,
    decode=(*_ATTENTION, "batch", "context"),
    prefill=(*_ATTENTION, "batch", "tokens"),
    matched=_ATTENTION,
    between=("heads", "kv_heads"),
    tokens_power=lambda matched: 1 if matched["window"] else 2,
    rules=(NextLarger("head_dim"), FullAttention()),
    written=lambda call: call["heads"] * call["head_dim"],
    bytes_moved=_attention_bytes,
    correction="attention",
    flops=lambda call, context: 4 * call["heads"] * call["head_dim"] * _seen(call, context),
    cache_bytes=lambda call, context, size: (
        2 * call["kv_heads"] * call["head_dim"] * _seen(call, context) * size
    ),
)


def _conv_bytes(call: KernelCall, load: Load, size: int) -> float:
    """Input, output, filter; the state is read and written once for each sequence."""
    state = 2 * load.batch * (call["conv_size"] - 1)
    return size * call["channels"] * (2 * load.rows + state + call["conv_size"])


CONV = KernelKind(  # causal and depthwise
    name="conv",
    shape=("channels", "conv_size"),
    decode=("channels", "conv_size", "batch"),
    prefill=("channels", "conv_size", "batch", "tokens"),
    matched=("conv_size",),
    rules=(NextLarger("conv_size"),),
    written=lambda call: call["channels"],
    bytes_moved=_conv_bytes,
    flops=lambda call, context: 2 * call["channels"] * call["conv_size"],
    cache_bytes=lambda call, context, size: call["channels"] * (call["conv_size"] - 1) * size,
)


# -- kernels that carry a matrix per head ----------------------------------------------------------


def _state_bytes(call: KernelCall, load: Load, size: int) -> float:
    """Queries, keys, values and outputs; the state is read and written once for each sequence."""
    key, value = call["key_dim"], call["value_dim"]
    return call["heads"] * (
        2 * size * load.rows * (key + value) + 2 * load.batch * key * value * STATE_BYTES
    )


def _entries(call: KernelCall) -> int:
    entries: int = call["heads"] * call["key_dim"] * call["value_dim"]
    return entries


def _chunk_bytes(call: KernelCall) -> int:
    key, value = call["key_dim"], call["value_dim"]
    each: int = 2 * key * value // CHUNK_TOKENS + CHUNK_MATRICES * CHUNK_TOKENS
    return STATE_BYTES * int(call["heads"]) * each


def _delta_chunk_bytes(call: KernelCall) -> int:
    """With W and U of arXiv 2406.06484, and their products with the state."""
    more: int = 2 * (call["key_dim"] + call["value_dim"])
    return _chunk_bytes(call) + STATE_BYTES * int(call["heads"]) * more


def recurrent_kind(
    name: str,
    operations: int,
    *,
    delta: bool = False,
    of: tuple[KernelKind, ...] = (),
    chunk_factor: float = 1.0,
    steps: bool = True,
) -> KernelKind:
    """A kind whose state is a matrix [key_dim, value_dim] per head; `groups` of heads share keys
    and queries.

    Args:
        name: of the kind.
        operations: for each entry of the state and token, in the recurrent form.
        delta: a delta rule, whose chunk kernel needs W and U.
        of: the kinds whose rows answer until this kind has rows, the first that has some; empty:
            only its own.
        chunk_factor: how many times as long a prefill takes as one of `of`.
        steps: False for a kind that has rows of prefills only.
    """
    shape = ("heads", "key_dim", "value_dim")
    return KernelKind(
        name=name,
        shape=(*shape, "groups"),
        decode=(*shape, "batch") if steps else (),
        prefill=(*shape, "batch", "tokens"),
        matched=("key_dim", "value_dim"),
        rules=(SameState(of, chunk_factor=chunk_factor), Chunks()),
        written=lambda call: call["heads"] * call["value_dim"],
        workspace_bytes=_delta_chunk_bytes if delta else _chunk_bytes,
        bytes_moved=_state_bytes,
        flops=lambda call, context: operations * _entries(call),
        cache_bytes=lambda call, context, size: STATE_BYTES * _entries(call),
    )


GATED_DELTA_RULE = recurrent_kind("gated_delta_rule", 7, delta=True)
# The same rule by the Triton kernel of flash-linear-attention. No operator launches it: an engine
# takes a faster one where it has one. The other recurrences have Triton kernels alone, so that a
# table has rows of it for them.
GATED_DELTA_RULE_TRITON = recurrent_kind("gated_delta_rule_triton", 7, delta=True, steps=False)
_BASES = (GATED_DELTA_RULE_TRITON, GATED_DELTA_RULE)
DELTA_RULE = recurrent_kind("delta_rule", 6, delta=True, of=_BASES)
GLA = recurrent_kind("gla", 5, of=_BASES)
SSD = recurrent_kind("ssd", 5, of=_BASES)
RWKV7 = recurrent_kind("rwkv7", 9, of=_BASES, chunk_factor=GENERAL_CHUNK)
KDA = recurrent_kind("kda", 7, delta=True, of=_BASES)


def _scan_step(call: KernelCall) -> KernelCall:
    """The gated delta rule's step of the same state bytes; each entry of the state of a scan has a decay
    of its own, which may take longer."""
    return GATED_DELTA_RULE.call(
        call.label, heads=1, key_dim=call["state"], value_dim=call["channels"], groups=1
    )


def _scan_bytes(call: KernelCall, load: Load, size: int) -> float:
    """Inputs, steps, gates and outputs; the state is read and written, its decays are read."""
    return call["channels"] * (
        3 * size * load.rows + call["state"] * STATE_BYTES * (2 * load.batch + 1)
    )


def _scan_workspace_bytes(call: KernelCall) -> int:
    """Its inputs in float32, and a state per chunk."""
    each: int = 3 + 2 * call["state"] // CHUNK_TOKENS
    return STATE_BYTES * int(call["channels"]) * each


SELECTIVE_SCAN = KernelKind(
    name="selective_scan",
    shape=("channels", "state"),
    decode=("channels", "state", "batch"),
    prefill=("channels", "state", "batch", "tokens"),
    matched=("state",),
    rules=(
        AsCall(_scan_step, upper=0.50),
        Chunks(upper=4.0, longest=512),  # no scan was measured
    ),
    written=lambda call: call["channels"],
    workspace_bytes=_scan_workspace_bytes,
    bytes_moved=_scan_bytes,
    # per entry of the state: its decay dt A, dt x B, a multiply-add each for the state and the
    # output
    flops=lambda call, context: 6 * call["channels"] * call["state"],
    cache_bytes=lambda call, context, size: STATE_BYTES * call["channels"] * call["state"],
)


# -- all kinds -------------------------------------------------------------------------------------

KERNEL_KINDS: Registry[KernelKind] = Registry(
    "kernel kind",
    "flashnas.kernel_kinds",
    {
        name: f"flashnas.operators.kernel_kinds:{name.upper()}"
        for name in (
            "gemm",
            "pointwise",
            "experts",
            "attention",
            "conv",
            "gated_delta_rule",
            "gated_delta_rule_triton",
            "delta_rule",
            "gla",
            "ssd",
            "rwkv7",
            "kda",
            "selective_scan",
        )
    },
    TableError,
    attribute="name",
    base="flashnas.operators.kernel:KernelKind",
)


def kind_of_rows(name: str) -> tuple[KernelKind, Phase | None] | None:
    """The kind of rows (or of a kernel in a breakdown) such as `conv_decode`, with their phase
    (None: both phases); None for a name that is not of a kernel."""
    phase: Phase
    for phase in ("decode", "prefill"):
        base = name.removesuffix(f"_{phase}")
        if base != name and base in KERNEL_KINDS and KERNEL_KINDS[base].rows_name(phase) == name:
            return KERNEL_KINDS[base], phase
    if name in KERNEL_KINDS and KERNEL_KINDS[name].rows_name("decode") == name:
        return KERNEL_KINDS[name], None
    return None


def gemm(label: str, weight: TensorSpec, *parts: str) -> KernelCall:
    """A matrix product of all rows (batch x tokens) with a weight, or with some of its parts."""
    n = sum(weight.rows(*parts)) if parts else weight.shape[0]
    return GEMM.call(label, n=n, k=weight.shape[1])


def conv(taps: TensorSpec) -> KernelCall:
    """A causal depthwise convolution with these taps [channels, size]."""
    channels, *_, size = taps.shape
    return CONV.call("conv", channels=channels, conv_size=size)


def pointwise(label: str, elements: int) -> KernelCall:
    """A kernel that the bandwidth limits; `elements`: values read plus written per token."""
    return POINTWISE.call(label, elements=elements)


def pre_norm(hidden: int) -> KernelCall:
    """What runs before every operator: the norm, which also adds the last update."""
    return pointwise("rms_norm", 2 * hidden)
