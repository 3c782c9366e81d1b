"""The notebook runs from top to bottom on a run folder and draws the report's figures."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from flashnas.report.figures import FIGURES

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebooks" / "pareto.ipynb"


def test_no_outputs_are_stored():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def executed(notebook, folder: Path) -> list:
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return outputs


def test_the_notebook_draws_the_run_it_is_given(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHNAS_RUN", str(run_folder))
    outputs = executed(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    drawn = [output.data["application/vnd.plotly.v1+json"] for output in outputs
             if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len({figure["layout"]["title"]["text"] for figure in drawn}) == len(drawn) == len(FIGURES)
    assert "best pure-operator baseline" in "".join(output.get("text", "") for output in outputs)


def test_without_a_name_the_notebook_takes_the_newest_run(build_run, tmp_path, monkeypatch):
    monkeypatch.delenv("FLASHNAS_RUN", raising=False)
    runs = tmp_path / "experiments" / "runs"
    runs.mkdir(parents=True)
    folder = build_run(5)
    for age, name in ((0, "new"), (3600, "old")):
        shutil.copytree(folder, runs / name)
        stamp = time.time() - age
        text = (runs / name / "run.yaml").read_text().replace("name: demo", f"name: {name}")
        (runs / name / "run.yaml").write_text(text)
        os.utime(runs / name / "run.yaml", (stamp, stamp))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = notebook.cells[:2]
    (runs.parent / "notebooks").mkdir()
    assert executed(notebook, runs.parent / "notebooks")[0]["text"].startswith("new {")
