"""docs/times.md: its commands write files that --times reads, and its examples are such files."""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from documents import TEXTS, blocks, shell_lines

from flashnas.architecture import Architecture
from flashnas.exporting.configuration import export_configuration
from flashnas.latency.workload import load_workload
from flashnas.observations.read_times import COLUMNS, read_times

PAGE = "docs/times.md"


def command(program):
    """Its words, of the first line of the page that is one."""
    (line, *_) = [line for name, line in shell_lines() if name == PAGE and program in line]
    return shlex.split(line, comments=True)


def test_the_name_of_the_file_of_vllm_is_the_request_that_its_command_makes():
    words = command("vllm bench latency")
    options = dict(itertools.pairwise(words))
    workload = load_workload(Path(options["--output-json"]).stem)
    asked = (int(options[name]) for name in ("--batch-size", "--input-len", "--output-len"))
    assert (workload.batch, max(workload.prompt_tokens, 1), workload.generated_tokens) == (*asked,)
    assert Path(options["--output-json"]).parent == Path(options["--model"])


@pytest.mark.parametrize("program", ["sglang.benchmark.one_batch", "llama-bench -m"])
def test_results_go_beside_the_config_json(program):
    assert Path(command(program)[-1]).parent == Path("RUN/timed/12")


def test_the_examples_are_files_that_are_read(tmp_path):
    export_configuration("1024: 4x(a f)", tmp_path / "12", dtype="float32", tokenizer=None)
    names = ("decode-8k.json", "sglang.jsonl", "llama.json")
    read = []
    for name, example in zip(names, blocks(PAGE, "json"), strict=True):
        path = tmp_path / "12" / name
        path.write_text(example if name.endswith(".jsonl") else json.dumps(json.loads(example)))
        read += read_times(path)
    assert [time.program for time in read] == ["vllm", "sglang", "llama.cpp 11549"]
    assert read[2].workload.dtype == "q8_0"
    assert read[0].network.hash == Architecture.parse("1024: 4x(a f)").hash


def test_the_table_of_the_page_has_columns_that_are_read():
    (table,) = blocks(PAGE, "csv")
    assert {*table.splitlines()[0].split(",")} <= {*COLUMNS}


def test_the_page_quotes_the_words_of_an_answer():
    quoted = re.findall(r"(?m)^    times +(.*)$", TEXTS[PAGE])
    form = (
        r"\d networks in vllm: [\d.]+ x the table \([\d.]+ to [\d.]+\); without them .* \(.* m?s\)"
    )
    assert len(quoted) == 2
    assert all(re.fullmatch(form, words) for words in quoted)
