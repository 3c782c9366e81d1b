"""`flashnas convert`: from a pretrained model to an answer, on small models with random weights."""

import copy
import itertools
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import cases
from one_line import one_line
from pretrained import SMALL_CONVERSION

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.cli.main import main
from flashnas.conversion import load, loop
from flashnas.conversion.choices import possible
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.load import FRESH, SCORED, Conversion
from flashnas.conversion.measure import Student
from flashnas.conversion.times import load_times
from flashnas.data.scored_text import ContextReader
from flashnas.exporting.source import load_source
from flashnas.families.load_pretrained import Pretrained, load_pretrained
from flashnas.training.teacher_text import TeacherText


@pytest.fixture(scope="session")
def asked(llama, texts):
    """The keywords of a conversion but for its folder."""
    own = {"model": str(llama), "data": str(texts), "budget_ms": "85%,70%"}
    return {**own, **SMALL_CONVERSION}


@pytest.fixture(scope="session")
def converted(asked, tmp_path_factory):
    """The folder of a conversion, and its figures."""
    out = tmp_path_factory.mktemp("converted") / "run"
    return out, fn.convert(**asked, out=out)


@pytest.fixture
def student(llama, texts):
    """In float32, with its teacher's folder read anew."""
    model = load_pretrained(llama)
    (draw,) = ContextReader(str(texts), model.tokenizer, 256, 0).draws(3, 2, 1)
    return Student(model.network, draw, "float32")


def test_documents_of_draws_differ_and_values_stand_where_probes_say(llama, texts):
    tokenizer = load_pretrained(llama).tokenizer
    one, other = ContextReader(str(texts), tokenizer, 512, 1).draws(3, 2, 2)
    assert one.documents.shape == (3, 512)
    assert one.prompts.shape == (2, 512)
    rows = {tuple(row) for draw in (one, other) for row in draw.documents}
    assert len(rows) == 6
    equals = tokenizer.encode(" =", add_special_tokens=False).ids
    distances = set()
    for probe in one.probes:
        row, first = one.prompts[probe.prompt].tolist(), probe.positions[0]
        asked = [*equals, *(row[position] for position in probe.positions)]
        start = first - len(equals)
        stated = [at for at in range(start) if row[at : at + len(asked)] == asked]
        distances.add(start - stated[0])
    assert max(distances) > 4 * min(distances)


@pytest.mark.parametrize("names", [("none",), ("window 64",), ("width 64",), ("none", "width 64")])
def test_the_kl_is_that_of_the_network_that_is_written(student, names):
    choices = possible(student.teacher.architecture, [64], [0.5])
    layout = tuple(
        next(choice for choice in choices if choice.name == name and choice.layer >= 3 * at)
        for at, name in enumerate(names)
    )
    measured = student.measure(layout)
    network = student.network(layout)
    tokens_NT = torch.from_numpy(student.draw.documents).long()
    with torch.no_grad():
        p, q = (
            model(tokens_NT)[:, student.positions_S].double().log_softmax(-1)
            for model in (student.teacher, network)
        )
    expected = (p.exp() * (p - q)).sum(-1).mean(1)
    np.testing.assert_allclose(measured.kl, expected, rtol=1e-3, atol=1e-6)
    targets = tokens_NT[:, student.positions_S + 1]
    loss = -q.gather(2, targets[..., None]).mean((1, 2))
    np.testing.assert_allclose(measured.loss, loss, rtol=1e-4)


def test_a_small_kl_is_not_lost_to_rounded_logits(student):
    """Of a network that differs from its teacher in the final norm alone."""
    text = TeacherText(student.teacher, student.draw, "bfloat16")
    other = copy.deepcopy(student.teacher)
    with torch.no_grad():
        other.final_norm.weight.mul_(1 + 0.002 * torch.randn_like(other.final_norm.weight))
    streams = text.embedded(other)
    for block in text.blocks:
        streams = text.through(block, streams)
    x_NSD = torch.cat(streams[: len(text.log_p)])[:, text.positions_S].double()
    with torch.no_grad():
        p, q = (
            (network.double().final_norm(x_NSD) @ network.head_weight.T).log_softmax(-1)
            for network in (copy.deepcopy(student.teacher), copy.deepcopy(other))
        )
    expected = (p.exp() * (p - q)).sum(-1).mean(1)
    assert 1e-6 < expected.max() < 1e-4
    np.testing.assert_allclose(text.score(other).kl, expected, rtol=0.02, atol=2e-7)


def test_a_narrower_network_keeps_the_columns_that_matter(llama, student):
    """Where a third of the columns writes nothing, two thirds compute the same."""
    layer = student.teacher.blocks[1].mixer
    with torch.no_grad():
        layer.out_proj.weight[:, ::3] = 0
    fresh = Student(student.teacher, student.draw, "float32")
    (choice,) = (
        choice
        for choice in possible(fresh.teacher.architecture, [], [2 / 3])
        if (choice.layer, choice.name) == (1, "width 64")
    )
    assert max(fresh.measure((choice,)).kl) < 1e-6


def test_fresh_text_measures_the_columns_that_are_written(asked, tmp_path):
    """Columns by the importance on fresh text would be another network, chosen by that text."""
    config = ConvertConfig(**asked, widths=(0.5,), out=tmp_path)
    conversion = Conversion(config, lambda line: None, print)
    choices = possible(conversion.teacher.architecture, [], [0.5])
    layout = tuple(choice for choice in choices if choice.name == "width 64")
    scored, fresh = (conversion.student(draw).network(layout) for draw in (SCORED, FRESH))
    for name, tensor in scored.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_an_answer_keeps_its_budget_and_names_its_layers(converted):
    _, found = converted
    assert [answer.latency_ms < answer.budget_ms for answer in found.answers] == [True] * 2
    for answer in found.answers:
        named = {entry.layer for entry in answer.layers if entry.chosen != "kept"}
        assert len(named) == answer.layout.count(":")
    estimate = fn.estimate(found.notation, calibration="paper")
    assert (found.model_ms, found.memory_gb) == (estimate.latency_ms, estimate.memory_gb)
    text = str(found)
    assert "undecided: " in text
    next_line = text.splitlines()[-2]
    assert f"flashnas train {found.answers[0].weights} --distill {found.model}" in next_line
    # the model does no probe, so that nothing is said of what is recalled
    assert found.finalists[0].recall is None
    assert "100 %" not in text


def test_two_budgets_with_one_layout_have_an_answer_each(converted, asked, tmp_path, monkeypatch):
    """By a clock on which the model's own pass and a measurement take a second."""
    measured, own = [], Student.measure
    start = itertools.chain([0.0], itertools.repeat(1.0))
    clock = SimpleNamespace(monotonic=lambda: next(start) + len(measured))
    monkeypatch.setattr(load, "time", clock)
    monkeypatch.setattr(
        Student, "measure", lambda self, layout: measured.append(layout) or own(self, layout)
    )
    shutil.copytree(converted[0], tmp_path / "run")
    call, said = {**asked, "budget_ms": "85%,84.9%", "out": tmp_path / "run"}, []
    found = fn.convert(**call, progress=lambda *calls: said.append(calls))
    one, other = found.answers
    assert all(left_s >= 0 for _, _, left_s in said)
    assert said[-1][2] < said[0][2]
    assert all(left_s == 0 for done, planned, left_s in said if done == planned)
    # what the folder has is no measure of the pace: a pass takes a second as before
    assert 0 < said[0][2] - said[1][2] <= 1
    assert one.layout == other.layout
    assert one.budget_ms != other.budget_ms


def test_the_folder_is_a_run_and_its_weights_are_those_of_the_layout(converted, llama, tmp_path):
    out, found = converted
    run = fn.load_run(out)
    assert run.front[0].latency_ms == pytest.approx(found.finalists[0].latency_ms)
    losses = run.trials.set_index("label")["loss"]
    for entry in found.finalists:
        assert losses[entry.layout] == pytest.approx(entry.loss)
    answer = found.answers[1]  # of the tightest budget, and so the fastest finalist
    source = load_source(answer.weights)
    assert source.architecture.notation == found.finalists[0].notation
    assert source.tokenizer.to_str() == load_pretrained(llama).tokenizer.to_str()


def test_texts_are_what_the_weights_continue(converted, asked):
    out, found = converted
    student = Conversion(ConvertConfig(**asked, out=out), str, print).student(FRESH)
    answer = Path(found.answers[1].weights)
    source = load_source(answer)
    for name, network in (("model", student.teacher), (answer.name, source.network)):
        given_BT = torch.from_numpy(student.draw.documents[:3, :48])
        texts = source.tokenizer.decode_batch(network.generate(given_BT, 48).tolist())
        assert [text[name] for text in found.texts] == texts


def test_the_folder_records_the_command_that_made_it(converted, asked, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(converted[0], out)
    options = {**asked, "out": out}
    words = ["convert", options.pop("model")]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr(sys, "argv", ["flashnas", *words])
    assert main(words) == 0
    command = fn.load_run(out).entry("command")
    assert command.startswith(f"flashnas convert {asked['model']} --")


def test_a_killed_conversion_goes_on_where_it_was(converted, asked, tmp_path, monkeypatch):
    out, found = converted
    shutil.copytree(out, tmp_path / "run")
    file = tmp_path / "run" / "measurements.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:26]) + lines[26][:30])
    counted = []
    own = Student.measure
    monkeypatch.setattr(
        Student, "measure", lambda self, layout: counted.append(layout) or own(self, layout)
    )
    again = fn.convert(**asked, out=tmp_path / "run")
    assert len(counted) == len(lines) - 26
    assert file.read_text() == "".join(lines)
    assert again.finalists == found.finalists


def test_a_full_disk_is_one_line_and_with_room_the_conversion_goes_on(converted, asked, disk):
    _, found = converted
    call = {**asked, "out": disk.folder / "run"}
    disk.leave(8)
    line = one_line(FlashnasError, fn.convert, **call)
    assert "cannot be written: No space left on device" in line
    kept = (disk.folder / "run" / "measurements.jsonl").read_text().count("\n")
    disk.free()
    assert kept > 2
    assert fn.convert(**call).finalists == found.finalists


def of_another_question(converted, tmp_path):
    shutil.copytree(converted[0], tmp_path / "run")
    return {"seed": 1}


def something_else(converted, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("format: 1\n")
    return {}


def without_a_tokenizer(converted, tmp_path):
    (tmp_path / "model" / "tokenizer.json").unlink()
    return {}


def short_text(converted, tmp_path):
    (tmp_path / "text.txt").write_text("a short text\n" * 100)
    return {"data": str(tmp_path / "text.txt")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *cases("conversion", "bad_input"),
        (something_else, "run: exists and holds no measurements.jsonl; choose another folder"),
        (of_another_question, "holds measurements of another question: seed was 0, and is 1"),
        (without_a_tokenizer, "has no tokenizer; name one with --tokenizer"),
        (short_text, "12 are needed (2 draws of 4 documents and 2 prompts)"),
    ],
)
def test_bad_input_is_one_line(options, words, converted, asked, tmp_path, monkeypatch):
    """Before the weights are read, where nothing that is asked depends on them."""
    shutil.copytree(asked["model"], tmp_path / "model")
    if callable(options):
        options = options(converted, tmp_path)
    if not {"recall", "seed"} & options.keys():
        unread = property(lambda model: pytest.fail("the weights were read"))
        monkeypatch.setattr(Pretrained, "network", unread)
    call = {**asked, "model": str(tmp_path / "model"), "out": tmp_path / "run", **options}
    assert words in one_line(FlashnasError, fn.convert, **call)


def test_a_long_plan_names_quick(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LONG_S", 0)
    monkeypatch.setattr(Conversion, "measure_all", lambda *arguments: 1 / 0)
    call, notes = {**asked, "documents": 12, "context": 1024, "out": tmp_path}, []
    with pytest.raises(ZeroDivisionError):
        fn.convert(**call, note=notes.append)
    assert "  with --quick about" in notes[-1]


def test_quick_measures_less_and_what_is_given_beside_it_stays():
    quick = ConvertConfig(model="m", out="run", quick=True, documents=12)
    sizes = (quick.context, quick.documents, quick.prompts, quick.sets, quick.finalists)
    assert (*sizes, quick.windows) == (512, 12, 4, 8, 6, (128,))


def test_programs_are_offered_what_they_load(tmp_path):
    """Attention in the first layer, and widths in steps of 256."""
    llama = fn.Architecture.parse("512(vocab=1000): 3x(a(head_dim=64) f(intermediate=1792))")
    asked = {"model": "m", "calibration": "paper", "out": tmp_path}
    choices = load_times(ConvertConfig(**asked, runtime="sglang,tensorrt-llm,mlx"), llama).choices
    assert {choice.layer for choice in choices if choice.spec is None} == {1, 2, 3, 4, 5}
    assert {choice.spec.intermediate for choice in choices if choice.spec} == {1024}


def test_output_gates_are_of_gguf_files_alone(tmp_path):
    """Gated DeltaNet beside attention with norms of queries and keys needs them."""
    qwen3 = fn.Architecture.parse("512(vocab=1000): 3x(a(head_dim=64,qk_norm=true) f)")
    asked = {"model": "m", "calibration": "paper", "out": tmp_path}
    asked |= {"keep": ("f",), "replacements": ("gd",)}
    choices = load_times(ConvertConfig(**asked, runtime="llama.cpp"), qwen3).choices
    assert {choice.name for choice in choices} == {"gd"}
    assert "no change of the model loads in vllm" in one_line(
        FlashnasError, load_times, ConvertConfig(**asked, runtime="vllm"), qwen3
    )


def test_before_anything_is_measured_the_question_may_be_another(asked, tmp_path):
    for seed in (0, 1):
        call = {**asked, "recall": 0.9, "out": tmp_path, "seed": seed}
        assert "does none of the" in one_line(FlashnasError, fn.convert, **call)


def test_a_table_of_llama_cpp_prices_the_changes_that_it_loads(
    converted, asked, tmp_path, monkeypatch
):
    """The table lacks the operators of the model at first; the folder has those that it needs."""
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr("flashnas.profiling.target.Target.rounds", 1)
    own = {"table": str(tmp_path / "table"), "workload": "batch=1,prompt=32,generated=16"}
    timed = {"runtime": "llama.cpp", "workload": [own["workload"]], "out": own["table"]}
    sizes = "template: layerwise\nwidths: [128]\nmodel: {vocab: 300}\n"
    layers = "layers: {depth: [1, 4], choices: ['a(head_dim=32)', f, 'f(intermediate=64)']}\n"
    (tmp_path / "other.yaml").write_text(sizes + layers)
    fn.profile(space=str(tmp_path / "other.yaml"), **timed)
    shutil.copytree(converted[0], tmp_path / "run")
    call = {**asked, **own, "budget_ms": "80%", "out": tmp_path / "run"}
    line = one_line(FlashnasError, fn.convert, **call)
    space = tmp_path / "run" / "space.yaml"
    assert f"flashnas profile --runtime llama.cpp --space {space} --workload" in line
    fn.profile(space=str(space), **timed)
    found = fn.convert(**call)
    kinds = {entry.kind for entry in found.singles}
    assert "a to none" in kinds
    assert "a to window 64" not in kinds  # a part of its layers with a window is none of its models
    (answer,) = found.answers
    assert answer.latency_ms <= 0.8 * found.model_ms
    assert "scored on contexts" not in str(found)  # of 256 tokens, and a request has 48
    exported = fn.export(answer.weights, to="gguf", type="f32", out=tmp_path / "gguf")
    assert max(exported.parity.values()) < 1e-4


def test_an_answer_that_loses_too_much_is_refused_and_a_budget_that_pays_is_named(
    converted, asked, tmp_path
):
    shutil.copytree(converted[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "models")
    tight, *_, wide = sorted(converted[1].finalists, key=lambda entry: entry.share)
    assert wide.kl < tight.kl
    call = {**asked, "out": tmp_path / "run"}
    found = fn.convert(**call, max_kl=(wide.kl + tight.kl) / 2)
    one, other = found.answers
    assert (one.refused, other.weights) == ("", None)
    assert f"a KL of {tight.kl:.3f} is above --max-kl" in other.refused
    assert f"that pays is {100 * wide.share:.1f}"[:-1] in str(found)
    assert len(list((tmp_path / "run" / "models").iterdir())) == 1
    assert "is made no faster here" in str(fn.convert(**call, max_kl=0))
    config = ConvertConfig(**{**asked, "recall": 0.9}, out=tmp_path)
    assert "49% of the recall is below --min-recall 0.5" in config.refusal(0.1, 0.49)
    assert config.refusal(0.1, None) == ""
