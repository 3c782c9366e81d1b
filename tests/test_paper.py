"""experiments/paper: what its scripts print follows from their files."""

import importlib
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parents[1] / "experiments" / "paper"


def test_norms_csv_has_every_training_to_its_end(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    norms = importlib.import_module("norms")
    rows = pd.read_csv(norms.CSV)
    assert {*rows[["arm", "operator", "seed"]].itertuples(index=False, name=None)} == {*norms.RUNS}
    assert (
        rows.groupby(["arm", "operator", "seed"])["tokens"]
        .max()
        .eq(norms.PLAN["base"]["tokens"])
        .all()
    )
    assert {*pd.read_csv(norms.MAPS)["arm"]} == {*norms.ARMS}
