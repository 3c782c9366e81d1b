"""Lack of memory in a training: how errors say it, and the reason of a training that it ends."""

import contextlib
import gc
from collections.abc import Iterator

import torch

from flashnas.base.errors import CandidateMemoryError

# of bare RuntimeErrors: the allocator of a CPU, the drivers of GPUs, cuBLAS and cuDNN
MEMORY_WORDS = (
    "allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def lacks_memory(error: RuntimeError) -> bool:
    """True for torch's errors of lacking memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in MEMORY_WORDS
    )


def free_memory() -> None:
    """Give memory back that torch keeps on a GPU."""
    gc.collect()
    torch.cuda.empty_cache()


def equal_part(sequences: int, most: int) -> int:
    """The largest number of sequences, at most `most`, into which so many can be divided."""
    return max(part for part in range(1, most + 1) if sequences % part == 0)


@contextlib.contextmanager
def out_of_memory_is_a_reason() -> Iterator[None]:
    """A context that raises CandidateMemoryError for torch's errors of lacking memory."""
    try:
        yield
    except RuntimeError as error:
        if lacks_memory(error):
            raise CandidateMemoryError("out of memory while training") from None
        raise
