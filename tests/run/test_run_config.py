import pytest

from flashnas.errors import ConfigError
from flashnas.run.config import SearchConfig


def write(tmp_path, text):
    path = tmp_path / "search.yaml"
    path.write_text(text)
    return path


def test_flags_override_the_file_and_budgets_merge(tmp_path):
    path = write(tmp_path, "space: tiny\nbudgets: {latency_ms: 10, memory_gb: 2}\nseed: 3\n")
    config = SearchConfig.load(path, {"budgets": {"latency_ms": 5.0}, "seed": None, "trials": 7})
    assert (config.space, config.seed, config.trials) == ("tiny", 3, 7)
    assert config.budgets == {"latency_ms": 5.0, "memory_gb": 2}


@pytest.mark.parametrize(("text", "line", "words"), [
    ("spcae: tiny\n", 1, "did you mean 'space'"),
    ("space: tiny\ntrials: many\n", 2, "search.trials must be int; got 'many'"),
    ("seed: true\n", 1, "search.seed must be int; got True"),
    ("budgets:\n  latency_ms: fast\n", 2, "budgets.latency_ms must be a number; got 'fast'"),
    ("space: tiny\nspace: tiny\n", 2, "stands twice (first on line 1)"),
    ("space: [unclosed\n", 2, "not valid YAML"),
])
def test_a_wrong_key_type_or_text_names_its_line(tmp_path, text, line, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        SearchConfig.load(path, {})
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}:")
    assert words in message
    assert "\n" not in message


def test_values_below_their_least_are_refused():
    with pytest.raises(ConfigError, match=r"search\.trials must be at least 1; got 0"):
        SearchConfig(trials=0)


def test_the_question_leaves_out_how_a_run_is_done():
    one, many = SearchConfig(workers=1, trials=3), SearchConfig(workers=8, trials=30)
    assert one.question() == many.question()
    assert one.question() != SearchConfig(seed=1).question()
