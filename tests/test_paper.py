"""experiments/paper: the scripts that train and time; what they print follows from their files."""

import importlib
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
    for name in ("norms", "needles", "flows", "picture"):
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
    assert rows.groupby(["arm", "operator", "seed"])["tokens"].max().eq(norms.PLAN["base"]["tokens"]).all()
    assert {*pd.read_csv(norms.MAPS)["arm"]} == {*norms.ARMS}


def test_needles_lie_where_the_distances_say(script):
    needles = script("needles")
    task = needles.Needles(length=128)
    inputs_BT, targets_BT = task.test_set(needles.TEST, seed=1)
    assert (targets_BT >= 0).sum(1).tolist() == [task.needles] * needles.TEST

    def oracle(tokens_BT):
        """Logits of what followed the first place of each token; after fillers they do not matter."""
        first_BTT = (tokens_BT[:, None] == tokens_BT[:, :, None]).float()
        after_BT = tokens_BT.roll(-1, 1).gather(1, first_BTT.argmax(-1))
        return torch.nn.functional.one_hot(after_BT, task.vocab)

    rows = needles.found(oracle, task, seed=1)
    assert rows["accuracy"].eq(1).all()
    assert rows["questions"].sum() == needles.TEST * task.needles
    assert rows["distance"].tolist() == [64, 128]
    row = np.flatnonzero(targets_BT[0] >= 0)[0]
    first = np.flatnonzero(inputs_BT[0] == inputs_BT[0, row])[0]
    assert first < row
    assert inputs_BT[0, first + 1] == targets_BT[0, row]


def test_needles_csv_has_every_arm(script):
    needles = script("needles")
    rows = pd.read_csv(needles.CSV)
    assert {*rows[["attention", "seed"]].itertuples(index=False, name=None)} == {
        *itertools.product(needles.ARMS, range(needles.SEEDS))}


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
