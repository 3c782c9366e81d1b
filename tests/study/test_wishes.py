"""What a user asks of networks: the program that runs them, their parameters, layers and vocabulary."""

import numpy as np
import pytest
import yaml
from cases import cases
from problems import problem_of

import flashnas as fn
from flashnas.base.errors import ConfigError
from flashnas.study.config import SearchConfig

SPACE = """\
template: layerwise
model: {vocab: 512, tied: true, meta_tokens: 0}
widths: [128, 192, 256]
layers:
  depth: [2, 4]
  choices: ["d(head_dim=32) f", "conv f", "a(kv_heads=1,head_dim=64,qk_norm=true) f"]
"""


def search(tmp_path, **options):
    (tmp_path / "space.yaml").write_text(SPACE)
    return fn.search(
        **{
            "space": str(tmp_path / "space.yaml"),
            "workload": "chat",
            "sampler": "random",
            "workers": 1,
            "trials": 6,
            "measure": False,
            "baselines": False,
            "out": tmp_path / "run",
            "evaluator": lambda network: 1 / network.params,
            **options,
        }
    )


@pytest.mark.filterwarnings("ignore:worker processes cannot load")
def test_every_finalist_runs_in_the_program(tmp_path):
    run = search(tmp_path, runtime="llama.cpp", budgets={"latency_ms": 1000})
    kinds = [{spec.kind for spec in entry.architecture.operators} for entry in run.front]
    assert kinds == [{"conv", "a", "f"}] * len(run.front)
    written = yaml.safe_load((tmp_path / "run/pareto/01.yaml").read_text())
    assert written["runs_in"] == {"llama.cpp": "gguf", "transformers": "lfm2"}
    assert "llama.cpp (export --to gguf), transformers (export --to lfm2)" in str(run)


def test_a_program_that_holds_no_network_of_the_space_is_one_line(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"^search.runtime vllm runs no network of space 'space'; it runs those of"
        r" 'nemotron_h': vllm cannot hold"
        r" this network as Nemotron-H: operator 0 is '\w+'; it has m2, a, f",
    ):
        search(tmp_path, runtime="vllm")


def test_parameters_layers_and_vocabulary_are_kept():
    problem = problem_of("hybrid", 1500.0, params="0.2B..0.3B", min_layers=8, vocab=32_000)
    rng = np.random.default_rng(0)
    fitted = [problem.fitter.fit_width(problem.space.sample(rng))[0] for _ in range(60)]
    networks = [network for network in fitted if network is not None]
    assert networks
    for network in networks:
        assert 2e8 <= network.params <= 3e8
        assert sum(spec.mixes_tokens for spec in network.operators) >= 8
        assert network.vocab == 32_000
    assert problem.space.hash != problem_of("hybrid").space.hash


@pytest.mark.parametrize(("asked", "words"), cases("study", "impossible_wishes"))
def test_what_no_network_has_is_one_line(asked, words):
    with pytest.raises(ConfigError, match=rf"^search\.{words}"):
        problem_of("hybrid", 1500.0, **asked)


def test_numbers_take_units_and_a_program_its_space():
    config = SearchConfig(budget_ms="14k", budgets={"params": "1.5B"}, vocab="32K")
    assert config.budgets == {"latency_ms": 14_000, "params": 1.5e9}
    assert config.vocab == 32_000
    assert config.space == "hybrid"
    assert SearchConfig(runtime="llama.cpp").space == "llama_cpp"
    assert SearchConfig(runtime="llama.cpp", space="lfm2").space == "lfm2"
    with pytest.raises(ConfigError, match=r"budget_ms must be a number; got '14 kilo'"):
        SearchConfig(budget_ms="14 kilo")
