"""Which kernels fla takes by itself: of TileLang only where the user says so, and records then name
it.
"""

import os
import runpy
import sys
import types
from importlib.machinery import ModuleSpec

import fake_libraries
import pytest
import torch

from flashnas.executors.attempt import attempt
from flashnas.operators.backends import fla
from flashnas.operators.backends.core import LIBRARIES, installed


@pytest.mark.parametrize(("setting", "build"), [("0", ""), ("1", "+tilelang")])
def test_kernels_of_tilelang_are_recorded_where_the_user_turns_them_on(setting, build, monkeypatch):
    fake_libraries.install(monkeypatch, "fla")
    module = types.ModuleType("tilelang")  # mamba-ssm installs it
    module.__spec__ = ModuleSpec("tilelang", None)
    monkeypatch.setitem(sys.modules, "tilelang", module)
    release = LIBRARIES["fla"].version()
    monkeypatch.setenv("FLA_TILELANG", setting)
    assert installed("fla", "cuda") == {"fla": release.partition("+")[0] + build}


def use_fla(_):
    fla.gla(torch.bfloat16)
    assert os.environ["FLA_TILELANG"] == "0"


def test_a_job_that_uses_fla_sets_the_variable_and_an_import_does_not(monkeypatch):
    """A process that never uses fla keeps its environment; the next job sets it again."""
    fake_libraries.install(monkeypatch, "fla")
    monkeypatch.delenv("FLA_TILELANG", raising=False)
    runpy.run_module("flashnas.operators.backends.fla")
    assert "FLA_TILELANG" not in os.environ
    for _ in range(2):
        assert attempt(use_fla, None).kind == "done"
