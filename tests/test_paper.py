"""experiments/paper: the scripts that train and time; what they print follows from their files."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import flashnas as fn
from flashnas.network.model import Block

FOLDER = Path(__file__).parents[1] / "experiments" / "paper"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of the folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("norms", "flows", "picture"):
        sys.modules.pop(name, None)


def test_a_block_of_ngpt_moves_on_a_sphere_by_a_rate(script, monkeypatch):
    norms = script("norms")
    block = Block(fn.Architecture.parse("32: f").operators[0], 32)
    x_BTD = torch.randn(2, 3, 32)
    before_BTD = norms.rms_normalise(x_BTD)
    after_BTD, _ = norms.on_sphere(block, x_BTD)
    assert torch.allclose(after_BTD.square().mean(-1), torch.ones(2, 3), atol=1e-4)
    assert (after_BTD - before_BTD).norm() > 0.1
    monkeypatch.setattr(norms, "ALPHA", 0.0)
    assert torch.allclose(norms.on_sphere(block, x_BTD)[0], before_BTD, atol=1e-5)


def test_norms_csv_has_every_training_to_its_end(script):
    norms = script("norms")
    rows = pd.read_csv(norms.CSV)
    assert {*rows[["arm", "operator", "seed"]].itertuples(index=False, name=None)} == {*norms.RUNS}
    assert (
        rows.groupby(["arm", "operator", "seed"])["tokens"]
        .max()
        .eq(norms.PLAN["base"]["tokens"])
        .all()
    )
    assert {*pd.read_csv(norms.MAPS)["arm"]} == {*norms.ARMS}


def test_flows_times_what_its_file_lacks_and_nothing_else(script, monkeypatch, tmp_path):
    flows = script("flows")
    monkeypatch.setattr(flows, "FLOWS", dict.fromkeys(flows.FLOWS, pytest.fail))
    flows.time_all()
    rows = pd.read_csv(flows.CSV)
    asked = []
    times = SimpleNamespace(ttft_ms=1.0, tpot_ms=2.0)
    target = SimpleNamespace(time_request=lambda *request: asked.append(request) or times)
    monkeypatch.setattr(flows, "FLOWS", dict.fromkeys(flows.FLOWS, lambda: target))
    monkeypatch.setattr(flows, "CSV", tmp_path / "flows.csv")
    rows[2:].to_csv(flows.CSV, index=False)
    flows.time_all()
    assert len(asked) == 2
    assert len(pd.read_csv(flows.CSV)) == len(rows)
