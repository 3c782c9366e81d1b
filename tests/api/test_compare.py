"""`flashnas runs` and `flashnas compare`."""

import json
import shutil

import pytest
import yaml
from matplotlib.image import imread

import flashnas as fn
from flashnas.cli.main import main


@pytest.fixture
def two(build_run):
    """A run, and one with fewer networks, whose question differs."""
    question = {"seed": 0, "cycle_size": 10, "recipe": None, "corpus": None, "evaluator": None}
    first = build_run(40, config={"question": question, "name": "all"})
    shutil.move(first, first.with_name("all"))
    second = build_run(12, config={"question": {**question, "cycle_size": 3}, "name": "few"})
    shutil.move(second, second.with_name("few"))
    return first.with_name("all"), first.with_name("few")


def test_runs_are_a_table_with_what_cannot_be_read(two, capsys):
    folder = two[0].parent
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "run.yaml").write_text("name: broken\n")
    text = yaml.safe_load((two[1] / "run.yaml").read_text())
    (two[1] / "run.yaml").write_text(yaml.safe_dump({**text, "finished": None}))
    found = fn.runs(folder)
    by_name = {entry["run"].rpartition("/")[2]: entry for entry in found.runs}
    assert {name: entry["state"] for name, entry in by_name.items()} == {
        "all": "finished", "few": "not finished", "broken": "unreadable"}
    run = fn.load_run(two[0])
    assert by_name["all"]["front"] == len(run.front)
    assert by_name["all"]["best"]["loss"] == run.trained["loss"].min()
    assert 0 <= by_name["few"]["written_s"] < 600
    lines = {line.split()[0]: line for line in str(found).splitlines()}
    assert "holds no trials yet" in lines["broken"]
    assert "last trial" in lines["few"]
    assert main(["runs", str(folder), "--json"]) == 0
    assert [entry["run"] for entry in json.loads(capsys.readouterr().out)["runs"]] == [
        entry["run"] for entry in found.runs]
    assert str(fn.runs(folder / "empty")) == f"no runs in {folder / 'empty'}"


def test_fronts_are_compared_by_one_reference(two, tmp_path):
    found = fn.compare(two, out=tmp_path / "fronts.png")
    all_of_it, few = found.runs
    assert all_of_it["share"] == pytest.approx(1)  # the same networks, and more
    assert 0 < few["hypervolume"] < all_of_it["hypervolume"]
    assert few["joint_front"] <= few["front"] < all_of_it["front"]
    assert found.reference[0] == 14_000  # the budget of both
    assert found.differs == {"cycle_size": [10, 3]}
    assert found.warnings == ()
    assert [line.split()[0] for line in str(found).splitlines() if line][1:3] == ["all", "few"]
    assert imread(tmp_path / "fronts.png").std() > 0.05


def test_the_picture_is_a_page_that_escapes_names(two, tmp_path):
    text = yaml.safe_load((two[0] / "run.yaml").read_text())
    (two[0] / "run.yaml").write_text(yaml.safe_dump({**text, "name": "<script>alert(1)</script>"}))
    fn.compare(two, out=tmp_path / "fronts.html")
    page = (tmp_path / "fronts.html").read_text()
    assert "<script>alert(1)" not in page
    assert page.count("Pareto") == 0 or "few" in page


def test_runs_without_objectives_in_common_are_refused(two):
    text = yaml.safe_load((two[1] / "run.yaml").read_text())
    (two[1] / "run.yaml").write_text(yaml.safe_dump({**text, "objectives": ["loss", "memory_gb"]}))
    with pytest.raises(fn.FlashnasError, match=r"two objectives in common; got loss,latency_ms in .* and loss,m"):
        fn.compare(two)
