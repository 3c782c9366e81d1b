"""What a job says to a worker on another machine, and what that worker accepts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import slow_space
from foreign_space import Gpt2, loss
from slow_space import NamedGpt2, NamedSpace

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.job import Job
from flashnas.executors.payload import PayloadError, job_of, payload_of
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search
from flashnas.training.recipe import Recipe


@pytest.mark.parametrize(("job", "words"), [
    (Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=lambda _: 1.0), "must be a function of a module"),
    (Job(architecture=Gpt2(64, 2, 2, 2), evaluator=loss), "foreign_space:Gpt2 has no from_dict"),
])
def test_what_cannot_be_named_is_refused_in_one_line(job, words):
    with pytest.raises(ConfigError) as caught:
        payload_of(job, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_evaluator_that_cannot_be_named_is_refused_before_anything_is_written(tmp_path):
    asked = SearchConfig(table=None, executor="storage", storage=f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ConfigError, match="must be a function of a module"):
        run_search(asked, tmp_path / "run", resume=False, progress=SimpleNamespace(note=print), evaluator=lambda _: 1.0,
                   space=NamedSpace())
    assert list(tmp_path.iterdir()) == []


def test_an_evaluator_runs_only_where_it_is_allowed():
    job = Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency, needed=("latency_ms",))
    payload = payload_of(job, {})
    assert job_of(json.dumps(payload), ["slow_space:loss_and_latency"]) == job
    for evaluators in ([], ["os:system"]):
        with pytest.raises(WorkerError, match="which --evaluator does not allow here"):
            job_of(json.dumps(payload), evaluators)
    with pytest.raises(WorkerError, match="which --evaluator does not allow here"):
        job_of(json.dumps({**payload, "network": "subprocess:Popen"}), ["slow_space:loss_and_latency"])


NETWORK = {"hidden": 64, "operators": ["d"]}
HOSTILE = {"nope": "nope", "nested": "[" * 100_000, "null": "null", "number": '{"training": 5}',
           **{name: json.dumps({"training": {"architecture": NETWORK, **more}, "corpus": None}) for name, more in {
               "operator": {"architecture": {"hidden": 64, "operators": ["zz"]}}, "recipe": {"recipe": {"x": 1}},
               "seed": {"seed": "x"}, "processes": {"processes": 64}, "evaluator": {"evaluator": "os:system"},
               "key": {"x": 1}, "dataset": {"dataset": None}}.items()},
           "plain": '{"evaluator": "m:f", "network": [], "plain": {"evaluator": 1}}'}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_row_that_is_not_a_job_is_refused_in_one_line(text):
    with pytest.raises(PayloadError, match=r"\Athe payload is not that of a job: [^\n]*\Z"):
        job_of(text, ["m:f"])


def test_a_training_finds_its_text_on_the_machine_of_the_worker(tmp_path, small_corpus, quick_recipe, monkeypatch):
    recipe = Recipe.load(quick_recipe)
    dataset = prepare_dataset(str(small_corpus), recipe, cache=tmp_path / "driver")
    space = load_space("tiny")
    network = space.architectures(space.sample(np.random.default_rng(0)))[0]
    corpus = {"data": str(small_corpus), "tokenizer": None}
    job = Job(architecture=network, dataset=str(dataset.folder), recipe=recipe.to_dict(), seed=1)
    payload = payload_of(job, corpus)
    assert job_of(json.dumps(payload), []) == job
    monkeypatch.setenv("FLASHNAS_CACHE", str(tmp_path / "worker"))
    dataset.folder.rename(tmp_path / "gone")
    found = job_of(json.dumps(payload), [])
    assert found.dataset == str(tmp_path / "worker" / "datasets" / dataset.digest)
    assert replace(found, dataset=job.dataset) == job
    (tmp_path / "worker").rename(tmp_path / "cache that was cleared")
    with pytest.raises(WorkerError) as caught:
        job_of(json.dumps({**payload, "corpus": {"data": str(tmp_path / "nowhere"), "tokenizer": None}}), [])
    assert "of a job cannot be read here" in str(caught.value)
    assert f"to {tmp_path / 'worker' / 'datasets' / dataset.digest}" in str(caught.value)
    other = tmp_path / "other"
    other.mkdir()
    for file in sorted(small_corpus.iterdir())[:30]:
        (other / file.name).write_text(file.read_text())
    with pytest.raises(WorkerError, match="is another text here"):
        job_of(json.dumps({**payload, "corpus": {"data": str(other), "tokenizer": None}}), [])
