"""Every operator in several variants: reference, parallel form and step agree in outputs, states
and gradients."""

import importlib
import inspect
from pkgutil import resolve_name

import pytest
import torch
from layer_cases import HIDDEN, LAYERED, SPECS
from offenders import every

from flashnas.operators import OPERATORS
from flashnas.testing import operator as contract
from flashnas.testing import operator_spec

pytestmark = pytest.mark.filterwarnings("error")

# every length for one variant of each operator: its first, of a window the one that is longer than
# the others
WIDE = max(SPECS, key=lambda name: getattr(SPECS[name], "window", 0))
VARIANTS = {spec.kind: name for name, spec in reversed(SPECS.items())} | {SPECS[WIDE].kind: WIDE}
CASES = [
    (name, tokens)
    for name in SPECS
    for tokens in ((1, 64, 65, 130) if name in VARIANTS.values() else (65,))
]
CASES.append((WIDE, 330))  # its window has 300 tokens
CHECKS = (
    operator_spec.check_tensors,
    operator_spec.check_cache_bytes,
    operator_spec.check_resolution,
    operator_spec.check_kernels,
    contract.check_idle_parameters,
)


@every(kind=OPERATORS)
def test_an_operator_is_documented(kind):
    operator = OPERATORS[kind]
    for documented in (operator, *([resolve_name(operator.layer)] if operator.layer else [])):
        assert len(inspect.cleandoc(vars(documented)["__doc__"])) > 20
        assert importlib.import_module(documented.__module__).__doc__
    assert f"`{kind}`" in (operator.__doc__ or "")


@every(name=SPECS)
def test_names_are_words_that_read_back(name):
    operator_spec.check_names(SPECS[name])


def test_every_operator_has_a_case():
    assert {spec.kind for spec in SPECS.values()} == set(OPERATORS.shipped) & set(LAYERED)


@pytest.mark.parametrize(("name", "tokens"), CASES)
def test_the_parallel_form_and_steps_equal_the_reference(name, tokens):
    contract.check_forms(SPECS[name], ["forward", "steps"], tokens)
    contract.check_forms(SPECS[name], ["forward"], tokens, dtype=torch.float32)


@every(name=SPECS)
def test_a_sequence_in_parts_equals_the_reference(name):
    contract.check_forms(SPECS[name], ["parts"], 65)


@every(name=SPECS)
def test_bfloat16_is_near_the_reference(name):
    contract.check_low_precision(SPECS[name])


@every(name=SPECS)
def test_a_token_does_not_see_the_future(name):
    # an expert's product rounds by the number of its tokens, later ones included
    contract.check_causality(SPECS[name], rounding=1e-14 if SPECS[name].kind == "moe" else 0.0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@every(name=SPECS)
def test_the_spec_states_what_the_layer_is(name, check):
    check(SPECS[name], HIDDEN)


@every(kind=OPERATORS)
def test_a_default_operator_scales(kind):
    operator_spec.check_scaling(OPERATORS[kind]())
