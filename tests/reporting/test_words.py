"""The words of the answer, the table and the page, as tests/golden has them."""

import dataclasses
import math

import pytest
import yaml
from golden import GOLDEN, check_golden, text_of_page

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.reporting.commands import next_commands
from flashnas.reporting.page import render_html
from flashnas.reporting.statements import statements
from flashnas.reporting.table import front_table
from flashnas.reporting.words import exceeds, latency_unit, shown_networks
from flashnas.trials.pareto import thinned


def replaced(entry, change):
    if not change or not isinstance(change, dict):
        return change
    if isinstance(entry, list):
        return [replaced(part, change[n]) if n in change else part for n, part in enumerate(entry)]
    return {**entry, **{key: replaced(entry.get(key, {}), change[key]) for key in change}}


def otherwise(run, front=None, only=None, **changes):
    """The run with other entries of run.yaml, and other figures of its front, or `only` some of it."""
    config = replaced(run.config, changes) if changes else run.config
    networks = [
        dataclasses.replace(entry, **parsed((front or {}).get(entry.name, {})))
        for entry in run.front
        if only is None or entry.name in only
    ]
    return dataclasses.replace(run, config=config, front=tuple(networks))


def parsed(figures):
    """With networks in place of their notation."""
    if "architecture" not in figures:
        return figures
    network = Architecture.parse(figures["architecture"])
    return {**figures, "architecture": network, "notation": network.notation}


def words(run):
    found = {**dict(statements(run)), "next": "\n  ".join(next_commands(run))}
    return {about: text.replace(str(run.path), "demo") for about, text in found.items()}


def test_what_is_said_of_an_answer_that_is_otherwise(runs):
    recorded = words(runs["trained"])
    lines = []
    for name, change in yaml.safe_load((GOLDEN / "otherwise.yaml").read_text()).items():
        other = words(otherwise(runs["trained"], **change))
        lines.append(f"== {name}")
        lines += [
            f"{about}: {other.get(about, '(not said)')}"
            for about in {**recorded, **other}
            if other.get(about) != recorded.get(about)
        ]
    check_golden("otherwise.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["plain", "trained", "untrained"])
def test_the_table_and_the_answer_below_it(runs, name):
    run = runs[name]
    tables = {width: front_table(run, width) for width in (80, 120, 200)}
    for width in (80, 120):
        assert max(map(len, tables[width].split("\nnext ")[0].splitlines())) <= width
        answer = tables[width].partition("\n\n")[2].splitlines()
        assert sum(math.ceil(len(line) / width) for line in answer) < 20
    text = "\n\n".join(f"== width {width}\n{table}" for width, table in tables.items())
    check_golden(f"table_{name}.txt", text.replace(str(run.path), "demo") + "\n")


def test_the_page_of_an_answer(runs):
    run = runs["trained"]
    check_golden("page_trained.txt", text_of_page(render_html(run)).replace(str(run.path), "demo"))


def test_a_charge_has_a_column_only_where_some_network_has_one(runs):
    run = runs["trained"]
    assert "charge" in front_table(run, 200).splitlines()[0]
    free = otherwise(run, {entry.name: {"silence": 0.0} for entry in run.front})
    free = dataclasses.replace(free, trials=run.trials.assign(silence=0.0))
    assert "charge" not in front_table(free, 200)


def test_bits_per_byte_have_a_column_only_where_some_network_has_them(run):
    """The losses of an evaluator of one's own have none."""
    assert "bits/byte" in front_table(run, 200)
    none = tuple(dataclasses.replace(entry, bits_per_byte=None) for entry in run.front)
    assert "bits/byte" not in front_table(dataclasses.replace(run, front=none), 200)


def test_the_best_family_that_programs_load_is_one_that_they_load(runs):
    loads_nowhere = {0: {"notation": "2048: 4x(d f)", "difference": -0.9}}
    said = dict(statements(otherwise(runs["untrained"], answer={"families": loads_nowhere})))
    assert "the best one that programs load: +0.127 ± " in said["families"]


def test_text_of_an_answer_cannot_become_markup(runs):
    attack = "<script>alert(1)</script>"
    families = {0: {"family": attack, "notation": attack}}
    answer = {"families": families, "ranked_by": attack}
    own = render_html(otherwise(runs["trained"], answer=answer))
    assert attack not in own
    assert own.count("&lt;script&gt;alert") >= 2


def test_an_interval_above_the_budget_has_a_mark_in_a_column_that_stays(runs):
    """And the legend explains it only where it stands."""
    run = runs["trained"]
    for width in (80, 120, 200):
        lines = front_table(run, width).splitlines()
        for entry in thinned(run.front, run.objectives):
            (line,) = [line for line in lines if line.startswith(f"{entry.name} ")]
            assert (" ! " in line) == (entry.upper_ms > run.budgets["latency_ms"])
        assert "! the latency may be above the budget" in " ".join(lines)
    config = {**run.config, "options": {"budgets": {"latency_ms": 1e6}}}
    assert "!" not in front_table(dataclasses.replace(run, config=config), 200)


def test_a_budget_on_another_time_has_a_column_and_a_mark_at_any_width(tmp_path):
    """And the answer has both, too."""
    question = {"space": "granite", "params": "0.5B..0.6B", "workload": "chat"}
    run = fn.search(**question, budgets={"ttft_ms": 4.6, "tpot_ms": 1.9}, out=tmp_path / "run")
    own, _ = shown_networks(run)
    ends = [entry.ttft_upper_ms > 4.6 for entry in own]
    assert any(ends)
    assert not all(ends)
    for width in (80, 200):
        head, *lines = front_table(run, width).splitlines()
        place = head.index("ttft_ms") + len("ttft_ms")
        for entry, above in zip(own, ends, strict=True):
            (line,) = [line for line in lines if line.startswith(f"{entry.name} ")]
            assert line[:place].endswith(f"  {'! ' * above}{entry.ttft_ms:.3g}")
        assert "per token" in head
        assert "! the latency may be above the budget" in " ".join(" ".join(lines).split())
    chosen = run.recommended
    marked = [
        f"{name} {'! ' * (upper > limit)}{value:.4g} ms"
        for name, value, upper, limit in (
            ("ttft", chosen.ttft_ms, chosen.ttft_upper_ms, 4.6),
            ("tpot", chosen.tpot_ms, chosen.tpot_upper_ms, 1.9),
        )
    ]
    assert ", ".join(marked) in dict(statements(run))["recommended"]
    assert {"ttft_upper_ms", "tpot_upper_ms"} <= {*run.summary["recommended"]}


def test_what_was_measured_decides_whether_a_latency_has_a_mark(runs):
    run = runs["trained"]
    chosen = next(
        entry
        for entry in run.front
        if entry.upper_ms > run.budgets["latency_ms"] > entry.latency_ms
    )
    assert exceeds(run, chosen)
    for measured_ms in (0.9 * run.budgets["latency_ms"], 1.1 * run.budgets["latency_ms"]):
        entry = dataclasses.replace(chosen, measured_ms=measured_ms)
        assert exceeds(run, entry) == (measured_ms > run.budgets["latency_ms"])
    table = {**run.config.get("table", {}), "observed": {"timed": [chosen.hash]}}
    timed = dataclasses.replace(run, config={**run.config, "table": table})
    assert not exceeds(timed, chosen)
    slow = dataclasses.replace(chosen, latency_ms=1.01 * run.budgets["latency_ms"])
    assert exceeds(timed, slow)


@pytest.mark.parametrize(("metric", "least"), [("throughput_tok_s", 600), ("sequences", 64)])
def test_a_minimum_that_is_met_has_no_mark(runs, metric, least):
    run = runs["trained"]
    run = dataclasses.replace(run, config={**run.config, "options": {"budgets": {metric: least}}})
    for value in (0.9 * least, least, 10 * least):
        entry = dataclasses.replace(run.recommended, **{metric: value})
        assert exceeds(run, entry, metric) == (value < least)


def test_a_column_of_an_objective_stays_at_any_width(runs):
    asked = ["full_loss", "latency_ms", "memory_gb", "throughput_tok_s"]
    run = dataclasses.replace(
        runs["trained"], config={**runs["trained"].config, "objectives": asked}
    )
    head = front_table(run, 80).splitlines()[0].split()
    assert {"latency", "memory", "throughput_tok_s"} <= {*head}
    assert "params" not in head


def test_all_latencies_of_a_run_have_one_unit(run):
    assert latency_unit(run) == (1e-3, "s")
    fast = dataclasses.replace(
        run,
        trials=run.trials.assign(latency_ms=run.trials["latency_ms"] / 1000),
        config={**run.config, "options": {"budgets": {"latency_ms": 1999.0}}},
    )
    assert latency_unit(fast) == (1.0, "ms")


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_a_run_without_an_answer_yet_has_a_page(runs, name):
    config = {key: value for key, value in runs[name].config.items() if key != "answer"}
    going = dataclasses.replace(runs[name], config={**config, "finished": None}, front=())
    assert next_commands(going) == []
    assert "recommended" not in dict(statements(going))
    page = text_of_page(render_html(going))
    assert "The search has not ended" in page
    assert "There is no front yet" in page
