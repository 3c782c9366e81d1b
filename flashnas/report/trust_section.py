"""The section of report.html about the order of the losses, from the files that `flashnas proxy-trust`
leaves."""

from __future__ import annotations

import base64
import shlex

from flashnas.base.errors import RunError
from flashnas.base.foreign import read_json
from flashnas.base.hints import first_line
from flashnas.report.section import Section, render
from flashnas.report.text import known
from flashnas.runs.run import RecordedRun

FOUND, PICTURE = "proxy_trust.json", "proxy_trust.png"


class TrustSection(Section):
    """The verdict of `flashnas proxy-trust` and its picture; without one, the command that gives one."""

    title = "How far the order is to be trusted"

    def html(self, run: RecordedRun) -> str:
        """See Section. Raises RunError in one line for a damaged file."""
        path, picture = run.path / FOUND, run.path / PICTURE
        verdict: list[str] = []
        if path.is_file():
            try:
                verdict = [str(words) for words in read_json(path, RunError)["verdict"]]
            except (RunError, KeyError, TypeError) as error:
                raise RunError(f"{path}: damaged: {first_line(error)};"
                               " run flashnas proxy-trust again") from None
        if run.untrained:
            return ""
        seeds = run.entry("seeds")
        return render("trust.html", path=shlex.quote(str(run.path)), seeds=seeds if known(seeds) else 1,
                      verdict=verdict,
                      picture=base64.b64encode(picture.read_bytes()).decode()
                      if verdict and picture.is_file() else "")


TRUST = TrustSection()
