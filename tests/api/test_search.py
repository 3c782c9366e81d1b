"""`fn.search` with objects in place of names, and `flashnas search --dry-run`."""

import json
import shlex

import pytest
from config_keys import with_keys

import flashnas as fn
from flashnas.algorithms import ALGORITHMS
from flashnas.api.plan import plan
from flashnas.cli.main import main


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
        sampler=ALGORITHMS["random"],
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
    assert objects.plot_front().svg() == objects.plot("front").svg()
    with pytest.raises(
        fn.FlashnasError, match=r"^figure must be one of front, .*did you mean 'curves'"
    ):
        objects.plot("curve")


def test_a_dry_run_trains_and_writes_nothing(
    tmp_path, small_corpus, quick_recipe, monkeypatch, capsys, refused
):
    monkeypatch.chdir(tmp_path)
    words = [
        *shlex.split(
            f"search --space tiny --workload chat --recipe {quick_recipe} --data "
            f"{small_corpus} --trials 3 --workers 1 --dry-run"
        ),
        *with_keys(tmp_path / "asked", baselines=False, train_anyway=True),
    ]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["candidates"], found["tokens_each"], found["tokens"]) == (3, 512, 1536)
    assert found["seconds"] > 0
    assert main(words) == 0
    assert "3 candidates" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "asked"]
    planned = plan(space="tiny", workload="chat", trials=3, baselines=False, evaluator=by_size)
    assert (planned.candidates, planned.tokens) == (3, 0)
    (tmp_path / "file").write_text("mine")
    line = "flashnas search: --out file: is a file; choose another folder\n"
    assert refused([*words, "--out", "file"]) == line
