"""`flashnas new`: a package from a shipped example, under another name, that passes its own
tests.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from cases import cases
from fake_plugins import write_plugin

from flashnas.api.new import EXAMPLE, new
from flashnas.base.errors import ConfigError
from flashnas.cli.main import main


def written(folder):
    """The new package in `folder` as if it were installed; its project and its entry point."""
    assert main(shlex.split(f"new operator mix2 --out {folder}/package")) == 0
    project = tomllib.loads((folder / "package/pyproject.toml").read_text())["project"]
    write_plugin(folder / "site", project["name"], project["entry-points"])
    module = project["name"].replace("-", "_")
    (folder / "site" / module).symlink_to(folder / "package" / module, target_is_directory=True)
    return project


def test_a_package_has_its_own_names(tmp_path, capsys):
    project = written(tmp_path)
    assert project["entry-points"] == {"flashnas.operators": {"mix2": "flashnas_mix2.spec:Mix2"}}
    texts = "".join(
        path.read_text() for path in (tmp_path / "package").rglob("*") if path.is_file()
    )
    assert [word for word in (EXAMPLE, EXAMPLE.replace("-", "_")) if word in texts] == []
    assert "pip install --editable" in capsys.readouterr().out
    assert "examples/" not in texts, "the package is where it was written"
    assert not re.search("(?i)lfm2|transformers", texts), "it is no operator of somebody else"


@pytest.mark.slow  # reason: a new interpreter with torch, which checks and trains
def test_a_package_passes_its_own_tests(tmp_path):
    written(tmp_path)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), *sys.path]))
    done = subprocess.run(
        [sys.executable, *shlex.split("-m pytest -q -p no:cacheprovider tests")],
        cwd=tmp_path / "package",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "name", "words"), cases("api", "wrong_names"))
def test_a_wrong_name_is_one_line(kind, name, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        new(kind, name, out=tmp_path / "package")
    assert not list(tmp_path.iterdir())
