"""What proxy-trust left in a run folder, as the report shows it."""

import json

import pytest

from flashnas.base.errors import RunError
from flashnas.report import RecordedRun
from flashnas.report.sections import TRUST


def test_before_a_study_the_report_names_the_command(build_run):
    folder = build_run()
    assert f"<code>flashnas proxy-trust {folder}</code>" in TRUST.html(RecordedRun.load(folder))
    assert "of the front are means of 3 trainings" in TRUST.html(RecordedRun.load(build_run(config={"seeds": 3})))


def test_the_verdict_and_its_picture_stand_in_the_report(build_run):
    folder = build_run()
    (folder / "proxy_trust.json").write_text(json.dumps({"verdict": ["7 of 10 <cannot> be told apart", "second"]}))
    (folder / "proxy_trust.png").write_bytes(b"\x89PNG picture")
    page = TRUST.html(RecordedRun.load(folder))
    assert "<li>7 of 10 &lt;cannot&gt; be told apart</li>\n<li>second</li>" in page
    assert "data:image/png;base64,iVBORyBwaWN0dXJl" in page


@pytest.mark.parametrize("content", ["{", "[]", '{"words": 1}', '{"verdict": 3}'])
def test_a_damaged_verdict_is_one_line(build_run, content):
    folder = build_run()
    (folder / "proxy_trust.json").write_text(content)
    with pytest.raises(RunError) as error:
        TRUST.html(RecordedRun.load(folder))
    assert "proxy_trust.json: damaged" in str(error.value)
    assert "\n" not in str(error.value)
