"""Weight normalization: which matrices, along which dimension, and that training keeps them there."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.data.dataset import Dataset
from flashnas.network.model import HybridLM
from flashnas.operators import OPERATORS
from flashnas.training.optimizer import Case, Optimizers, WeightNorm, initialise, to_unit_norm
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import train, train_network

RECIPE = Recipe(vocab=300, width_factor=1, sequence_tokens=32, batch_sequences=4, tokens=6 * 128, muon_lr=0.02,
                adamw_lr=0.02, dtype="float32", validation_tokens=256, curve_tokens=128, curve_points=2,
                weight_norm=True)
SMALL = Architecture.parse("64(vocab=300,meta=4): d(head_dim=16) f a(heads=4,kv_heads=2) f")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    tokens = (np.arange(4000) * 7 % 300).astype(np.uint16)
    return Dataset(folder=tmp_path_factory.mktemp("data"), source="test", vocab=300, train=tokens, validation=tokens,
                   validation_bytes=4000, notes=())


def matrices(network):
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, case in WeightNorm(network).matrices:
        yield names[parameter], parameter, case


@pytest.mark.parametrize("kind", OPERATORS)
def test_every_matrix_of_every_operator_has_its_case(kind):
    network = HybridLM(Architecture.parse(f"128(vocab=300,meta=4,tied=false): {kind}"))
    cases = {name.removeprefix("layers.0.mixer."): case for name, _, case in matrices(network)}
    assert cases["embedding.weight"] is cases["head.weight"] is cases["meta_tokens"] is Case.ROWS
    hidden = {name: case for name, case in cases.items() if "_proj" in name}
    assert {case for name, case in hidden.items() if "in_proj" in name} == {Case.ROWS}
    assert {case for name, case in hidden.items() if "out_proj" in name} == {Case.COLUMNS}
    for name, parameter, case in matrices(network):  # the side that faces the hidden state is the one summed over
        assert parameter.shape[case.value] == 128, name


def test_filters_decays_and_vectors_are_left_alone():
    network = HybridLM(Architecture.parse("64(vocab=300): m2(head_dim=16,state=16) gla(head_dim=16) f"))
    kept = {name for name, _, _ in matrices(network)}
    left = {name.split("mixer.")[-1] for name, _ in network.named_parameters() if name not in kept}
    assert {"conv.weight", "A_log", "norm.weight", "gate_proj.weight", "final_norm.weight"} <= left


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 9), st.sampled_from(Case), st.booleans())
def test_the_projection_sets_norms_and_keeps_directions(seed, rows, columns, case, stacked):
    torch.manual_seed(seed)
    matrix = torch.randn(*((2,) if stacked else ()), rows, columns, dtype=torch.float64) * 3
    before = matrix.clone()
    to_unit_norm(matrix, case)
    dim = 1 if case is Case.ROWS else 0
    norms = matrix.norm(dim=dim + stacked)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    torch.testing.assert_close(matrix * before.norm(dim=dim + stacked, keepdim=True), before)
    once = matrix.clone()
    to_unit_norm(matrix, case)
    torch.testing.assert_close(matrix, once)


def test_what_is_zero_stays_zero():
    matrix = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    to_unit_norm(matrix, Case.COLUMNS)
    torch.testing.assert_close(matrix, torch.tensor([[0.6, 0.0], [0.8, 0.0]]))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_keeps_every_matrix_at_unit_norm(dataset, optimizer):
    network, score = train_network(SMALL, dataset, dataclasses.replace(RECIPE, optimizer=optimizer), seed=0)
    seen = set()
    for name, parameter, case in matrices(network):
        norms = parameter.norm(dim=case.value)
        torch.testing.assert_close(norms, torch.ones_like(norms), msg=name)
        seen.add(case)
    assert seen == {Case.ROWS, Case.COLUMNS}
    assert score.loss < score.curve[0][1]


def test_the_start_is_projected_and_operators_still_start_as_the_identity():
    network = HybridLM(SMALL)
    initialise(network, RECIPE)
    Optimizers(network, RECIPE)
    assert network.embedding.weight.norm(dim=1).sub(1).abs().max() < 1e-5
    assert network.layers[0].mixer.out_proj.weight.abs().max() == 0


def test_it_repeats_to_the_bit_and_is_off_unless_asked_for(dataset):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = (train(SMALL, dataset, RECIPE, seed=1).loss for _ in range(2))
        off = train(SMALL, dataset, dataclasses.replace(RECIPE, weight_norm=False), seed=1).loss
    finally:
        torch.set_num_threads(threads)
    assert first == second != off
    assert Recipe().weight_norm is False
    network = HybridLM(SMALL)
    before = {name: p.clone() for name, p in network.named_parameters()}
    Optimizers(network, dataclasses.replace(RECIPE, weight_norm=False)).step(0)
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.floats(1e-3, 1e3))
def test_a_matrix_scaled_by_any_factor_is_the_same_after_the_projection(seed, factor):
    torch.manual_seed(seed)
    networks = [HybridLM(SMALL) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    with torch.no_grad():
        for _, parameter, _ in matrices(networks[1]):
            parameter.mul_(factor)
    for network in networks:
        WeightNorm(network).project()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_recipe_field_is_true_or_false():
    assert Recipe.from_dict(Recipe(weight_norm=True).to_dict()).weight_norm is True
    for wrong in (1, "yes", None):
        with pytest.raises(ConfigError, match=r"recipe\.weight_norm must be true or false; got"):
            Recipe(weight_norm=wrong)
    with pytest.raises(ConfigError, match=r"recipe\.tokens must be a whole number; got True"):
        Recipe(tokens=True)


def test_meta_tokens_reach_the_states_in_training_prefill_and_the_empty_cache():
    """The first token sees what meta tokens left in the state of a linear-attention layer, on all three ways in."""
    torch.manual_seed(0)
    network = HybridLM(Architecture.parse("32(vocab=50,meta=5): d(head_dim=16,conv_size=2) gla(head_dim=16)")).double()
    tokens = torch.randint(50, (2, 7))
    expected = network(tokens)
    first, _ = network.prefill(tokens[:, :1])
    stepped, _ = network.decode_step(tokens[:, 0], network.start_cache(2))
    torch.testing.assert_close(first, expected[:, 0])
    torch.testing.assert_close(stepped, expected[:, 0])
    for state in network.start_cache(2).states:
        assert state.matrix_BHKV.abs().max() > 1e-4
    assert isinstance(network.meta_tokens, nn.Parameter)
    with torch.no_grad():
        network.meta_tokens.mul_(-1)
    assert (network(tokens) - expected).abs().amax((0, 2)).min() > 1e-6  # every position
