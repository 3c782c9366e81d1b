"""Python in the documents: every block compiles, what it imports and calls exists, and the page of
an operator runs.
"""

import ast
import importlib
import inspect
import re
import tomllib

import pytest
from documents import TEXTS, blocks
from fake_plugins import run_with, write_plugin

import flashnas as fn


def resolved(dotted):
    """The object that `fn.a.b` names."""
    value = fn
    for part in dotted.split(".")[1:]:
        value = getattr(value, part)
    return value


def problems(code):
    """What of a block does not exist: imports, and keywords of functions of fn."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("flashnas_"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)).startswith("fn."):
            inspect.signature(resolved(name)).bind(
                *node.args, **{word.arg: word for word in node.keywords}
            )


def test_every_block_of_python_compiles_and_its_names_exist():
    wrong = []
    for page in TEXTS:
        for code in blocks(page, "python"):
            try:
                wrong += [f"{page}: {problem}" for problem in problems(code)]
            except (SyntaxError, ImportError, AttributeError, TypeError) as error:
                wrong.append(f"{page}: {error!r} in {code[:60]!r}")
    assert not wrong, "\n".join(wrong)


def test_every_name_of_the_api_in_the_documents_exists():
    wrong = []
    for page, text in TEXTS.items():
        for name in {*re.findall(r"(?<![\w.])fn(?:\.[A-Za-z_]+)+", text)}:
            try:
                resolved(name)
            except AttributeError as error:
                wrong.append(f"{page}: {name}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow  # a process with the whole contract of an operator
def test_the_operator_of_the_page_keeps_the_contract(tmp_path):
    files = {
        name: code
        for _, name, code in re.findall(
            r"(?ms)^```(\w+)\n# (\S+)\n(.*?)^```", TEXTS["docs/extend.md"]
        )
    }
    points = tomllib.loads(files.pop("pyproject.toml"))["project"]["entry-points"]
    (tmp_path / "flashnas_shift").mkdir()
    (tmp_path / "tests").mkdir()
    folder = write_plugin(
        tmp_path, "flashnas-shift", points, {**files, "flashnas_shift/__init__.py": ""}
    )
    script = f"""if True:
        from flashnas.cli.main import main
        from flashnas.space import load_space

        test_shift()
        words = ["1024: 6x(shift f shift f a f)", "--workload", "decode-8k"]
        assert main(["estimate", *words]) == 0
        print([spec.kind for spec in load_space({str(tmp_path / "space.yaml")!r}).kinds()])
    """
    said = run_with(folder, f"{files['tests/test_shift.py']}\n{script}")
    assert "latency_ms" in said
    assert said.splitlines()[-1] == "['shift', 'f', 'd', 'a']"
