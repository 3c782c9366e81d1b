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
from flashnas.operators.kernel import KernelCall, KernelKind, Roofline
from flashnas.operators.kernel_kinds import CONV, GEMM, gemm, pointwise
from flashnas.operators.layer import Layer
from flashnas.operators.parts import RMSNorm
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, linear, norm
from flashnas.testing import check_operator
from flashnas.testing.operator import check_idle_parameters
from flashnas.testing.operator_spec import check_tensors


class AverageLayer(Layer):
    """out(decaying sum of in(x))."""

    def __init__(self, spec, hidden):
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")
        self.out_proj = self.linear("out_proj")

    def init_state(self, batch, dtype, device="cpu"):
        return torch.zeros(
            batch, self.in_proj.weight.shape[0], dtype=torch.promote_types(dtype, torch.float32)
        )

    def reference(self, x_BTD, state=None):
        total_BD = (self.init_state(len(x_BTD), torch.float64) if state is None else state).double()
        outputs = []
        for x_BD in x_BTD.double().unbind(1):
            total_BD = 0.9 * total_BD + x_BD @ self.in_proj.weight.double().T
            outputs.append(total_BD @ self.out_proj.weight.double().T)
        return torch.stack(outputs, 1), total_BD

    def forward(self, x_BTD, state=None):
        outputs = []
        total_BD = self.init_state(len(x_BTD), x_BTD.dtype) if state is None else state
        for u_BD in self.in_proj(x_BTD).unbind(1):
            total_BD = 0.9 * total_BD + u_BD
            outputs.append(total_BD)
        y_BTD = torch.stack(outputs, 1)
        return self.out_proj(y_BTD.to(self.in_proj(x_BTD[:, :1]).dtype)), total_BD

    def step(self, x_BD, state):
        state = 0.9 * state + self.in_proj(x_BD)
        return self.out_proj(state.to(self.in_proj(x_BD).dtype)), state


@dataclass(frozen=True, kw_only=True)
class Average(OperatorSpec):
    """A decaying average."""

    kind = "avg"
    name = "decaying_average"
    label = "Decaying average"
    colour = "#123456"
    family = "averages"
    layer = "test_operator_contract:AverageLayer"

    def tensors(self, hidden):
        yield from linear("in_proj", hidden, hidden, Role.READS)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def cache_bytes(self, hidden, context, dtype_bytes=2):
        return 4 * hidden

    def kernels(self, hidden, phase):
        into, out = self.tensors(hidden)
        return pointwise("rms_norm", 2 * hidden), gemm("in", into), gemm("out", out)


SCAN = KernelKind(
    name="avg_scan",
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
        type("Broken", (Average,), {"__doc__": "Broken.", **attributes})
    )


def broken_layer(**attributes):
    sys.modules[__name__].BrokenLayer = type("BrokenLayer", (AverageLayer,), attributes)
    return broken_spec(layer="test_operator_contract:BrokenLayer")


def tensors_of(name, role, parts=()):
    """The input projection of Average, and another tensor if `name` is not the same."""

    def tensors(self, hidden):
        first = [TensorSpec("in_proj.weight", (hidden, hidden), Role.READS)]
        changed = TensorSpec(f"{name}.weight", (hidden, hidden), role, parts)
        return first if name == "in_proj" else [*first, changed]

    return tensors


def test_a_good_operator_passes_as_class_and_as_instance():
    check_operator(Average, lengths=(1, 5))
    check_operator(Average(), hidden=16, lengths=(3,))


@every(
    case=[
        ({"kind": "AVG"}, "operator 'AVG': kind must be a lower-case word such as gd; got 'AVG'"),
        ({"kind": "d"}, "operator 'd': the registry has another class of that kind"),
        ({"name": "delta_net"}, "name 'delta_net' is that of operator d"),
        ({"colour": "red"}, "colour must be a colour such as #56B4E9; got 'red'"),
        ({"__doc__": ""}, "operator 'avg': the spec needs a docstring"),
        (
            {"tensors": tensors_of("in_proj", Role.READS)},
            "its layer builds the parameter 'out_proj.weight', which its tensors do not state",
        ),
        (
            {"tensors": tensors_of("out_proj", Role.NORM)},
            "parameter 'out_proj.weight' has the role NORM (the weight of a norm); got the shape"
            " (32, 32)",
        ),
        (
            {"tensors": tensors_of("out_proj", Role.INNER)},
            "one parameter must have the role WRITES",
        ),
        (
            {"tensors": tensors_of("out_proj", Role.WRITES, parts=(("x", 3), ("y", 4)))},
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
            "its products have 1024 weights, its tensors 2048",
        ),
        (
            {"kernels": lambda self, hidden, phase: (SCAN.call("scan", n=1),)},
            "kernel 'scan' has the kind KernelKind('avg_scan'), which is not registered; add an"
            " entry point of that name",
        ),
        (
            {"kernels": lambda self, hidden, phase: (KernelCall(GEMM, (("n", 1),), "in"),)},
            "kernel 'in' must state the sizes n, k; got (('n', 1),)",
        ),
        (
            {"kernels": lambda self, hidden, phase: (GEMM.call("in", n=-1, k=2),)},
            "kernel 'in' has a size that is negative",
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
class Sized(Average):
    """An average with an option."""

    size: int = 1


class GrowsWhenResolved(Sized):
    """No fixed point."""

    def resolved(self, hidden):
        return replace(self, size=self.size + 1)


class GrowsWhenScaled(Sized):
    """Never as it was."""

    def scaled(self, hidden, factor, least_dim=16):
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
        (GrowsWhenResolved, "operator avg: resolved(32) must be its own resolved form"),
        (GrowsWhenScaled, "operator avg: scaled by 1 it must stay as it is; got avg(size=2)"),
        (
            FitsNoLargeHead,
            "operator avg: scaled(2048, 2, 64) must fit the width 1024: size must be at most 16",
        ),
        (
            ForgetsItsDefault,
            "operator avg: scaled(2048, 2) must be that of its resolved form avg(size=2048); got"
            " avg(size=1024) and avg(size=16)",
        ),
    ]
)
def test_resolution_and_scaling_are_held(case):
    spec, words = case
    assert one_line(AssertionError, check_operator, spec) == words


def forward_of(change):
    def forward(self, x_BTD, state=None):
        return change(self, x_BTD, *AverageLayer.forward(self, x_BTD, state))

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
            {"step": lambda self, x, state: (AverageLayer.step(self, x, state)[0], state)},
            "steps against reference, 1 tokens, torch.float64: final state",
        ),
        (
            {
                "step": lambda self, x, state: tuple(
                    t.detach() + 0 * t for t in AverageLayer.step(self, x, state)
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
            "operator avg, torch.bfloat16, forward: the output of a prompt must be torch.bfloat16; got",
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


class WithMore(Average):
    """With a norm, and a projection that the layer has no use for."""

    layer = "test_operator_contract:WithMoreLayer"

    def tensors(self, hidden):
        yield from super().tensors(hidden)
        yield from linear("more", hidden, hidden, Role.INNER)
        yield norm("norm", hidden)


class WithMoreLayer(AverageLayer):
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
