"""Executors that look at their jobs often: the pauses between two looks are most of the time of
these tests.
"""

import executor_contract
import pytest

from flashnas.executors import base


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(base, "POLL_S", 0.1)
    monkeypatch.setattr(executor_contract, "TIMEOUT_S", 8.0)  # of a job that hangs, in the contract
