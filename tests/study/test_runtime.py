"""`--runtime`: every finalist runs in the program, or one line says which rule the space breaks."""

import pytest
import yaml

import flashnas as fn
from flashnas.base.errors import ConfigError

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
            "rank_by": "short",
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
        match=r"^search.runtime vllm runs no network of space 'space': vllm cannot hold"
        r" this network as Nemotron-H: operator 0 is '\w+'; it has m2, a, f",
    ):
        search(tmp_path, runtime="vllm")
