"""What the tests of training share: torch's number of threads stays as it was; a text."""

import numpy as np
import pytest
import torch

from flashnas.data.dataset import Dataset


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def structured():
    """A token is followed by one of two others: unigram entropy ln 64, conditional entropy ln 2."""
    tokens = [0]
    for bit in np.random.default_rng(0).integers(2, size=20_000):
        tokens.append((5 * tokens[-1] + 1 + 17 * int(bit)) % 64)
    train, validation = np.split(np.array(tokens, np.uint16), [len(tokens) * 9 // 10])
    return Dataset(
        folder=None,
        source="made up",
        vocab=300,
        train=train,
        validation=validation,
        validation_bytes=2 * len(validation),
        notes=(),
    )
