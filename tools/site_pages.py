"""The pages of the site, for mkdocs: README.md and all that it reaches by links, at their places in
the repository.

The same pages are read on the site and in the repository, so that a link is right in both. A
notebook, which GitHub shows as it is, becomes a page with its outputs. A link to a file that is not
a page, such as a recipe or a table, leads to a copy of the file.
"""

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!`)\]\(([^)#\s]+)(?:#[^)]*)?\)")
ENTRY = re.compile(
    r"(?ms)^### (\S+)\n\n<!-- (::: \S+) -->\n.*?(?=^#|\Z)"
)  # of docs/api.md, by reference_pages.py
NOTEBOOK_LINK = re.compile(r"(\]\([^)#\s]+)\.ipynb(?=[)#])")
OWN_LINK = "The notebook itself: [{name}]({name})"  # of a page that was one
HIDDEN = re.compile(
    r"<style.*?</style>|\n\s*(?=\n)", re.DOTALL
)  # Markdown ends HTML at a blank line
STYLE = "docs/site.css"


def text_of(page: Path) -> str:
    """The Markdown of a page or a notebook."""
    text = page.read_text(encoding="utf-8")
    return "\n\n".join(notebook_parts(json.loads(text))) if page.suffix == ".ipynb" else text


def notebook_parts(notebook: dict[str, Any]) -> Iterator[str]:
    """The cells of a notebook and their outputs, as Markdown."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            shown = {"text/plain": output.get("text", ""), **output.get("data", {})}
            form = next(form for form in ("image/png", "text/html", "text/plain") if form in shown)
            content = "".join(shown[form]).strip("\n")
            if form == "image/png":
                yield f"![output](data:image/png;base64,{content.strip()})"
            elif form == "text/html":
                yield f"<div>{HIDDEN.sub('', content)}</div>"
            else:
                yield f"```text\n{content}\n```"


def links(page: Path) -> list[Path]:
    """Files of the repository that a page or a notebook links to."""
    return [
        (page.parent / target).resolve()
        for target in LINK.findall(text_of(page))
        if "://" not in target and not target.startswith(("mailto:", "data:"))
    ]


def reached(start: Path = ROOT / "README.md") -> list[Path]:
    """`start` and the files that are reached from it by links, in the order in which they are
    found.
    """
    files = [start]
    for path in files:
        if path.suffix in (".md", ".ipynb"):
            files += [
                target
                for target in dict.fromkeys(links(path))
                if target.is_file() and target not in files
            ]
    return files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """In place of the files of `docs_dir`: what README.md reaches, and a page of each notebook."""

    def file(path: str) -> File:
        return File.generated(config, path, abs_src_path=str(ROOT / path))

    def page(path: Path) -> File:
        name = str(path.relative_to(ROOT).with_suffix(".md"))
        text = f"{text_of(path)}\n\n{OWN_LINK.format(name=path.name)}\n"
        return File.generated(config, name, content=text)

    theirs = [
        found
        for found in files
        if found.generated_by or not found.abs_src_path.startswith(str(ROOT / "docs"))
    ]
    own = reached()
    pages = [page(path) for path in own if path.suffix == ".ipynb"]
    return Files(
        [*theirs, *(file(str(path.relative_to(ROOT))) for path in own), *pages, file(STYLE)]
    )


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to notebooks lead to their pages, and signatures become whole docstrings."""
    markdown = ENTRY.sub(r"\2\n    options: {heading: \1, toc_label: \1}\n\n", markdown)
    text, own, rest = markdown.partition(OWN_LINK.partition("{")[0])
    return NOTEBOOK_LINK.sub(r"\1.md", text) + own + rest


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
