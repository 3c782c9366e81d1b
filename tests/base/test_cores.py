"""Workers are counted by the cores that a process may use."""

import os

import pytest

from flashnas.base import settings


@pytest.mark.parametrize(("quota", "affinity", "cores"), [
    ("max 100000", 8, 8), ("150000 100000", 8, 2), ("50000 100000", 8, 1), ("900000 100000", 3, 3), ("damaged", 5, 5),
    (None, 4, 4)])
def test_affinity_and_quota_bound_the_cores(quota, affinity, cores, tmp_path, monkeypatch):
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(settings, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert settings.usable_cores() == cores
