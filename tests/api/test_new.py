"""`flashnas new`: a package from a shipped example, under another name, that passes its own tests."""

import os
import subprocess
import sys
import tomllib

import pytest
from fake_plugins import write_plugin

from flashnas.api.new import EXAMPLES, new
from flashnas.base.errors import ConfigError
from flashnas.base.registry import load_object
from flashnas.cli.main import main

NAMES = {"operator": "mix2", "sampler": "my-walk", "task": "my-game", "space": "wide-nets"}


def written(kind, folder):
    """The new package in `folder` as if it were installed; its project and its entry point."""
    name = NAMES[kind]
    assert main(["new", kind, name, "--out", str(folder / "package")]) == 0
    project = tomllib.loads((folder / "package/pyproject.toml").read_text())["project"]
    write_plugin(folder / "site", project["name"], project["entry-points"])
    module = project["name"].replace("-", "_")
    (folder / "site" / module).symlink_to(folder / "package" / module, target_is_directory=True)
    return project


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_package_has_its_own_names(kind, tmp_path, capsys):
    project = written(kind, tmp_path)
    ((group, points),) = project["entry-points"].items()
    assert group == load_object(EXAMPLES[kind][0]).group
    assert list(points) == [NAMES[kind]]
    example = EXAMPLES[kind][1]
    texts = "".join(path.read_text() for path in (tmp_path / "package").rglob("*") if path.is_file())
    assert [word for word in (example, example.replace("-", "_")) if word in texts] == []
    assert "pip install --editable" in capsys.readouterr().out
    assert "examples/" not in texts, "the package is where it was written"


@pytest.mark.slow  # reason: a new interpreter with torch for each package, which checks and trains
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_package_passes_its_own_tests(kind, tmp_path):
    written(kind, tmp_path)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), *sys.path]))
    chosen = ["-k", "contract or wrong"] if kind == "space" else []   # its other tests are those of the example
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *chosen],
                          cwd=tmp_path / "package", env={**os.environ, "PYTHONPATH": path}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "name", "words"), [
    ("operator", "d", "operator 'd' exists"), ("sampler", "random", "sampler 'random' exists"),
    ("operator", "my-mix", "letters and digits alone"), ("task", "My Task", "must be lower-case"),
    ("sampler", "class", "not a word of Python"), ("samplers", "x", "must be one of operator"),
])
def test_a_wrong_name_is_one_line(kind, name, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        new(kind, name, out=tmp_path / "package")
    assert not list(tmp_path.iterdir())
