"""The public names: loaded when used, documented, with examples that run."""

import ast
import doctest
import inspect
import shutil
from pathlib import Path

import pytest
from short_profiles import with_short_profiles

import flashnas as fn
from flashnas.testing.self_test import LayerTest

NAMES = [name for name in fn.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(fn, name))]


def test_the_names_of_type_checkers_are_those_of_python():
    stub = ast.parse(Path(fn.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname or alias.name for node in imports for alias in node.names}
    assert seen == set(NAMES)
    assert set(fn.__all__) <= set(dir(fn))
    assert (Path(fn.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        fn.serch  # noqa: B018


def test_no_function_has_the_name_of_a_room():
    rooms = {path.parent.name for path in Path(fn.__file__).parent.glob("*/__init__.py")}
    assert not rooms & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name):
    doc = inspect.getdoc(getattr(fn, name)) or ""
    assert ">>> import flashnas as fn" in doc, "an example"
    if name in FUNCTIONS:
        parameters = inspect.signature(getattr(fn, name)).parameters
        needed = ("Args:", "Raises:") if parameters else ()
        for section in ("Returns:", "Example:", *needed):
            assert section in doc, section
        described = doc.partition("Args:")[2].partition("Returns:")[0]
        for parameter in parameters:
            assert f"{parameter} (" in described or f"{parameter}:" in described, parameter


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name, searched, small_corpus, profiled_tiny_table, tmp_path, monkeypatch):
    """In a folder with `my_run`, `my_texts`, `my_table` and `my_model`, which the examples name."""
    monkeypatch.chdir(tmp_path)
    with_short_profiles(monkeypatch)
    if name == "doctor":  # test_doctor.py runs it
        passed = LayerTest(operator="f", backend="torch", dtype="float32", status="passed")
        monkeypatch.setattr(
            "flashnas.testing.self_test.self_test", lambda kinds, device, tell: [passed]
        )
    doc = inspect.getdoc(getattr(fn, name)) or ""
    for folder, source in (
        ("my_run", searched),
        ("my_texts", small_corpus),
        ("my_table", profiled_tiny_table),
    ):
        if folder in doc and not (name == "profile" and folder == "my_table"):
            shutil.copytree(source, tmp_path / folder)
    examples = doctest.DocTestParser().get_doctest(doc, {}, name, None, 0)
    said = []
    result = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
        examples, out=said.append
    )
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0


@pytest.mark.parametrize("name", fn.GONE)
def test_what_went_says_what_serves_instead(name, refused):
    assert f"of 0.2.0 is gone; {fn.GONE[name]}" in refused(name)
    with pytest.raises(AttributeError, match=r"of 0\.2\.0 is gone"):
        getattr(fn, name)
