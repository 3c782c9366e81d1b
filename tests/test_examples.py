"""The example packages: an extension is one folder and one line, and works without any line of
flashnas for it.
"""

import json
import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_plugins import run_with, write_plugin

import flashnas as fn
from flashnas.data.tokenizer import END_OF_DOCUMENT, train_tokenizer

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))
GROUPS = {
    "flashnas-short-conv": "flashnas.operators",
    "flashnas-sampler": "flashnas.samplers",
    "flashnas-gpt2-space": "flashnas.spaces",
}


def entry_points(example):
    return tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.name)
def example(request):
    return request.param


def test_an_example_is_one_folder_and_one_registration_line(example):
    """Besides its tests, readme and packaging, and one file of data or a script that a user would
    run.
    """
    points = entry_points(example)
    assert {group: len(names) for group, names in points.items()} == {GROUPS[example.name]: 1}
    package = example.name.replace("-", "_")
    files = {
        path.relative_to(example).parts[0]
        for path in example.rglob("*")
        if path.is_file() and not {"__pycache__", "build", "dist"} & set(path.parts)
    }
    more = {
        "flashnas-short-conv": {"search_space.yaml"},
        "flashnas-gpt2-space": {"gpt2.yaml", "search.py"},
    }
    assert files - {".pytest_cache"} == {
        "pyproject.toml",
        "README.md",
        "tests",
        package,
        *more.get(example.name, ()),
    }
    (names,) = points.values()
    assert all(value.startswith(f"{package}.") for value in names.values())


@pytest.fixture
def plugged(tmp_path, example):
    """A folder with the example's package and its dist-info, as if it were installed."""
    package = example.name.replace("-", "_")
    folder = write_plugin(tmp_path, example.name, entry_points(example))
    (folder / package).symlink_to(example / package, target_is_directory=True)
    return folder


def test_an_example_is_found_by_name_and_loads(plugged, example):
    ((group, names),) = entry_points(example).items()
    found = run_with(
        plugged,
        f"""if True:
        from flashnas.operators import OPERATORS
        from flashnas.samplers import SAMPLERS
        from flashnas.space import TEMPLATES
        registry = next(r for r in (OPERATORS, SAMPLERS, TEMPLATES) if r.group == {group!r})
        for name in {list(names)}:
            print(registry.origin(name), name, registry[name].__module__)
    """,
    )
    (name,) = names
    assert found == f"{example.name} {name} {names[name].partition(':')[0]}"


def scalars(folder):
    """What TensorBoard reads from its events: name -> (step, value) of each."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_the_tracker_example_writes_a_search_and_a_training_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    script = runpy.run_path(str(ROOT / "examples/tensorboard_progress.py"))
    script["main"](str(tmp_path / "run"), str(tmp_path / "events"))
    found = scalars(tmp_path / "events")
    assert found["search/done"][-1][1] == found["search/done"][-1][0] > 4
    assert found["search/best_loss"][-1][1] <= found["search/best_loss"][0][1]
    training = script["TensorBoard"](tmp_path / "steps")
    for number, validation in ((1, None), (2, 3.5)):
        training.update(
            SimpleNamespace(
                number=number,
                loss=4.0 / number,
                validation=validation,
                gradient_norm=1.0,
                lr_factor=1.0,
                seconds=0.1,
            ),
            2,
        )
    found = scalars(tmp_path / "steps")
    assert found["train/loss"] == [(1, 4.0), (2, 2.0)]
    assert found["train/validation"] == [(2, 3.5)]


@pytest.mark.slow
def test_an_exported_configuration_is_trained_by_hugging_face_trainer(
    tmp_path, monkeypatch, capsys
):
    """At a context above the one that the configuration states, and loaded again."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    transformers = pytest.importorskip("transformers")
    for needed in ("accelerate", "datasets"):
        pytest.importorskip(needed)
    network = "64(vocab=300): m2(head_dim=32,state=16) f(intermediate=128) a(head_dim=32) f(intermediate=128)"
    written = fn.export(network, to="hf", no_weights=True, out=tmp_path / "model")
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 16}))
    words = train_tokenizer(["a text"], 300)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=END_OF_DOCUMENT
    ).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "texts.jsonl").write_text('{"text": "a text of words"}\n' * 64)
    main = runpy.run_path(str(ROOT / "examples/train_exported.py"))["main"]
    files = {"data": "texts.jsonl", "tokenizer": "tokenizer", "output_dir": "trained"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    options += ["--context", "32", "--max_steps", "2", "--report_to", "none", "--use_cpu"]
    main(str(tmp_path / "model"), *options)
    assert re.fullmatch(r"held-out loss \d\.\d+", capsys.readouterr().out.splitlines()[-1])
    trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert sum(weight.numel() for weight in trained.parameters()) == written.params
    assert trained.config.max_position_embeddings == 32
    assert (tmp_path / "trained/tokenizer.json").exists()
