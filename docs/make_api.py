"""Writes docs/api.md from the docstrings of the public names.

    python docs/make_api.py        # a few seconds; a test compares the file with the docstrings
"""

import inspect
from pathlib import Path

import flashnas

HEAD = """# API

The public names of `import flashnas as fn`. `python docs/make_api.py` makes this page from their docstrings, and
`help(fn.search)` shows the same. Names are loaded when they are used. Errors that a user can cause are subclasses of
`FlashnasError` with a message of one line.
"""


def text() -> str:
    """The page."""
    parts = [HEAD]
    for name in sorted((name for name in flashnas.__all__ if not name.startswith("_")), key=str.lower):
        found = getattr(flashnas, name)
        title = f"{name}" if inspect.isclass(found) else f"{name}()"
        parts.append(f"## {title}\n\n```text\n{inspect.getdoc(found)}\n```\n")
        if inspect.isclass(found):
            for method, value in sorted(vars(found).items()):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                if not method.startswith("_") and inspect.isfunction(function) and inspect.getdoc(function):
                    call = "" if isinstance(value, property) else str(inspect.signature(function)).replace("'", "")
                    parts.append(f"**`{name}.{method}{call}`** {inspect.getdoc(function)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(text(), encoding="utf-8")
