"""A run is continued by its folder alone: run.yaml holds the options of the search."""

import pytest

import flashnas as fn
from flashnas.base.errors import ConfigError, RunError
from flashnas.base.yaml import read_yaml
from flashnas.cli.main import main

ASKED = {"space": "tiny", "workload": "chat", "budgets": {"latency_ms": 60.0}, "baselines": False, "measure": False,
         "rank_by": "short", "sampler": "random", "workers": 1, "seed": 3}


def size(architecture):
    return 1 / architecture.params


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fn.search(**ASKED, evaluator=size, trials=3, out=tmp_path_factory.mktemp("resume") / "run")


def test_the_folder_alone_continues_a_run(run):
    for again in ({"resume": run.path}, {"resume": True, "out": run.path}, {"resume": str(run.path), "budget_ms": 60}):
        continued = fn.search(**again, evaluator=size)
        assert continued.trials["hash"].tolist() == run.trials["hash"].tolist()
    longer = fn.search(resume=run.path, trials=5, evaluator=size)
    assert longer.trials["hash"].tolist()[:len(run.trials)] == run.trials["hash"].tolist()
    assert len(longer.trials) > len(run.trials)
    assert read_yaml(run.path / "run.yaml")["options"] == {**ASKED, "trials": 5}


@pytest.mark.parametrize(("more", "words"), [
    ({"seed": 4}, "question.seed is 3, but this search asks 4"),
    ({"budgets": {"memory_gb": 8.0}}, "question.budgets is {'latency_ms': 60.0}, but"),
    ({"resume": True, "space": "tiny"}, "question.workload is"),   # as without resume, but into this folder
    ({"resume": "nowhere", "out": None}, "nowhere: not a run folder"),
    ({"resume": True, "out": None}, "resume needs the folder of the run"),
    ({"out": "another"}, "name two folders"),
])
def test_what_does_not_continue_the_run_is_one_line(run, more, words):
    given = {"resume": run.path, "out": run.path, **more}
    with pytest.raises((ConfigError, RunError), match=words):
        fn.search(**given, evaluator=size)


def test_a_wrong_option_in_run_yaml_has_its_line_and_a_run_without_options_says_what_to_give(run, tmp_path, capsys):
    text = (run.path / "run.yaml").read_text()
    old, options, rest = text.partition("\noptions:")
    wrong = old + options + rest.replace("workers: 1", "workers: many")
    for words, content in (("search.workers must be a whole number; got 'many'", wrong),
                           ("--resume and those of", old)):
        (tmp_path / "run.yaml").write_text(content)
        assert main(["search", "--resume", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.startswith(f"flashnas search: {tmp_path / 'run.yaml'}:")


def test_resume_without_a_run_begins_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--space", "tiny", "--resume"]) == 2
    assert "--resume needs the folder of the run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
