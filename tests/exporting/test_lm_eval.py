"""lm-evaluation-harness runs on an exported model through its own command line, offline, and finds
our numbers."""

import json
import math
import os
import shlex
import subprocess
import sys

import pytest
import torch
from cases import cases

pytest.importorskip("lm_eval")

from networks import MIXED, make_network, write_tokenizer_json

from flashnas.data.tokenizer import load_tokenizer
from flashnas.exporting.exporter import export_network
from flashnas.exporting.source import Source

QUESTIONS = cases("exporting", "questions")
COMMON = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: '{0}'}}}}\ntest_split: test\n"
CHOICE = """task: local_choice
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
PERPLEXITY = """task: local_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}]
"""
GENERATION = """task: local_generation
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{expected}}}}"
generation_kwargs: {{until: ["<|endoftext|>"], max_gen_toks: 5, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@torch.no_grad()
def log_likelihood(network, ids, first):
    """Nats of ids[first:] after ids[:first]."""
    log_p = network(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    return sum(float(log_p[n - 1, ids[n]]) for n in range(first, len(ids)))


@pytest.mark.slow
def test_the_harness_finds_our_numbers(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path / "tokenizer.json"))
    network = make_network(MIXED)
    export_network(
        Source(make_network(MIXED), tokenizer, "made for a test"), "hf", tmp_path / "model"
    )
    encode = lambda text: tokenizer.encode(text).ids  # noqa: E731

    right, generated, bits, size = [], [], 0.0, 0
    for row in QUESTIONS:
        question = encode(row["question"])
        scores = [
            log_likelihood(network, question + encode(choice), len(question))
            for choice in row["choices"]
        ]
        right.append(scores.index(max(scores)) == row["answer"])
        generated.append(
            tokenizer.decode(network.generate(torch.tensor([question]), 5)[0].tolist())
        )
        bits -= log_likelihood(network, [0, *question], 1) / math.log(2)
        size += len(row["question"].encode())
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps({**row, "expected": text}) + "\n"
            for row, text in zip(QUESTIONS, generated, strict=True)
        )
    )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in (("choice", CHOICE), ("perplexity", PERPLEXITY), ("generation", GENERATION)):
        (tasks / f"{name}.yaml").write_text((text + COMMON).format(tmp_path / "questions.jsonl"))

    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    words = shlex.split(
        f"run --model hf --model_args pretrained={tmp_path}/model,backend=causal"
        " --tasks local_choice,local_perplexity,local_generation"
        f" --include_path {tasks} --device cpu --batch_size 1 --output_path {tmp_path}/out"
    )
    child = subprocess.run(
        [sys.executable, "-m", "flashnas.exporting.lm_eval", *words],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    assert results["local_choice"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert results["local_perplexity"]["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-5)
    assert results["local_generation"]["exact_match,none"] == 1.0
