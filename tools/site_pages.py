"""The pages of the site, for mkdocs: README.md and all that it reaches by links, at their places in
the repository.

The same pages are read on the site and in the repository, so that a link is right in both. A link
to a file that is not a page, such as a recipe or a table, leads to a copy of the file.
"""

import importlib
import inspect
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!`)\]\(([^)#\s]+)(?:#[^)]*)?\)")
STYLE = "docs/site.css"


def links(page: Path) -> list[Path]:
    """Files of the repository that a page of Markdown links to."""
    return [
        (page.parent / target).resolve()
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:")
    ]


def reached(start: Path = ROOT / "README.md") -> list[Path]:
    """`start` and the files that are reached from it by links, in the order in which they are
    found.
    """
    files = [start]
    for path in files:
        if path.suffix == ".md":
            files += [
                target
                for target in dict.fromkeys(links(path))
                if target.is_file() and target not in files
            ]
    return files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """In place of the files of `docs_dir`: what README.md reaches."""

    def file(path: str) -> File:
        return File.generated(config, path, abs_src_path=str(ROOT / path))

    theirs = [
        found
        for found in files
        if found.generated_by or not found.abs_src_path.startswith(str(ROOT / "docs"))
    ]
    return Files([*theirs, *(file(str(path.relative_to(ROOT))) for path in reached()), file(STYLE)])


class FilledDocstrings(griffe.Extension):
    """Docstrings as they are when flashnas is imported: what a command takes is filled in from its
    options.
    """

    def on_function(self, *, func: griffe.Function, **_: object) -> None:
        """Of a function whose options are stated elsewhere (`base/settings.py: takes`)."""
        if func.docstring and any("takes" in str(decorator.value) for decorator in func.decorators):
            function = getattr(importlib.import_module(func.module.path), func.name)
            func.docstring.value = inspect.getdoc(function) or ""
            func.parameters = griffe.Parameters(
                *(
                    griffe.Parameter(
                        name,
                        kind=griffe.ParameterKind[parameter.kind.name.lower()],
                        default=None
                        if parameter.default is parameter.empty
                        else repr(parameter.default),
                    )
                    for name, parameter in inspect.signature(function).parameters.items()
                )
            )
        if func.docstring:  # the name of the section whose lines griffe takes for code
            func.docstring.value = func.docstring.value.replace("\nExample:\n", "\nExamples:\n")
