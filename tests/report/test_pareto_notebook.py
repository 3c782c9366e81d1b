"""The notebook runs from top to bottom on a run folder and draws the report's figures."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
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


@pytest.mark.slow  # a process of Jupyter
def test_the_notebook_draws_the_run_it_is_given(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHNAS_RUN", str(run_folder))
    outputs = executed(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    drawn = [output.data["application/vnd.plotly.v1+json"] for output in outputs
             if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len({figure["layout"]["title"]["text"] for figure in drawn}) == len(drawn) == len(FIGURES)
    assert "best pure-operator baseline" in "".join(output.get("text", "") for output in outputs)
