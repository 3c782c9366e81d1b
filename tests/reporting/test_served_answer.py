"""The answer of a search of networks that programs load: in the terminal, the page and the picture."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from golden import text_of_page

import flashnas as fn
from flashnas.families.family import PROGRAMS
from flashnas.families.programs import loading
from flashnas.latency.workload import WORKLOADS, load_workload
from flashnas.reporting.page import render_html
from flashnas.reporting.statements import statements
from flashnas.reporting.table import front_table
from flashnas.reporting.words import described, loads_in, loads_short, recommended
from flashnas.study.rivals import FREE_MIX
from flashnas.trials.pareto import thinned

DIALECT = ("silence", "vouch", "told apart", "pure")
NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+\.\d+")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("served"))
        patch.setattr("flashnas.study.rivals.FREE_PROPOSALS", 200)
        yield fn.search(budgets={"latency_ms": 20_000}, out="runs/a")


@pytest.fixture(scope="module")
def table(run):
    """(the table, the answer below it)"""
    table, _, answer = front_table(run, 120).partition("\n\n")
    return table, answer


def test_the_answer_is_one_that_programs_load(run):
    chosen, answer = recommended(run), run.answer
    assert set(chosen.runs_in) == set(loading(chosen.architecture)) == set(PROGRAMS)
    assert answer.recommended == run.front[-1].hash
    titles = [family["family"] for family in answer.families]
    assert sorted(titles) == [
        "Granite hybrid",
        "LFM2",
        "NemotronH",
        "Qwen3.5",
        "transformer (Llama)",
    ]
    assert answer.recommended == answer.families[0]["hash"], "the best family stands first"
    assert sum(family["best"] for family in answer.families) == pytest.approx(1)
    assert answer.free_mix["family"] == FREE_MIX
    assert answer.wider["latency_ms"] > 20_000


def test_the_answer_fits_sixteen_lines_and_says_each_number_once(table):
    lines = table[1].splitlines()
    assert len(lines) <= 16
    assert all(len(line) <= 120 for line in lines if not line.startswith(("next ", "time it ")))
    said = "\n".join(line for line in lines if not line.startswith(("families ", "published ")))
    numbers = NUMBER.findall(said)
    assert len(numbers) > 8
    assert len(set(numbers)) == len(numbers)


def test_the_answer_says_which_family_is_how_likely_and_that_the_export_can_be_timed(run, table):
    said = dict(statements(run))
    assert said["recommended"].startswith(
        f"{run.front[-1].name}, NemotronH, 2560 wide, 21 layers, attention at 3, 8, 13 and 18: "
    )
    assert said["loads in"] == (
        "run here: vLLM, llama.cpp, MLX, transformers; only read: SGLang, TensorRT-LLM"
    )
    assert re.fullmatch(
        r"best with probability: (\w[\w. ]+ 0\.\d\d, ){4}others 0\.\d\d",
        said["families"],
    )
    assert said["settles it"] == "its time in your engine, as below"


def test_the_commands_that_time_networks_are_one_line_and_their_files_name_the_request(run, table):
    (line,) = [line for line in table[1].splitlines() if line.startswith("time it ")]
    said = dict(statements(run))["time it"]
    assert line.endswith(said)
    numbers, loop = re.fullmatch(r"for n in ((?:\d+ ?)+); do (.*); done", said).groups()
    assert f"{len(run.front):02d}" in numbers
    assert 2 <= len(numbers.split()) <= 3
    for n in numbers.split():
        export, bench = loop.replace("$n", n).split(" && ")
        assert export == (
            f"flashnas export runs/a/pareto/{n}.yaml --to hf --no-weights --out runs/a/timed/{n}"
        )
        out = shlex.split(bench)[-1]
        assert load_workload(Path(out).stem) == dataclasses.replace(
            WORKLOADS["decode-8k"], name=Path(out).stem
        )
        assert "--input-len 1 --output-len 8192 " in bench, "a program needs a prompt"


def test_what_a_program_cannot_time_is_not_proposed(run):
    for section, change in (
        ("workload", {"batch": "max"}),
        ("workload", {"generated_tokens": "1; rm -r ~"}),
        ("table", {"stack": "llama.cpp-1"}),
    ):
        config = {**run.config, section: {**run.config[section], **change}}
        other = dataclasses.replace(run, config=config)
        assert "time it" not in dict(statements(other))


def test_no_word_is_one_of_our_own(run, table):
    for text in (*table, text_of_page(render_html(run))):
        assert not [word for word in DIALECT if word in text]


def test_the_table_says_once_what_loads_the_whole_front(run, table):
    assert "the front loads in" not in table[0], "it differs"
    assert "loads in" in table[0].splitlines()[0]
    everywhere = tuple(entry for entry in run.front if len(entry.runs_in) == len(PROGRAMS))
    other = front_table(dataclasses.replace(run, front=everywhere), 120).splitlines()
    assert "the front loads in all programs" in other
    assert "loads in" not in other[0]


def test_the_table_says_which_programs_load_each_network_where_they_differ(run):
    odd = dataclasses.replace(run.front[0], architecture=fn.Architecture.parse("256: d f"))
    other = dataclasses.replace(run, front=(odd, *run.front[1:]))
    header, *lines = front_table(other, 118).splitlines()
    place = header.index("loads in")
    assert len(run.front) > 40
    chosen = recommended(other)
    shown = thinned(other.front, other.objectives, keep=[chosen.hash])
    assert shown[0] == odd
    assert chosen in shown
    for entry in shown:
        (line,) = [line for line in lines if line.startswith(f"{entry.name} ")]
        assert line[place:].startswith(loads_short(entry.architecture))


def test_the_page_names_the_programs(run):
    words = " ".join(text_of_page(render_html(run)).split())
    chosen = recommended(run).architecture
    assert loads_in(chosen) in words
    assert described(chosen) in words
