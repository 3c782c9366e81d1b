"""What compilers, drivers and libraries raise on a CUDA machine is not a property of a candidate.
The texts are those of fla 0.6.0, Triton 3.6, torch 2.13, causal-conv1d 1.7.0 and TileLang
0.1.10."""

import errno
import subprocess

import pytest
import torch

from flashnas.base.errors import CandidateError, OperatorError
from flashnas.executors.attempt import attempt
from flashnas.training.memory import lacks_memory

OF_THE_MACHINE = [
    RuntimeError(
        "Triton >= 3.4.0 and < 3.7.1 on Hopper GPUs produces incorrect results for gated"
        " chunk_bwd_dqkwg (see"
        " #640). Please upgrade Triton to >= 3.7.1 or install tilelang: `pip install tilelang`"
    ),
    RuntimeError(
        "Failed to find C compiler. Please specify via CC environment variable or set"
        " triton.knobs.build.impl."
    ),
    subprocess.CalledProcessError(
        1, ["/usr/bin/gcc", "/tmp/tmpq/cuda_utils.c", "-O3", "-shared"]
    ),  # without Python.h
    KeyError("sm_121"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/mnt/corpus/tokens.bin"),
]
OutOfResources = type("OutOfResources", (Exception,), {"__module__": "triton.runtime.errors"})
OF_THE_CANDIDATE = [
    (CandidateError("diverged"), "failed"),
    (OperatorError("a head of 24"), "error"),
    (torch.OutOfMemoryError("CUDA out of memory."), "memory"),
    *(
        (RuntimeError(text), "memory")
        for text in (
            "cuBLAS: CUBLAS_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "CUDA error: out of memory",
            "Triton Error [CUDA]: out of memory",
        )
    ),
    (OutOfResources("shared memory, Required: 262144"), "error"),
]


class Job:
    def __init__(self, device, evaluator=None):
        self.recipe, self.evaluator = {"device": device}, evaluator


def kind(error, job):
    def fail(job):
        raise error

    return attempt(fail, job).kind


def test_on_cuda_an_error_of_any_class_but_those_of_a_candidate_is_the_machines():
    assert not [error for error in OF_THE_MACHINE if kind(error, Job("cuda")) != "broken"]


@pytest.mark.parametrize("evaluator", [None, len])
def test_a_file_system_that_is_late_is_the_environments_and_an_impatient_evaluator_is_not(
    evaluator,
):
    late = TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/mnt/corpus/tokens.bin")
    assert kind(late, Job("cpu", evaluator)) == "broken"
    assert kind(TimeoutError("no score within 60 s"), Job("cpu", evaluator)) == "error"


@pytest.mark.parametrize("words", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"])
def test_a_library_that_cannot_allocate_lacks_memory(words):
    assert lacks_memory(RuntimeError(f"cuDNN error: {words}"))


@pytest.mark.parametrize(("error", "expected"), OF_THE_CANDIDATE, ids=lambda value: str(value)[:20])
def test_on_cuda_what_a_network_causes_stays_its_own(error, expected):
    assert kind(error, Job("cuda")) == expected


def test_on_a_cpu_and_of_an_evaluator_a_runtime_error_stays_a_result():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert (kind(error, Job("cpu")), kind(error, Job("cuda", len))) == ("error", "error")
    for text in (
        "CUDA error: misaligned address",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ):
        assert (
            kind(RuntimeError(text), Job("cuda", len))
            == kind(RuntimeError(text), Job("cpu"))
            == "broken"
        )
