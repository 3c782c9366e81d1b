"""Which kernels fla takes by itself: of TileLang only where the user says so, and records then name it."""

import os
import runpy
import sys
import types
from importlib.machinery import ModuleSpec

import fake_libraries
import pytest

from flashnas.executors.attempt import attempt
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


def test_fla_reads_the_default_of_flashnas_also_in_the_second_job_of_a_process(monkeypatch):
    monkeypatch.delenv("FLA_TILELANG", raising=False)
    assert attempt(runpy.run_module, "flashnas.operators.backends.fla").kind == "done"
    assert os.environ["FLA_TILELANG"] == "0"  # fla.backends reads it at each call
