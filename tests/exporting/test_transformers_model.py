"""The exported model in transformers: the same numbers, with and without its cache."""

import pytest
import torch

pytest.importorskip("transformers")

from layer_cases import LAYERED
from networks import MIXED, make_network, make_source, make_tokens
from transformers import AutoModelForCausalLM

from flashnas.base.errors import OperatorError
from flashnas.exporting.exporter import export_network
from flashnas.exporting.transformers import FlashnasCache, FlashnasConfig

FREE = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "model"
    export_network(make_source(MIXED), "hf", out)
    return AutoModelForCausalLM.from_pretrained(out).eval()


def test_every_operator_computes_and_generates_the_same(tmp_path):
    notation = f"128(vocab=97,meta=2,tied=false): {' '.join(LAYERED)}"
    network = make_network(notation)
    export_network(make_source(notation), "hf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    names = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    assert set(model.state_dict()) == set(names)
    assert all(torch.equal(tensor, names[name]) for name, tensor in model.state_dict().items())
    tokens = make_tokens(network, 2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, network(tokens))
    expected = network.generate(tokens, 5)
    assert torch.equal(model.generate(tokens, max_new_tokens=5, **FREE)[:, 9:], expected)


def test_a_cache_goes_on_in_a_second_call(model):
    tokens, cache = make_tokens(model.model, 1, 12), FlashnasCache()
    first = model.generate(tokens[:, :5], cache=cache, max_new_tokens=3, **FREE)
    assert cache.get_seq_length() == 7  # the last token is not read yet
    longer = torch.cat([first, tokens[:, 5:]], 1)
    assert torch.equal(
        model.generate(longer, cache=cache, max_new_tokens=4, **FREE),
        model.generate(longer, max_new_tokens=4, **FREE),
    )


def test_what_a_state_cannot_do_is_refused_in_one_line(model):
    tokens = make_tokens(model.model, 2, 6)
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="a flashnas model takes no padding"):
            call(tokens, attention_mask=mask)
    cache = model(tokens, use_cache=True).cache
    with pytest.raises(ValueError, match="input_ids must have the 2 rows of the cache; got 1"):
        model(tokens[:1], cache=cache)
    with pytest.raises(ValueError, match="several sequences in one row"):
        model(
            tokens,
            attention_mask=torch.ones_like(tokens),
            position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]),
        )
    with pytest.raises(ValueError, match="cache_implementation must be left out; got 'static'"):
        model.generate(tokens, max_new_tokens=2, cache_implementation="static", **FREE)
    with pytest.raises(ValueError, match="search by beams with use_cache=False"):
        model.generate(tokens, max_new_tokens=2, num_beams=3, **FREE)
    assert model.generate(tokens, max_new_tokens=2, num_beams=3, use_cache=False, **FREE).shape == (
        2,
        8,
    )
    # the second from transformers 5.25 on
    refused = "assisted generation is not supported|requires a cache that can be cropped"
    with pytest.raises(ValueError, match=refused):
        model.generate(tokens[:1], max_new_tokens=2, prompt_lookup_num_tokens=2, **FREE)
    with pytest.raises(OperatorError, match="nonesuch"):
        FlashnasConfig(operators=["nonesuch"])
