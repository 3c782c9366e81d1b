"""A run is continued by its folder alone: run.yaml holds the options of the search."""

import pytest
from cases import cases
from fake_plugins import write_plugin
from one_line import one_line

import flashnas as fn
from flashnas.architecture import notation
from flashnas.base.documents import read_yaml
from flashnas.base.errors import ConfigError, FlashnasError, RunError
from flashnas.base.registry import forget_plugins
from flashnas.cli.main import main
from flashnas.executors import Executor

ASKED = cases("api", "asked")


def size(architecture):
    return 1 / architecture.params


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fn.search(
        **ASKED, evaluator=size, trials=3, out=tmp_path_factory.mktemp("resume") / "run"
    )


def test_the_folder_alone_continues_a_run(run):
    for again in (
        {"resume": run.path},
        {"resume": True, "out": run.path},
        {"resume": str(run.path), "budget_ms": 450},
    ):
        continued = fn.search(**again, evaluator=size)
        assert continued.trials["hash"].tolist() == run.trials["hash"].tolist()
    longer = fn.search(resume=run.path, trials=5, evaluator=size)
    assert longer.trials["hash"].tolist()[: len(run.trials)] == run.trials["hash"].tolist()
    assert len(longer.trials) > len(run.trials)
    options = read_yaml(run.path / "run.yaml")["options"]
    assert {name: options[name] for name in (*ASKED, "trials")} == {**ASKED, "trials": 5}


@pytest.mark.parametrize(("more", "words"), cases("api", "other_runs"))
def test_what_does_not_continue_the_run_is_one_line(run, more, words):
    given = {"resume": run.path, "out": run.path, **more}
    with pytest.raises((ConfigError, RunError), match=words):
        fn.search(**given, evaluator=size)


def test_a_wrong_option_in_run_yaml_and_options_that_are_missing_have_their_line(
    run, tmp_path, refused
):
    text = (run.path / "run.yaml").read_text()
    old, options, rest = text.partition("\noptions:")
    wrong = old + options + rest.replace("workers: 1", "workers: many")
    for words, content in (
        ("search.workers must be a whole number; got 'many'", wrong),
        ("options must be a mapping; got None", old),
    ):
        (tmp_path / "run.yaml").write_text(content)
        said = refused(f"search --resume {tmp_path}")
        assert words in said
        assert said.startswith(f"flashnas search: {tmp_path / 'run.yaml'}:")


def test_resume_without_a_run_begins_nothing(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "--resume needs the folder of the run" in refused("search --space tiny --resume")
    assert not list(tmp_path.iterdir())


PLUGIN = """\
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.samplers.sampler import Random
from flashnas.space.layerwise import LayerwiseSpace
class Wide(FeedForward):
    kind = name = "wide"
class Drawn(Random):
    name = "drawn"
class Layers(LayerwiseSpace):
    template = "layers"
"""
NAMES = {
    "operators": {"wide": "stranger:Wide"},
    "samplers": {"drawn": "stranger:Drawn"},
    "spaces": {"layers": "stranger:Layers"},
}
LAYERS = """\
template: {}
widths: [64]
width_factor: 1
layers:
  depth: [1, 2]
  choices: [a(head_dim=16) {}]
model: {{vocab: 320}}
"""


@pytest.mark.parametrize(
    ("name", "template", "operator", "sampler", "readable"),
    [
        ("wide", "layerwise", "wide", "random", False),
        ("drawn", "layerwise", "f", "drawn", True),
        ("layers", "layers", "f", "random", True),
    ],
)
def test_what_a_run_needs_of_a_package_that_is_not_here_is_named(
    name, template, operator, sampler, readable, tmp_path, monkeypatch, capsys
):
    """What the run does not need, such as its sampler, is not missed when it is read."""
    folder = write_plugin(
        tmp_path / "site",
        "flashnas-stranger",
        {f"flashnas.{group}": names for group, names in NAMES.items()},
        {"stranger.py": PLUGIN},
    )
    space, run = tmp_path / "own.yaml", tmp_path / "run"
    space.write_text(LAYERS.format(template, operator))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        forget_plugins()
        fn.search(
            **{**ASKED, "space": str(space), "sampler": sampler}, evaluator=size, trials=2, out=run
        )
    forget_plugins()
    for cached in (notation.parse_operators, notation._operator):  # as in another process
        cached.cache_clear()
    assert repr(name) in one_line(FlashnasError, fn.search, resume=run, evaluator=size)
    assert main(["report", str(run)]) == (0 if readable else 2)
    assert (repr(name) in capsys.readouterr().err) is not readable


def test_a_run_of_an_evaluator_says_how_it_is_continued(run, refused):
    assert refused(f"search --resume {run.path}") == (
        f"flashnas search: {run.path}: its networks were scored by 'test_search_resume:size', which"
        " is a function and"
        f" not an option; continue in Python: flashnas.search(resume={str(run.path)!r},"
        " evaluator=THAT_FUNCTION)\n"
    )


def test_a_run_that_has_ended_is_replayed_without_an_evaluation(run, monkeypatch):
    run = fn.search(resume=run.path, trials=6, evaluator=size)
    before = (run.path / "trials.parquet").read_bytes()

    def run_nothing(self, jobs, on_wait):
        assert not jobs
        return iter(())

    monkeypatch.setattr(Executor, "run", run_nothing)
    again = fn.search(resume=run.path, evaluator=size)
    assert {**run.summary, "seconds": 0} == {**again.summary, "seconds": 0}
    assert (run.path / "trials.parquet").read_bytes() == before
