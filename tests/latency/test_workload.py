from cases import cases
from offenders import every
from one_line import one_line

from flashnas.base.errors import ConfigError, WorkloadError
from flashnas.latency.workload import WORKLOADS, Workload, load_workload


def test_named_workloads_are_those_of_the_design():
    shapes = {name: [w.batch, w.prompt_tokens, w.generated_tokens] for name, w in WORKLOADS.items()}
    assert shapes == cases("latency", "workloads")
    assert load_workload("chat") is WORKLOADS["chat"]
    assert load_workload(WORKLOADS["chat"]) is WORKLOADS["chat"]


def test_text_form():
    workload = load_workload("batch=2, prompt=16,generated=4,dtype=float32")
    assert (workload.batch, workload.prompt_tokens, workload.generated_tokens) == (2, 16, 4)
    assert (workload.dtype, workload.context) == ("float32", 20)
    assert load_workload("batch=max,prompt=1").batch == "max"
    named = load_workload("decode-8k,dtype=fp8,batch=2")
    assert (named.name, named.generated_tokens) == ("decode-8k,dtype=fp8,batch=2", 8192)
    assert (named.dtype, named.batch) == ("fp8", 2)


def test_yaml_form(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch: 3\nprompt_tokens: 7\ngenerated_tokens: 5\n")
    assert load_workload(str(path)) == Workload(
        name="mine", batch=3, prompt_tokens=7, generated_tokens=5
    )


@every(case=cases("latency", "wrong_workloads"))
def test_errors_name_the_field_and_the_value(case):
    text, words = case
    message = one_line(WorkloadError, load_workload, text)
    assert all(word in message for word in words), message


def test_an_error_in_a_file_names_the_line(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("batch: 1\nprompts: 2\n")
    message = one_line(ConfigError, load_workload, str(path))
    assert "w.yaml:2" in message
    assert "did you mean 'prompt_tokens'" in message
