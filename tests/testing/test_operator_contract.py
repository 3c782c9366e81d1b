"""The contract refuses each way in which an operator can be wrong, in one line that names the
rule.
"""

import sys
from dataclasses import dataclass, replace

import pytest
import torch
from offenders import every
from one_line import one_line

from flashnas.base.errors import OperatorError
from flashnas.operators import OPERATORS
from flashnas.operators.gated_convolution.layer import GatedConvolutionLayer
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.kernel import KernelKind, Roofline
from flashnas.operators.kernel_kinds import CONV, gemm, pointwise
from flashnas.operators.parts import RMSNorm
from flashnas.operators.spec import Role, linear, norm
from flashnas.testing import check_operator
from flashnas.testing.operator import check_idle_parameters
from flashnas.testing.operator_spec import check_tensors


@dataclass(frozen=True, kw_only=True)
class Own(GatedConvolution):
    """A gated convolution under names of its own."""

    kind, name, label, family = "own", "own_convolution", "Own convolution", "own"
    colour = "#123456"


SCAN = KernelKind(
    name="own_scan",
    shape=("n",),
    rules=(Roofline(),),
    written=lambda call: 1,
    bytes_moved=lambda call, load, size: size * load.rows,
)


@pytest.fixture(autouse=True)
def layers_by_name(monkeypatch):
    """Specs name their layer by "module:class"."""
    monkeypatch.setitem(sys.modules, "test_operator_contract", sys.modules[__name__])


def broken_spec(**attributes):
    return dataclass(frozen=True, kw_only=True)(
        type("Broken", (Own,), {"__doc__": "Broken.", **attributes})
    )


def broken_layer(**attributes):
    sys.modules[__name__].BrokenLayer = type("BrokenLayer", (GatedConvolutionLayer,), attributes)
    return broken_spec(layer="test_operator_contract:BrokenLayer")


def tensors_of(name, **changes):
    """Those of Own, of which one is changed."""

    def tensors(self, hidden):
        for tensor in GatedConvolution.tensors(self, hidden):
            yield replace(tensor, **changes) if tensor.name == f"{name}.weight" else tensor

    return tensors


def test_a_good_operator_passes_as_class_and_as_instance():
    check_operator(Own, lengths=(1, 5))
    check_operator(Own(), hidden=16, lengths=(3,))


@every(
    case=[
        ({"kind": "OWN"}, "operator 'OWN': kind must be a lower-case word such as gd; got 'OWN'"),
        ({"kind": "d"}, "operator 'd': the registry has another class of that kind"),
        ({"name": "delta_net"}, "name 'delta_net' is that of operator d"),
        ({"colour": "red"}, "colour must be a colour such as #56B4E9; got 'red'"),
        ({"__doc__": ""}, "operator 'own': the spec needs a docstring"),
        (
            {"tensors": lambda self, hidden: [*GatedConvolution.tensors(self, hidden)][:2]},
            "its layer builds the parameter 'out_proj.weight', which its tensors do not state",
        ),
        (
            {"tensors": tensors_of("out_proj", role=Role.NORM)},
            "parameter 'out_proj.weight' has the role NORM (the weight of a norm); got the shape"
            " (32, 32)",
        ),
        (
            {"tensors": tensors_of("out_proj", role=Role.INNER)},
            "one parameter must have the role WRITES",
        ),
        (
            {"tensors": tensors_of("out_proj", parts=(("x", 3), ("y", 4)))},
            "the parts of 'out_proj.weight' must have its 32 rows; got 7",
        ),
        (
            {"params": lambda self, hidden: 5},
            "a narrower network must have fewer parameters; got 5 at the factor 2",
        ),
        (
            {"cache_bytes": lambda self, hidden, context, dtype_bytes=2: dtype_bytes * hidden},
            "cache_bytes after 0 tokens in torch.bfloat16 must be 128, as its state has; got 64",
        ),
        (
            {
                "kernels": lambda self, hidden, phase: (
                    gemm("in", next(iter(self.tensors(hidden)))),
                )
            },
            "its products have 3072 weights, its tensors 4096",
        ),
        (
            {"kernels": lambda self, hidden, phase: (SCAN.call("scan", n=1),)},
            "kernel 'scan' has the kind KernelKind('own_scan'), which is not registered; add an"
            " entry point of that name",
        ),
        (
            {"kernels": lambda self, hidden, phase: (CONV.call("conv", channels=0, conv_size=2),)},
            "bytes_moved of the kind 'conv' must be positive and grow with the batch; got 0 for 1"
            " sequence, 0 for 2",
        ),
        (
            {"kernels": lambda self, hidden, phase: (pointwise("norm", len(phase)),)},
            "prefill and decode must launch kernels of the same",
        ),
    ]
)
def test_a_broken_spec_is_refused(case):
    attributes, words = case
    assert words in one_line(AssertionError, check_operator, broken_spec(**attributes))


@dataclass(frozen=True, kw_only=True)
class Sized(Own):
    """With an option."""

    size: int = 1


class GrowsWhenResolved(Sized):
    """No fixed point."""

    def resolved(self, hidden):
        return replace(self, size=self.size + 1)


class FitsNoLargeHead(Sized):
    """Its scaled form is refused where heads keep 64 channels."""

    def scaled(self, hidden, factor, least_dim=16):
        return replace(self, size=least_dim) if factor > 1 and least_dim > 16 else self

    def resolved(self, hidden):
        if self.size > 16:
            raise OperatorError("size must be at most 16")
        return self


@dataclass(frozen=True, kw_only=True)
class ForgetsItsDefault(Sized):
    """Its size follows from the width of the small network where it is not written."""

    size: int = 0

    def resolved(self, hidden):
        return replace(self, size=self.size or hidden)

    def narrowed(self, hidden, factor, least_dim):
        return replace(self, size=min(self.size, least_dim))


@every(
    case=[
        (GrowsWhenResolved, "operator own: resolved(32) must be its own resolved form"),
        (
            FitsNoLargeHead,
            "operator own: scaled(2048, 2, 64) must fit the width 1024: size must be at most 16",
        ),
        (
            ForgetsItsDefault,
            "operator own: scaled(2048, 2) must be that of its resolved form own(size=2048); got"
            " own(size=1024) and own(size=16)",
        ),
    ]
)
def test_resolution_and_scaling_are_held(case):
    spec, words = case
    assert one_line(AssertionError, check_operator, spec) == words


def forward_of(change):
    def forward(self, x_BTD, state=None):
        return change(self, x_BTD, *GatedConvolutionLayer.forward(self, x_BTD, state))

    return forward


@every(
    case=[
        (
            {"forward": forward_of(lambda self, x, y, state: (y + 1e-5, state))},
            "forward against reference, 1 tokens, torch.float64: output",
        ),
        (
            {"forward": forward_of(lambda self, x, y, state: (y, 1.001 * state))},
            "torch.float64: final state 0",
        ),
        (
            {"forward": forward_of(lambda self, x, y, state: (y.detach() + 0 * y, state))},
            "torch.float64: gradient of x",
        ),
        (
            {"step": lambda self, x, state: (GatedConvolutionLayer.step(self, x, state)[0], state)},
            "steps against reference, 1 tokens, torch.float64: final state",
        ),
        (
            {
                "step": lambda self, x, state: tuple(
                    t.detach() + 0 * t for t in GatedConvolutionLayer.step(self, x, state)
                )
            },
            "steps against reference, 1 tokens, torch.float64: gradient of",
        ),
        (
            {
                "forward": forward_of(
                    lambda self, x, y, state: (y.float() if x.dtype == torch.bfloat16 else y, state)
                )
            },
            "operator own, torch.bfloat16, forward: the output of a prompt must be torch.bfloat16; got",
        ),
        (
            {"init_state": lambda self, batch, dtype, device="cpu": [1]},
            "a state must consist of tensors, KeyValueCaches and tuples; got a list",
        ),
    ]
)
def test_a_broken_layer_is_refused(case):
    attributes, words = case
    assert words in one_line(
        AssertionError, check_operator, broken_layer(**attributes), lengths=(1, 3)
    )


def test_a_layer_that_looks_ahead_is_refused():
    from flashnas.testing.operator import check_causality

    look = forward_of(lambda self, x, y, state: (y + x.mean(1, keepdim=True), state))
    with pytest.raises(AssertionError, match="outputs before a changed token: relative error"):
        check_causality(broken_layer(forward=look)())


class WithMore(Own):
    """With a norm, and a projection that the layer has no use for."""

    layer = "test_operator_contract:WithMoreLayer"

    def tensors(self, hidden):
        yield from super().tensors(hidden)
        yield from linear("more", hidden, hidden, Role.INNER)
        yield norm("norm", hidden)


class WithMoreLayer(GatedConvolutionLayer):
    def __init__(self, spec, hidden):
        super().__init__(spec, hidden)
        self.more = self.linear("more")
        self.norm = RMSNorm(hidden, 1e-5)


def test_norms_have_the_stated_epsilon():
    with pytest.raises(AssertionError, match="norm_eps must be that of the norms of its layer"):
        check_tensors(WithMore(), 32)
    WithMore.norm_eps = 1e-5
    check_tensors(WithMore(), 32)


def test_only_experts_may_be_idle():
    with pytest.raises(AssertionError, match=r"one of the role ROUTER; got \['more.weight'"):
        check_idle_parameters(WithMore())
    check_idle_parameters(OPERATORS["moe"](intermediate=16))


def test_a_check_runs_on_one_thread_because_two_on_busy_cores_wait_for_each_other():
    counts = set()

    def forward(self, x, state=None):
        counts.add(torch.get_num_threads())
        return GatedConvolutionLayer.forward(self, x, state)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check_operator(broken_layer(forward=forward)(), lengths=(1,))
        assert (counts, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
