"""What the documents show: their pages, blocks, commands and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "experiments" / "README.md",
    *sorted(ROOT.glob("experiments/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
    ROOT / "benchmarks" / "README.md",
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
FENCED = re.compile(r"(?ms)^```([\w-]*)\n(.*?)^```")
SHELL = ("", "sh", "bash", "text")


def blocks(name, *languages):
    """The fenced blocks of a page in one of these languages."""
    return [code for language, code in FENCED.findall(TEXTS[name]) if language in languages]


def shell_lines():
    """Page and line, of each line of a block that may be of a shell; continued lines are joined."""
    for name, text in TEXTS.items():
        indented = re.findall(r"(?m)^ {4,}(\S.*(?:(?<=\\)\n.*)*)", FENCED.sub("", text))
        for line in (
            *indented,
            *(
                line
                for block in blocks(name, *SHELL)
                for line in re.sub(r"\\\n\s*", " ", block).splitlines()
            ),
        ):
            yield name, re.sub(r"\\\n\s*", " ", line)


def spans(text):
    """Code within sentences, in one line each."""
    return [
        " ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCED.sub("", text))
    ]


def words_of(line):
    """A line from its program on: without variables, and programs that start another one."""
    return re.sub(
        r"^(?:[A-Z_]+=\S+\s+|nice(?: -n \d+)?\s+|export(?= [A-Z_]+=\S+ \S)\s+)*", "", line.strip()
    )
