import pytest
from cases import cases
from one_line import one_line

from flashnas.base.documents import read_yaml
from flashnas.base.errors import ConfigError
from flashnas.study.config import SearchConfig
from flashnas.study.head import ASKED, options_given


def write(tmp_path, text):
    path = tmp_path / "search.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("name", "value"), cases("study", "useless_values"))
def test_values_that_no_search_can_use_are_refused(name, value):
    with pytest.raises(
        ConfigError, match=rf"search\.{name} must be (at most|below|a finite number)"
    ):
        SearchConfig(**{name: value})


def test_budget_ms_is_the_budget_on_latency(tmp_path):
    assert SearchConfig(budget_ms=14_000) == SearchConfig(budgets={"latency_ms": 14_000})
    with pytest.raises(ConfigError, match="budget_ms and a budget on latency_ms are the same"):
        SearchConfig(budget_ms=1, budgets={"latency_ms": 1})
    for text in ("budgets: {latency_ms: 10}\n", "budget_ms: 10\n"):
        path = write(tmp_path, text)
        assert SearchConfig.build(read_yaml(path), budget_ms=5).budgets == {"latency_ms": 5}
        assert SearchConfig.build(read_yaml(path), budgets={"latency_ms": 5}).budgets == {
            "latency_ms": 5
        }


def test_how_a_run_is_done_does_not_fix_its_trajectory():
    assert {"seed", "space", "objectives", "cycle_size"} <= set(ASKED)
    assert not {"workers", "trials", "executor", "recipe", "start_from"} & set(ASKED)


@pytest.mark.parametrize("text", ["many", "0", "-3B", "nan", "1e400"])
def test_tokens_of_the_planned_training_are_a_number(text):
    with pytest.raises(ConfigError, match=r"^search\.train_tokens must be"):
        SearchConfig(train_tokens=text)
    assert SearchConfig(train_tokens="2.5B").planned_tokens == 2.5e9


def test_objectives_are_put_in_order(tmp_path):
    assert SearchConfig(objectives=("latency_ms", "loss")) == SearchConfig()
    path = write(tmp_path, "objectives: [latency_ms, expected_recall, loss]\n")
    config = SearchConfig.build(read_yaml(path))
    assert config.objectives == ("loss", "latency_ms", "expected_recall")
    assert SearchConfig.build(read_yaml(path), objectives=("loss", "memory_gb")).objectives == (
        "loss",
        "memory_gb",
    )


@pytest.mark.parametrize(("names", "words"), cases("study", "wrong_objectives"))
def test_wrong_objectives_are_one_clear_line(tmp_path, names, words):
    assert words in one_line(ConfigError, SearchConfig, objectives=names)


def test_paths_of_a_record_are_found_from_any_folder_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quick.yaml", "texts", "notes.jsonl", "tk.json", "earlier", "tiny"):
        (tmp_path / name).write_text("")
    config = SearchConfig(
        space="tiny",
        recipe="quick.yaml",
        data="texts+sotu+notes.jsonl#body+hf:a/b",
        tokenizer="tk.json",
        start_from=("earlier", "gone"),
        table="h100_sxm",
        sampler="random",
    )
    options = options_given(config)
    files = {
        "space": "tiny",
        "table": "h100_sxm",
        "recipe": f"{tmp_path}/quick.yaml",
        "tokenizer": f"{tmp_path}/tk.json",
        "data": f"{tmp_path}/texts+sotu+{tmp_path}/notes.jsonl#body+hf:a/b",
        "start_from": (f"{tmp_path}/earlier", "gone"),
    }
    assert {name: options[name] for name in files} == files
    assert options["seed"] == 0, "a default of another version is another one"
    assert "budgets" not in options
