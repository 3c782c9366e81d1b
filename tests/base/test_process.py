"""Threads of the numerical libraries."""

import os

import pytest

from flashnas.base.process import THREAD_VARIABLES, limit_threads


@pytest.mark.parametrize(("keep", "expected"), [(False, ["3", "3", "3", "3"]), (True, ["8", "3", "3", "3"])])
def test_a_limit_reaches_every_library_and_may_keep_what_the_user_set(monkeypatch, keep, expected):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    limit_threads(3, keep=keep)
    assert [os.environ[name] for name in THREAD_VARIABLES] == expected
