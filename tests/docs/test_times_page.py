"""docs/devices.md: its commands write files that --times reads, and its examples are such files."""

import json

from documents import blocks

from flashnas.architecture import Architecture
from flashnas.exporting.configuration import export_configuration
from flashnas.observations.read_times import read_times

PAGE = "docs/devices.md"


def test_the_examples_are_files_that_are_read(tmp_path):
    export_configuration("1024: 4x(a f)", tmp_path / "12", dtype="float32", tokenizer=None)
    names = ("decode-8k.json", "llama.json")
    read = []
    for name, example in zip(names, blocks(PAGE, "json"), strict=True):
        path = tmp_path / "12" / name
        path.write_text(json.dumps(json.loads(example)))
        read += read_times(path)
    assert [time.program for time in read] == ["vllm", "llama.cpp 11549"]
    assert read[1].workload.dtype == "q8_0"
    assert read[0].network.hash == Architecture.parse("1024: 4x(a f)").hash
