import pytest

pytest.importorskip("transformers")

from pretrained import small_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A folder of transformers with a random Llama of six layers and a tokenizer."""
    return small_llama(tmp_path_factory.mktemp("pretrained") / "llama")
