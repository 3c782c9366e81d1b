"""The words of the answer, the table and the page, as tests/golden has them."""

import dataclasses

import pytest
import yaml
from golden import GOLDEN, check_golden, text_of_page

from flashnas.architecture import Architecture
from flashnas.base.text import names_text, signed
from flashnas.reporting.page import header, render_html
from flashnas.reporting.statements import next_commands, statements
from flashnas.reporting.table import front_table


def replaced(entry, change):
    if not change or not isinstance(change, dict):
        return change
    if isinstance(entry, list):
        return [replaced(part, change[n]) if n in change else part for n, part in enumerate(entry)]
    return {**entry, **{key: replaced(entry.get(key, {}), change[key]) for key in change}}


def otherwise(run, front=None, **changes):
    """The run with other entries of run.yaml, and other figures of its front."""
    config = replaced(run.config, changes) if changes else run.config
    compared = {standing["hash"] for standing in config["answer"]["standings"]}
    networks = [
        dataclasses.replace(entry, **parsed((front or {}).get(entry.name, {})))
        for entry in run.front
        if entry.hash in compared
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


def test_text_of_an_answer_cannot_become_markup(runs):
    attack = "<script>alert(1)</script>"
    families = {0: {"family": attack, "notation": attack}}
    answer = {"families": families, "equals": {"examples": [attack]}, "ranked_by": attack}
    own = header(otherwise(runs["trained"], answer=answer))
    assert attack not in own
    assert "&lt;script&gt;" in own


def test_names_and_signs():
    assert names_text([]) == ""
    assert names_text(["P1"]) == "P1"
    assert names_text(["P1", "P2"]) == "P1 and P2"
    assert names_text(["P1", "P3", "P4", "P5", "P9"]) == "P1, P3 to P5 and P9"
    assert [signed(value) for value in (0.02, -0.0004, -0.3)] == ["+0.020", "0.000", "-0.300"]
