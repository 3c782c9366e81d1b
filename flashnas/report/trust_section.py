"""The part of report.html that says how far the order of the losses is to be trusted, once `proxy-trust` has looked."""

from __future__ import annotations

import base64
import html
import json

from flashnas.base.errors import RunError
from flashnas.study.run import Run

FOUND, PICTURE = "proxy_trust.json", "proxy_trust.png"


def trust_section(run: Run) -> str:
    """The verdict that `flashnas proxy-trust` left in the run folder, and its picture; before that, how to get one.

    Raises RunError in one line for a damaged file.
    """
    path = run.path / FOUND
    heading = "<h2>How far the order is to be trusted</h2>"
    if not path.is_file():
        return (f"{heading}\n<p>Losses of one short training each: neighbours may be ties. <code>flashnas proxy-trust"
                f" {html.escape(run.name)}</code> trains longer and under more seeds, and says what is noise.</p>")
    try:
        verdict = [str(words) for words in json.loads(path.read_text(encoding="utf-8"))["verdict"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged: {str(error).splitlines()[0]}; run flashnas proxy-trust again") from None
    items = "\n".join(f"<li>{html.escape(words)}</li>" for words in verdict)
    picture = run.path / PICTURE
    shown = ""
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        shown = (f'\n<img src="data:image/png;base64,{data}" style="max-width:640px;width:100%"'
                 ' alt="loss after short against loss after long training">')
    return f"{heading}\n<ul>\n{items}\n</ul>{shown}"
