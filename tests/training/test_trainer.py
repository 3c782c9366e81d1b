import dataclasses
import math
from unittest import mock

import fake_libraries
import pytest
import torch
from cases import cases

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import (
    CandidateError,
    ConfigError,
    CorpusError,
    DeviceError,
)
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.job import Job, run_job
from flashnas.network.model import HybridLM
from flashnas.training import trainer as trainer_module
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer, check_kernels, train

RECIPE = Recipe(
    vocab=300,
    width_factor=16,
    sequence_tokens=32,
    batch_sequences=8,
    tokens=40 * 256,
    muon_lr=0.005,
    adamw_lr=0.02,
    dtype="float32",
    validation_tokens=1024,
    curve_tokens=512,
    curve_points=4,
)
TINY = Architecture.parse("512(meta=32): d f a f")
ALL = Architecture.parse("512: a f swa f m2 f gla f d f gd f")


@pytest.fixture(scope="module")
def score(structured):
    torch.set_num_threads(1)
    return train(RECIPE.proxy_of(TINY, 300), structured, RECIPE, seed=1)


def test_it_learns_structure_that_unigrams_do_not_have(score, structured):
    assert score.loss < math.log(64) - 0.5
    assert score.loss > math.log(2)
    assert [tokens for tokens, _ in score.curve] == [2560, 5120, 7680, 10240]
    assert score.curve[-1] == (score.tokens, score.loss)
    assert score.curve[0][1] > score.loss
    assert score.proxy_params == sum(
        p.numel() for p in HybridLM(RECIPE.proxy_of(TINY, 300)).parameters()
    )
    assert score.bits_per_byte == structured.bits_per_byte(score.loss)
    assert min(score.tokens_per_s, score.seconds) > 0


def test_same_seed_same_loss_to_the_bit_and_another_seed_differs(structured):
    recipe = dataclasses.replace(RECIPE, tokens=4 * 256)
    one, again, other = (
        train(recipe.proxy_of(TINY, 300), structured, recipe, seed=seed).curve for seed in (1, 1, 2)
    )
    assert one == again != other


def test_every_operator_learns_in_bfloat16(structured):
    recipe = dataclasses.replace(RECIPE, dtype="bfloat16", tokens=8 * 256)
    assert train(recipe.proxy_of(ALL, 300), structured, recipe, seed=0).loss < math.log(300)


def test_lack_of_memory_makes_micro_batches_smaller_which_changes_rounding_only(
    structured, monkeypatch
):
    """Also in the middle of a step, of which some gradients are there."""
    recipe = dataclasses.replace(RECIPE, tokens=4 * 384, batch_sequences=12, optimizer="adamw")
    network, right, calls = recipe.proxy_of(TINY, 300), HybridLM.loss, []

    def loss(self, tokens_BT, targets_BT):
        if self.training:
            calls.append(len(tokens_BT))
            if len(calls) in (1, 5):
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return right(self, tokens_BT, targets_BT)

    whole = [step.loss for step in Trainer(network, structured, recipe, 0).steps()]
    monkeypatch.setattr(HybridLM, "loss", loss)
    trainer = Trainer(network, structured, recipe, 0)
    assert [step.loss for step in trainer.steps()] == pytest.approx(whole, rel=1e-5)
    assert calls == [12, 6, 6, 6, 6, *[3] * 12], "two steps of four begin anew"


@pytest.mark.parametrize(("changes", "words"), cases("training", "high_rates"))
def test_rates_that_are_too_high_are_failed_candidates(structured, changes, words):
    recipe = dataclasses.replace(RECIPE, **changes)
    with pytest.raises(CandidateError, match=words):
        train(recipe.proxy_of(TINY, 300), structured, recipe, seed=0)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nmore"),
            CandidateError,
            "^out of memory while",
        ),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes do not match"),
    ],
)
def test_lack_of_memory_is_a_failed_candidate_and_our_own_bugs_are_not(
    structured, monkeypatch, error, kind, words
):
    monkeypatch.setattr(HybridLM, "loss", mock.Mock(side_effect=error))
    recipe = dataclasses.replace(RECIPE, micro_batch_sequences=1)
    with pytest.raises(kind, match=words):
        train(recipe.proxy_of(TINY, 300), structured, recipe, seed=0)


def test_the_time_that_is_left_counts_steps_and_validations(structured, monkeypatch):
    """A validation token takes a third of the time of a training token."""
    recipe = dataclasses.replace(
        RECIPE, tokens=8 * 256, curve_points=4, curve_tokens=64, validation_tokens=192
    )
    now, total_s = [0.0], 8 * 256 + (3 * 64 + 192) / 3
    trainer = Trainer(recipe.proxy_of(TINY, 300), structured, recipe, seed=0)

    def spend(seconds, result):
        now[0] += seconds
        return result

    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(trainer, "_update", lambda batch: spend(256.0, (1.0, 1.0)))
    monkeypatch.setattr(trainer, "validate", lambda tokens: spend(tokens / 3, 1.0))
    (_, first), *later = [(now[0], step.remaining_s) for step in trainer.steps()]
    assert first is None  # it also warms up
    assert [sum(both) for both in later] == pytest.approx([total_s] * 7)


def test_a_vocabulary_below_the_tokenizers_is_the_users_error(structured):
    with pytest.raises(ConfigError, match="vocab must be at least the tokenizer's 300; got 299"):
        train(RECIPE.proxy_of(TINY, 299), structured, RECIPE, seed=0)


def test_the_score_is_the_loss_of_the_trained_network(structured):
    recipe = dataclasses.replace(RECIPE, tokens=256)
    trainer = Trainer(recipe.proxy_of(TINY, 300), structured, recipe, seed=0)
    list(trainer.steps())
    rows = torch.from_numpy(structured.validation_slice(recipe, recipe.validation_tokens))
    with torch.no_grad():
        loss = trainer.network.loss(rows[:, :-1], rows[:, 1:]).item()
    assert loss == pytest.approx(trainer.score().loss, abs=1e-4)


# -- optimizer groups ------------------------------------------------------------------------------


def test_every_operator_starts_as_the_identity_and_filters_pass_the_token_through():
    network = HybridLM(RECIPE.proxy_of(ALL))
    initialise(
        network, dataclasses.replace(RECIPE, embedding_std=0.5, output_scale=0.0, conv_noise=0.0)
    )
    assert network.embedding.weight.std().item() == pytest.approx(0.5, rel=0.05)
    x = torch.randn(2, 9, network.architecture.hidden)
    assert all(torch.equal(layer(x)[0], x) for layer in network.layers)
    weights = [value for name, value in network.named_parameters() if name.endswith("conv.weight")]
    assert len(weights) == 3
    for weight in weights:
        assert torch.equal(weight, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand_as(weight))


def test_the_models_own_start_is_kept_on_request():
    network = HybridLM(RECIPE.proxy_of(ALL))
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    initialise(network, dataclasses.replace(RECIPE, output_scale=1.0, conv_noise=1.0))
    parameters = network.named_parameters()
    changed = {name for name, value in parameters if not torch.equal(value, before[name])}
    assert changed == {"embedding.weight"}


def test_muons_rate_falls_with_the_root_of_the_depth():
    rates = {}
    for operators in (1, 4, 16):
        network = HybridLM(Architecture.parse(f"32(vocab=300): {operators}x(f)"))
        muon, adamw = Optimizers(network, dataclasses.replace(RECIPE, lr_depth=4)).optimizers
        rates[operators] = {group["peak_lr"] for group in muon.param_groups}
        assert {group["peak_lr"] for group in adamw.param_groups} == {RECIPE.adamw_lr}
    assert rates == {1: {2 * RECIPE.muon_lr}, 4: {RECIPE.muon_lr}, 16: {RECIPE.muon_lr / 2}}
    muon, _ = Optimizers(network, RECIPE).optimizers
    assert {group["peak_lr"] for group in muon.param_groups} == {RECIPE.muon_lr}


def test_multipliers_scale_the_rate_of_their_family_alone():
    """A convolution follows its operator unless it is named."""
    recipe = dataclasses.replace(
        RECIPE, lr_multipliers={"gd": 2.0, "d": 3.0, "d.conv": 0.1, "embedding": 0.5}
    )
    optimizers = Optimizers(HybridLM(recipe.proxy_of(ALL)), recipe)
    optimizers.step(7)
    for optimizer, peak in zip(optimizers.optimizers, (0.005, 0.02), strict=True):
        for group in optimizer.param_groups:
            factor = {"gd.conv": 2.0, **recipe.lr_multipliers}.get(group["family"], 1.0)
            assert group["lr"] == pytest.approx(peak * factor * recipe.lr_factor(7))


# -- worker ----------------------------------------------------------------------------------------


def test_a_worker_gives_what_the_trainer_gives(tmp_path):
    (tmp_path / "a.txt").write_text("the house of house the senate of senate " * 800)
    recipe = dataclasses.replace(RECIPE, tokens=512, short_text=True)
    data = prepare_dataset(str(tmp_path / "a.txt"), recipe, cache=tmp_path / "cache")
    expected = train(recipe.proxy_of(TINY, data.vocab), data, recipe, seed=3)
    job = Job(architecture=TINY, dataset=str(data.folder), recipe=recipe.to_dict(), seed=3)
    score = run_job(job)
    assert score["curve"] == [list(point) for point in expected.curve]
    assert (score["tokens"], score["seed"]) == (512, 3)
    with pytest.raises(CorpusError, match="not a prepared dataset"):
        run_job(dataclasses.replace(job, dataset=str(tmp_path)))


def test_mamba_is_not_trained_token_by_token_on_a_gpu(monkeypatch):
    recipe, specs = Recipe.load("gpu"), parse_operators("d m f")
    with pytest.raises(
        DeviceError,
        match=r"recipe 'gpu': operator mamba would be trained token by token by torch"
        r" \(mamba-ssm: .*\); install mamba-ssm built with MAMBA_KEEP_CUDA_BUILD=TRUE, leave",
    ):
        check_kernels(specs, 1024, recipe)
    fake_libraries.install(monkeypatch, "nothing")
    notes = check_kernels(parse_operators("a d f m2 d"), 1024, recipe)
    assert [" ".join(note.split()[2:12]) for note in notes] == [
        f"operator {name} will be trained by torch in float32, several"
        for name in ("delta_net", "mamba2")
    ]
    assert "mamba-ssm is not installed" in notes[1]
    check_kernels(specs, 1024, dataclasses.replace(recipe, backend="torch"))
    check_kernels(specs, 1024, dataclasses.replace(recipe, device="cpu"))
    fake_libraries.install(monkeypatch)
    assert not check_kernels([*specs, *parse_operators("a m2 gd")], 1024, recipe)
