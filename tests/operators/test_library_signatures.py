"""Stand-ins for the GPU libraries have the parameters of the libraries."""

import importlib
import inspect

import pytest
from fake_libraries.shared import SIGNATURES


def bare(signature):
    """Without annotations."""
    none = inspect.Parameter.empty
    parameters = [each.replace(annotation=none) for each in signature.parameters.values()]
    return inspect.Signature(parameters)


@pytest.mark.slow  # fla takes seconds to import
def test_stand_ins_have_the_parameters_of_fla():
    pytest.importorskip("fla")
    for place, signature in SIGNATURES.items():
        module, _, name = place.rpartition(".")
        if module.startswith("fla."):
            theirs = inspect.signature(getattr(importlib.import_module(module), name))
            assert bare(theirs) == signature, place
