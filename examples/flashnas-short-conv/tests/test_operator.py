"""The operator keeps the contract of flashnas."""

import pytest

from flashnas.architecture import Architecture
from flashnas.base.errors import OperatorError
from flashnas.testing import check_operator


@pytest.mark.parametrize("operator", ["gsc", "gsc(conv_size=2)", "gsc(conv_size=5)"])
def test_contract(operator):
    check_operator(operator)


def test_a_convolution_needs_two_taps():
    with pytest.raises(OperatorError, match="operator 'gsc': conv_size must be at least 2; got 1"):
        Architecture.parse("64: gsc(conv_size=1)")


def test_parameters_of_a_model():
    assert (
        Architecture.parse("64: gsc").params - Architecture.parse("64: f").params
        == 64 * (4 * 64 + 3) - 3 * 64 * 192
    )
