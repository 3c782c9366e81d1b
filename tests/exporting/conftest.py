import pytest
from networks import MIXED, make_network, write_tokenizer_json

from flashnas.network.weights import save_model


@pytest.fixture
def trained(tmp_path):
    """Trained weights, as the folder of a finished training holds them."""
    text = write_tokenizer_json(tmp_path / "tokenizer.json").read_text()
    return save_model(tmp_path / "final", make_network(MIXED), tokenizer_json=text)
