"""What a user asks of networks: budgets, the programs that load them, their parameters and
vocabulary."""

import dataclasses

import numpy as np
import pytest
import yaml
from cases import cases
from one_line import one_line
from problems import problem_of

import flashnas as fn
from flashnas.base.errors import BudgetError, ConfigError, FlashnasError, MissingRowsError
from flashnas.cli.main import main
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import Budget
from flashnas.latency.table import LatencyTable
from flashnas.space import load_space
from flashnas.study import loop as room
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_baselines, load_problem

SPACE = """\
template: layerwise
model: {vocab: 512, tied: true, meta_tokens: 0}
widths: [128, 192, 256]
layers:
  depth: [2, 4]
  choices: ["d(head_dim=32) f", "conv f", "a(kv_heads=1,head_dim=64,qk_norm=true) f"]
"""


def test_a_budget_holds_for_the_upper_end_where_that_is_asked():
    for budget in ({"latency_ms": 20_000}, {"tpot_ms": 2.4}, {"throughput_tok_s": 400}):
        found = [
            load_problem(SearchConfig(space="lfm2", budgets=budget, budget_holds=holds))
            for holds in ("expected", "upper")
        ]
        networks, _ = found[0].space.networks([*found[0].space.enumerate()])
        usual, safe = (networks.take(np.flatnonzero(f.fitter.within(networks))) for f in found)
        assert 0 < len(safe) < len(usual)
        ((metric, limit),) = budget.items()
        held = {each.hash for each in safe}
        for network in (*usual[::900], *safe[::900]):
            lower, upper = found[0].model.estimate(network).bounds[metric]
            holds = lower >= limit if metric.startswith("throughput") else upper <= limit
            assert holds == (network.hash in held)


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
def test_every_finalist_loads_in_the_programs(tmp_path):
    run = search(tmp_path, runtime=("llama.cpp", "vllm"), budgets={"latency_ms": 1000})
    kinds = [{spec.kind for spec in entry.architecture.operators} for entry in run.front]
    assert kinds == [{"conv", "a", "f"}] * len(run.front)
    written = yaml.safe_load((tmp_path / "run/pareto/01.yaml").read_text())
    programs = ["vllm", "sglang", "llama.cpp", "mlx", "transformers"]
    to = {name: "gguf" if name == "llama.cpp" else "hf" for name in programs}
    assert written["runs_in"] == to
    assert "the front loads in all but TensorRT-LLM" in " ".join(str(run).split())


def test_a_program_that_loads_no_network_of_the_space_is_one_line(tmp_path):
    path = tmp_path / "deltas.yaml"
    path.write_text(
        "template: layerwise\nwidths: [512]\nlayers: {depth: [2, 4], require: [d], choices: [d f, a f]}\n"
    )
    with pytest.raises(
        BudgetError,
        match=r"^none of the 25 compositions of space 'deltas' .* misses runtime tensorrt-llm and vllm"
        r" \(families that do: granite, granite_moe, llama, nemotron_h, qwen3, qwen3_5, qwen3_moe\):",
    ):
        problem_of(str(path), runtime=("tensorrt-llm", "vllm"))
    with pytest.raises(
        BudgetError, match=r"misses params 1T\.\. and latency_ms .* budget is 1, by "
    ):
        problem_of(str(path), 1.0, params="1T..")


def test_families_that_a_program_does_not_load_are_left_out():
    def families(*runtime, space="served"):
        return problem_of(space, 20_000.0, runtime=runtime).space.families

    assert families() == families("vllm", "sglang") == load_space("served").families
    without_lfm2 = tuple(name for name in families() if name != "lfm2")
    assert families("tensorrt-llm", "vllm") == without_lfm2
    with pytest.raises(
        ConfigError,
        match=r"^search.runtime no network of space 'lfm2' loads in tensorrt-llm; families that do:"
        r" granite, granite_moe, llama, nemotron_h, qwen3, qwen3_5, qwen3_moe$",
    ):
        families("tensorrt-llm", space="lfm2")
    message = one_line(ConfigError, families, "vlm")
    assert message.startswith("search.runtime must be one of vllm, sglang, tensorrt-llm,")
    assert message.endswith("got 'vlm' (did you mean 'vllm'?)")


def test_families_of_other_sizes_do_not_end_a_search():
    space = problem_of("served", 60_000.0, params="100M..102M").space
    assert {"lfm2"} <= {genotype.family for genotype in space.genotypes} < {*space.families}


def test_a_family_that_the_table_does_not_answer_for_is_left_out_with_a_note():
    table = LatencyTable.load("h100_sxm")
    # from which those of Mamba2 follow
    frames = {kind: rows for kind, rows in table.frames.items() if "gated_delta" not in kind}
    table = dataclasses.replace(table, frames=frames)
    problem = load_problem(SearchConfig(budget_ms=20_000, experts="any"), table=table)
    assert problem.space.families == ("lfm2", "qwen3", "qwen3_moe")
    notes = [line for line in problem.notes if line.startswith("family ")]
    names = "granite", "nemotron_h", "qwen3_5", "granite_moe"
    for name, note in zip(names, notes, strict=True):
        start = f"family {name} is left out: table 'h100_sxm' does not cover space "
        assert note.startswith(start)
        assert "measure it: flashnas profile " in note
    with pytest.raises(MissingRowsError, match="does not cover space 'granite'"):
        load_problem(SearchConfig(space="granite", budget_ms=20_000), table=table)


def test_parameters_and_vocabulary_are_kept():
    problem = problem_of("free", 1500.0, params="0.2B..0.3B", vocab=32_000)
    rng = np.random.default_rng(0)
    fitted = [problem.fitter.fit_width(problem.space.sample(rng))[0] for _ in range(60)]
    networks = [network for network in fitted if network is not None]
    assert networks
    for network in networks:
        assert 2e8 <= network.params <= 3e8
        assert network.vocab == 32_000
    assert problem.space.hash != problem_of("free").space.hash


@pytest.mark.parametrize(("asked", "words"), cases("study", "impossible_wishes"))
def test_what_no_network_has_is_one_line(asked, words):
    with pytest.raises(FlashnasError, match=rf"^{words}"):
        problem_of("free", 1500.0, **asked)


def test_a_space_that_can_be_listed_is_looked_at_before_it_is_refused():
    problem = problem_of("served", 1e6)
    genotypes = problem.space.genotypes
    networks = [problem.space.architectures(genotype)[0] for genotype in genotypes]
    fastest = np.sort(problem.model.latencies(networks))
    rare, none = (
        Fitter(problem.space, problem.costs, [Budget("latency_ms", limit)])
        for limit in (fastest[10], 0.99 * fastest[0])
    )
    for seed in range(8):
        assert rare.fit_width(rare.feasible(seed))[0] is not None
    with pytest.raises(BudgetError) as caught:
        none.feasible(0)
    assert (
        "none of the 9,460 compositions of space 'served' meets what is asked; the nearest one misses"
        f" latency_ms {fastest[0]:,.5g} where the budget is {none.budgets[0].limit:,.6g}, by a"
        " factor of 1.01: "
    ) in str(caught.value)


@pytest.mark.parametrize(("name", "limit"), [("free", 395.0), ("nemotron_flash", 302.5)])
def test_what_is_rare_in_a_large_space_is_found_and_searched(name, limit):
    problem = problem_of(name, 1e6)
    fitter = Fitter(problem.space, problem.costs, [Budget("latency_ms", limit)])
    for seed in range(4):
        assert fitter.fit_width(fitter.feasible(seed))[0] is not None
    assert len(room.search(dataclasses.replace(problem, fitter=fitter)))


def test_all_parameters_are_those_of_the_option_of_the_budget_and_of_the_column():
    options = {"params": "1B..2B"}, {"params": "..2B"}, {"budgets": {"params": 2e9}}
    between, one, other = (
        room.search(load_problem(SearchConfig(space="qwen3_5", budget_ms=20_000, **asked)))
        for asked in options
    )
    for found in (between, one, other):
        largest = int(np.argmax(found.columns["params"]))
        assert found.networks[largest].params == found.columns["params"][largest] <= 2e9
    assert between.columns["params"].min() >= 1e9
    assert [one.networks[i] for i in one.front] == [other.networks[i] for i in other.front]


def test_experts_are_left_out_kept_or_compared(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "template: layerwise\nwidths: [1024]\n"
        "layers: {depth: [2, 4], choices: [a f, 'a moe(experts=8,active=2)']}\n"
    )
    for space in ("served", str(path)):
        for experts, sorts in (("none", {False}), ("only", {True}), ("any", {False, True})):
            columns = room.search(problem_of(space, 20_000.0, experts=experts)).columns
            assert {*(columns["active_params"] < columns["params"]).tolist()} == sorts
    with pytest.raises(
        ConfigError, match=r"^search\.experts only has no network of space 'llama'$"
    ):
        problem_of("llama", 20_000.0, experts="only")


def test_numbers_take_units_and_programs_a_comma(tmp_path):
    config = SearchConfig(budget_ms="14k", budgets={"params": "1.5B"}, vocab="32K")
    assert config.budgets == {"latency_ms": 14_000, "params": 1.5e9}
    assert config.vocab == 32_000
    assert (config.space, config.runtime, config.min_recall) == ("served", (), None)
    words = (
        "search --space granite --params 0.5B..0.6B --runtime vllm,sglang --budget-ms 20k --json"
    )
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    with pytest.raises(ConfigError, match=r"budget_ms must be a number; got '14 kilo'"):
        SearchConfig(budget_ms="14 kilo")


def test_baselines_that_no_width_brings_within_the_budgets_are_none():
    def baselines(budget_ms):
        problem = problem_of("tiny", budget_ms)
        config = dataclasses.replace(problem.config, baselines=True)
        return problem, [each for _, each in load_baselines(config, problem.fitter, trained=True)]

    problem, every = baselines(1e6)
    limit = sorted(problem.model.latencies(every))[len(every) // 2]
    _, found = baselines(limit)
    assert None not in every
    assert None in found
    assert all(problem.model.latencies([each])[0] <= limit for each in found if each)
