"""The answer of a search of networks that programs load: in the terminal, the page and the picture."""

import dataclasses
import math
import os
import re
import shlex
import shutil
import subprocess

import pytest

import flashnas as fn
from flashnas.families.family import PROGRAMS
from flashnas.families.programs import loading
from flashnas.latency.workload import WORKLOADS, load_workload
from flashnas.reporting.commands import next_commands, timing_script
from flashnas.reporting.statements import statements
from flashnas.reporting.table import front_table
from flashnas.reporting.words import loads_short, recommended
from flashnas.study.second_searches import FREE_MIX
from flashnas.trials.pareto import thinned

NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+\.\d+")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("served"))
        patch.setattr("flashnas.study.second_searches.FREE_PROPOSALS", 200)
        yield fn.search(budgets={"latency_ms": 20_000}, out="runs/a")


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
        "transformer (Qwen3)",
    ]
    assert answer.recommended == answer.families[0]["hash"], "the best family stands first"
    assert sum(family["best"] for family in answer.families) == pytest.approx(1)
    assert answer.free_mix["family"] == FREE_MIX
    assert answer.wider["latency_ms"] > 20_000


@pytest.mark.parametrize("width", [80, 120])
def test_the_answer_fits_twenty_lines_and_says_each_number_once(run, width):
    lines = front_table(run, width).partition("\n\n")[2].splitlines()
    assert sum(math.ceil(len(line) / width) for line in lines) < 20, "and one of the report"
    assert all(len(line) <= width for line in lines if not line.startswith("next "))
    said = "\n".join(line for line in lines if not line.startswith(("families ", "next ")))
    numbers = NUMBER.findall(said)
    assert len(numbers) > 8
    assert len(set(numbers)) == len(numbers)


def test_the_recommended_network_is_handed_to_a_trainer(run):
    export, train = next_commands(run)
    name = f"pareto/{len(run.front):02d}.yaml --to hf --no-weights --out "
    assert export.startswith("flashnas export ")
    assert name in export
    out = shlex.split(export)[-1]
    assert train.startswith(f"accelerate launch examples/train_exported.py {shlex.quote(out)} ")
    assert "--context 4096" in train
    assert "launch examples/train_exported.py, whole in report.html" in front_table(run, 80)


def called(run, tmp_path, names):
    """What the script of a run in a folder of a hostile name calls from another folder, by programs
    that write down how; with the folder as RUN."""
    calls, folder = tmp_path / "calls", tmp_path / 'it\'s "a" $(touch hit) run'
    for name in names:
        file = 'for f do :; done; touch "$f"\n' * (name == "vllm")
        (tmp_path / name).write_text(
            f'#!/bin/sh\nfor f in {name} "$@"; do printf \'%s|\' "$f"; done >> {calls}\n'
            f"echo >> {calls}\n{file}"
        )
        (tmp_path / name).chmod(0o755)
    script = folder / "time_it.sh"
    script.parent.mkdir()
    moved = dataclasses.replace(run, path=folder)
    script.write_text(timing_script(moved))
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, "-e", "SC2016", str(script)], check=True)  # `$(` of the name
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name in front_names(run):
        (folder / "timed" / name).mkdir(parents=True)
    (line,) = [words for about, words in statements(moved) if about == "time first"]
    command = line.rpartition(": times ")[0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(command, shell=True, cwd=elsewhere, env=path, check=True)
    assert not list(tmp_path.rglob("hit"))
    found = calls.read_text().replace(str(folder), "RUN")
    return [line.removesuffix("|").replace("|", " ") for line in found.splitlines()]


def front_names(run):
    return re.search("^set -- (.*)$", timing_script(run), re.M)[1].split()


def test_a_script_times_networks_and_asks_again(run, tmp_path):
    assert (run.path / "time_it.sh").read_text() == timing_script(run)
    names = front_names(run)
    assert f"{len(run.front):02d}" in names
    assert 2 <= len(names) <= 3
    *benches, again = called(run, tmp_path, ("flashnas", "vllm"))
    for name, bench in zip(names, benches, strict=True):
        assert bench.startswith(f"vllm bench latency --model RUN/timed/{name} --load-format dummy ")
        assert " --input-len 1 --output-len 8192 " in bench, "a program needs a prompt"
        (result,) = next(tmp_path.glob("it*")).glob(f"timed/{name}/*")
        workload = dataclasses.replace(WORKLOADS["decode-8k"], name=result.stem)
        assert load_workload(result.stem) == workload
    assert again == "flashnas search --again RUN --times RUN/timed --out RUN/again --resume"


def test_a_table_of_llama_cpp_is_timed_by_llama_bench(run, tmp_path):
    config = {
        **run.config,
        "table": {
            **run.config["table"],
            "stack": "llama.cpp-x-1-2t-q8_0-plain-attention-f16-cache",
        },
    }
    other = dataclasses.replace(run, config=config)
    lines = called(other, tmp_path, ("flashnas", "llama-bench"))
    name = front_names(other)[0]
    assert lines[0] == (
        f"flashnas export RUN/pareto/{name}.yaml --to gguf --type q8_0 --init-seed 0"
        f" --out RUN/timed/{name}/gguf"
    )
    assert lines[1] == (
        f"llama-bench -m RUN/timed/{name}/gguf/model.gguf -t 2 -fa off -ctk f16 -ctv f16"
        " -p 0 -n 0 -pg 0,8192 -r 3 -o json"
    )
    assert lines[-1].startswith("flashnas search --again ")


def test_what_a_program_cannot_time_is_not_proposed(run):
    for section, change in (
        ("workload", {"batch": "max"}),
        ("workload", {"generated_tokens": "1; rm -r ~"}),
        ("table", {"stack": "llama.cpp-1; rm -r ~"}),
        ("options", {"runtime": ["sglang"]}),
    ):
        config = {**run.config, section: {**run.config[section], **change}}
        other = dataclasses.replace(run, config=config)
        assert "time first" not in dict(statements(other))
        assert timing_script(other) is None


def test_at_80_columns_each_network_of_a_family_has_one_line(run):
    lines = front_table(run, 80).splitlines()
    head, *rows = lines[: next(n for n, line in enumerate(lines) if " of the front" in line)]
    assert max(map(len, rows)) <= 80
    named = [line for line in rows if line.startswith("P")]
    assert len(named) == 12
    assert all(" layers" in line[head.index("architecture") :] for line in named)


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
