"""Weight normalization: which matrices, along which dimension, and that training keeps them
there.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offenders import every

from flashnas.architecture import Architecture
from flashnas.data.dataset import Dataset
from flashnas.network.model import HybridLM
from flashnas.operators import OPERATORS
from flashnas.training.optimizer import Case, Optimizers, WeightNorm, initialise, to_unit_norm
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import train, train_network

RECIPE = Recipe(
    vocab=300,
    width_factor=1,
    sequence_tokens=32,
    batch_sequences=4,
    tokens=6 * 128,
    muon_lr=0.02,
    adamw_lr=0.02,
    dtype="float32",
    validation_tokens=256,
    curve_tokens=128,
    curve_points=2,
    weight_norm=True,
)
SMALL = Architecture.parse("64(vocab=300,meta=4): d(head_dim=16) f a(heads=4,kv_heads=2) f")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    tokens = (np.arange(4000) * 7 % 300).astype(np.uint16)
    return Dataset(
        folder=tmp_path_factory.mktemp("data"),
        source="test",
        vocab=300,
        train=tokens,
        validation=tokens,
        validation_bytes=4000,
        notes=(),
    )


def matrices(network):
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, case in WeightNorm(network).matrices:
        yield names[parameter], parameter, case


@every(kind=OPERATORS)
def test_every_matrix_of_every_operator_has_its_case(kind):
    network = HybridLM(Architecture.parse(f"128(vocab=300,meta=4,tied=false): {kind}"))
    cases = {name.removeprefix("layers.0.mixer."): case for name, _, case in matrices(network)}
    assert cases["embedding.weight"] is cases["head.weight"] is cases["meta_tokens"] is Case.ROWS
    hidden = {name: case for name, case in cases.items() if "_proj" in name}
    assert {case for name, case in hidden.items() if "in_proj" in name} == {Case.ROWS}
    assert {case for name, case in hidden.items() if "out_proj" in name} == {Case.COLUMNS}
    for name, parameter, case in matrices(
        network
    ):  # the side that faces the hidden state is the one summed over
        assert parameter.shape[case.value] == 128, name


def test_filters_decays_and_vectors_are_left_alone():
    network = HybridLM(
        Architecture.parse("64(vocab=300): m2(head_dim=16,state=16) gla(head_dim=16) f")
    )
    kept = {name for name, _, _ in matrices(network)}
    left = {name.split("mixer.")[-1] for name, _ in network.named_parameters() if name not in kept}
    assert {"conv.weight", "A_log", "norm.weight", "gate_proj.weight", "final_norm.weight"} <= left


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1000), st.integers(1, 9), st.integers(1, 9), st.sampled_from(Case), st.booleans()
)
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
    scaled = 37.0 * once
    to_unit_norm(scaled, case)
    torch.testing.assert_close(scaled, once)
    nothing = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    to_unit_norm(nothing, Case.COLUMNS)
    torch.testing.assert_close(nothing, torch.tensor([[0.6, 0.0], [0.8, 0.0]]))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_keeps_every_matrix_at_unit_norm(dataset, optimizer):
    network, score = train_network(
        SMALL, dataset, dataclasses.replace(RECIPE, optimizer=optimizer), seed=0
    )
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
