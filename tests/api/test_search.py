"""`fn.search` with objects in place of names."""

import pytest
import yaml
from foreign_space import WidthFittedGpt2Space, latency_ms, loss
from pandas.testing import assert_frame_equal

import flashnas as fn
from flashnas.run_folder.layout import as_recorded
from flashnas.samplers import SAMPLERS
from flashnas.study.config import SearchConfig


def by_size(architecture):
    return {"loss": 10 - architecture.params / 1e7}


def test_objects_stand_in_for_names(tmp_path):
    asked = dict(trials=3, baselines=False, evaluator=by_size, workers=1, measure=False)
    names = fn.search(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        sampler="random",
        **asked,
        out=tmp_path / "names",
    )
    objects = fn.search(
        space=fn.load_space("tiny"),
        table=fn.LatencyTable.load("h100_sxm"),
        workload=fn.Workload(name="chat", prompt_tokens=512, generated_tokens=256),
        sampler=SAMPLERS["random"],
        **asked,
        out=tmp_path / "objects",
    )
    assert objects.trials["hash"].tolist() == names.trials["hash"].tolist()
    assert objects.summary["front"][0]["hash"] == objects.front[0].architecture.hash
    assert (
        repr(objects)
        == f"Run({str(tmp_path / 'objects')!r}: 3 trials, {len(objects.front)} on the front)"
    )
    assert str(objects).splitlines()[1].startswith("P1")
    assert objects.plot_front().png().startswith(b"\x89PNG")


ASKED = {"space": "tiny", "workload": "chat", "workers": 1, "measure": False}


@pytest.mark.parametrize("kind", ["free", "bought", "each", "evaluator", "foreign"])
def test_a_search_returns_what_its_folder_holds(kind, tmp_path, small_corpus, quick_recipe):
    trained = dict(recipe=str(quick_recipe), data=small_corpus, trials=2)
    own = dict(space=WidthFittedGpt2Space(), table=latency_ms, evaluator=loss)
    more = {
        "free": {},
        "bought": trained,
        "each": {**trained, "evidence": "none"},
        "evaluator": {"trials": 3, "evaluator": by_size, "sampler": "random"},
        "foreign": {**own, "trials": 2},
    }[kind]
    run = fn.search(**{**ASKED, **more}, out=tmp_path / "run")
    read = fn.load_run(tmp_path / "run")
    assert_frame_equal(run.trials, read.trials)
    assert run.front == read.front
    assert run.config == read.config
    assert run.answer == read.answer
    assert (run.answer is None) is (kind in ("evaluator", "foreign"))
    assert bool(run.answer and run.answer.trained) is (kind in ("bought", "each"))
    assert run.table() == read.table()


def test_run_yaml_holds_each_option_once(tmp_path):
    """With its value and its default alike; beside them stands what they name."""
    fn.search(**ASKED, budget_ms=450, seed=3, out=tmp_path / "run")
    recorded = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    options = recorded.pop("options")
    config = SearchConfig(**{**ASKED, "budget_ms": 450, "seed": 3})
    held = {name: value for name, value in vars(config).items() if value not in (None, {}, ())}
    assert options == as_recorded(held)
    assert set(recorded) & set(options) == {"space", "table", "workload", "objectives"}
    assert recorded["sampler"] == "aging-evolution"
    assert {kind: set(recorded[kind]) for kind in ("space", "scorer")} == {
        "space": {"name", "hash"},
        "scorer": {"train_tokens", "train_hours", "charge", "complexity", "source", "digest"},
    }
