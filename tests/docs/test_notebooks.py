"""The notebooks are tutorials: stored with the outputs of one clean run, which GitHub shows, and
run again here.
"""

import importlib
import os
import re
from pathlib import Path

import forks
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
OWN_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt|mnt|var)/")
SIZES = {  # shorter measurements and trainings, in place of what each notebook states
    "first_search": {},
    "own_device": {
        'WORKLOAD = \\"batch=1,prompt=64,generated=64': 'WORKLOAD = \\"batch=1,prompt=8,generated=4',
        "NETWORKS, SECONDS = 6, 0.02": "NETWORKS, SECONDS = 2, 0.005",
    },
    "own_operator": {"TRIALS, TOKENS = 12, 16_384": "TRIALS, TOKENS = 2, 2048"},
}


def faults(path):
    """What is wrong with a stored notebook."""
    notebook, text = nbformat.read(path, as_version=4), path.read_text()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    rules = {
        "ran its cells once, from top to bottom": [cell.execution_count for cell in code]
        == [*range(1, len(code) + 1)],
        "ends without an error": not any(output.output_type == "error" for output in outputs),
        "writes nothing to stderr, such as warnings": not any(
            output.get("name") == "stderr" for output in outputs
        ),
        "holds no path of a machine": not OWN_PATH.search(text),
    }
    return [f"{path.name}: {rule}" for rule, holds in rules.items() if not holds]


def test_each_notebook_is_stored_with_the_outputs_of_one_clean_run():
    assert len(NOTEBOOKS) == 3
    broken = [fault for path in NOTEBOOKS for fault in faults(path)]
    assert not broken, "; ".join(broken)


def shortened(path):
    """The code of a notebook with the sizes above, and with one worker in each search."""
    text = nbformat.writes(nbformat.read(path, as_version=4))
    for stated, short in SIZES[path.stem].items():
        assert text.count(stated) == 1, f"{path.name} must state {stated!r} once"
        text = text.replace(stated, short)
    text = text.replace("= fn.search(", "= fn.search(workers=1, ")  # each process loads torch
    cells = nbformat.reads(text, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def run_cells(cells, folder):
    """In a process of its own, which has loaded torch already: a kernel would load it anew. With
    tests/helpers/short_searches.py."""
    os.chdir(folder)
    forks.fork_workers(pytest.MonkeyPatch())
    importlib.import_module("short_searches")
    shell = InteractiveShell.instance()
    shell.display_formatter.active_types = shell.display_formatter.format_types  # as in a browser
    for cell in cells:
        shell.run_cell(cell).raise_error()


@pytest.mark.slow  # seconds each
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_any_folder(path, tmp_path):
    process = forks.start(run_cells, shortened(path), tmp_path)
    process.join()
    assert process.exitcode == 0
    assert not list(tmp_path.iterdir()), "a notebook writes to its own temporary folder"
