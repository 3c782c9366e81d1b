"""What a training of another size and length says of the full one: a toy hardly anything of its mix,
and a repeated toy no more.
"""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.loss.composition import RANGE, SIZES
from flashnas.loss.load import loss_model, rows_of, shipped_rows
from flashnas.loss.model import NEW, silence_of
from flashnas.loss.own import as_own, with_own
from flashnas.observations.losses import ObservedLoss
from flashnas.observations.read_losses import read_published

TOKENS = 1e11
PAIR = [Architecture.parse(f"2048: {text}") for text in ("12x(a f)", "12x(r7 f)")]
TOYS = [
    Architecture.parse("64(vocab=2048): 12x(a(heads=1,kv_heads=1,head_dim=64) f)"),
    Architecture.parse("64(vocab=2048): 12x(r7(head_dim=64) f)"),
]
FULL, TOY = (PAIR, 1e11), (TOYS, 262_144)
STACKS = ("12x(a f)", "12x(m2 f)", "4x(5x(gd f) a f)", "24x(d)", "6x(m f)", "12x(r7 f f)")


@functools.cache
def shipped():
    return loss_model()


def rows_at(fidelity, repeats=1, nats=(2.6, 2.5), **options):
    networks, tokens = fidelity
    return as_own(
        [
            ObservedLoss.of(network, nats=loss, tokens=tokens, group="mine", **options)
            for network, loss in zip(networks, nats, strict=True)
        ]
        * repeats
    )


def informed(*args, reliability=1.0, **options):
    return with_own(
        shipped(), rows_of(rows_at(*args, **options), shipped().law), reliability=reliability
    )


def sd(model):
    return model.predict_networks(PAIR, TOKENS).difference(0, 1)[1]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(STACKS),
            st.sampled_from((256, 1024, 4096)),
            st.floats(5, 14).map(lambda digits: 10**digits),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_the_prior_is_a_covariance_at_any_size_and_length(trainings):
    rows = rows_of(
        [
            ObservedLoss.of(
                Architecture.parse(f"{width}: {text}"), nats=2.0, tokens=tokens, group="mine"
            )
            for text, width, tokens in trainings
        ],
        shipped().law,
    )
    prior = sum(shipped()._prior(rows, rows))
    assert prior == pytest.approx(prior.T)
    assert np.linalg.eigvalsh(prior).min() > -1e-9 * np.trace(prior)


def test_a_full_training_says_more_than_a_toy_of_the_same_mix():
    before, toy, full = sd(informed(FULL, noise=10.0)), sd(informed(TOY)), sd(informed(FULL))
    assert full < 0.7 * toy
    assert toy < before


def test_more_seeds_of_a_toy_do_not_average_its_discrepancy_out():
    before, one, many = sd(informed(FULL, noise=10.0)), sd(informed(TOY)), sd(informed(TOY, 20))
    assert many == pytest.approx(one, rel=0.03)
    assert many > 0.6 * before
    assert sd(informed(FULL, 20)) < 0.8 * sd(informed(FULL))


def test_the_noise_of_a_row_is_its_own():
    sds = [sd(informed(FULL, noise=noise)) for noise in (0.001, 0.03, None, 1.0)]
    assert sds[0] < sds[2] < sds[1] < sds[3]


def test_a_given_reliability_is_not_fitted_and_losses_do_not_change_what_is_learnt():
    models = [informed(FULL, nats=nats, reliability=1.5) for nats in ((2.6, 2.2), (0.0, 0.0))]
    assert {model.spreads.reliability["own trainings"] for model in models} == {1.5}
    first, second = (m.predict_networks(PAIR, TOKENS) for m in models)
    assert first.shared == pytest.approx(second.shared)
    assert first.own == pytest.approx(second.own)


def test_silence_falls_with_a_full_training_and_hardly_with_a_toy():
    table = shipped().table(PAIR, TOKENS)
    before = shipped().silence(table)
    assert before == pytest.approx(silence_of(table))

    def silence(fidelity):
        model = informed(fidelity)
        return model.silence(model.table(PAIR, TOKENS))

    toy, full = silence(TOY)[1], silence(FULL)[1]
    assert before[1] == pytest.approx(0.03)
    assert full < 0.85 * before[1]
    assert 0.97 * before[1] < toy <= before[1]
    elsewhere = [Architecture.parse("2048: 12x(m2 f)"), Architecture.parse("2048: 12x(d f)")]
    assert silence((elsewhere, 1e11)) == pytest.approx(before)


def test_no_published_training_lies_so_far_outside_that_its_mix_is_uncertain():
    rows = shipped_rows()
    assert (np.abs(rows.far) > 0.7).sum() == 0
    table = shipped().table(PAIR, TOKENS)
    assert not table.far.any()
    assert shipped().publication == NEW


@given(st.sampled_from((SIZES, RANGE)), st.floats(1, 14))
@settings(max_examples=20, deadline=None)
def test_the_dependence_on_size_at_few_tokens_is_between_none_and_that_at_many(limits, digits):
    """Of two networks of one shape: the larger one is never expected to be worse."""
    small, large = (np.array(value) for value in (1e8, 1e9))
    law = shipped().law
    of_small, of_large = (law.by_shape(size, (size / 12) ** (1 / 3)) for size in (small, large))
    gaps = [
        float(of_small - of_large + law.by_tokens(small, tokens) - law.by_tokens(large, tokens))
        for tokens in (10.0**digits, 1e30)
    ]
    assert 0 < gaps[0] <= gaps[1] + 1e-12


# -- without publications --------------------------------------------------------------------------


def test_without_published_rows_there_are_intervals_and_the_law_of_size():
    model = loss_model(published=False)
    assert len(model.rows) == 0
    assert model.coefficients()["law"][:2] == pytest.approx(shipped().coefficients()["law"][:2])
    assert sd(shipped()) < sd(model) < 0.2
    small, large = (Architecture.parse(f"{width}: 12x(a f)") for width in (1024, 2048))
    gap = [
        m.predict_networks([small, large], TOKENS).difference(0, 1)[0] for m in (model, shipped())
    ]
    assert gap[0] == pytest.approx(gap[1], rel=0.1)


def test_without_published_rows_own_ones_count_all_the_more():
    rows = rows_at(FULL, nats=(2.6, 2.5))
    own = loss_model(rows, published=False).predict_networks(PAIR, TOKENS).difference(1, 0)[0]
    both = loss_model(rows).predict_networks(PAIR, TOKENS).difference(1, 0)[0]
    assert own < both < shipped().predict_networks(PAIR, TOKENS).difference(1, 0)[0]


def test_own_trainings_come_as_rows_or_as_a_file(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "group,source,operators,params,hidden,vocab,tokens,metric,value,noise\n"
        "mine,me,12x(a f),400M,1536,0,20B,val_loss,2.90,0.01\n"
        "mine,me,12x(m2 f),400M,1536,0,20B,val_loss,2.87,\n"
    )
    rows = read_published(path)
    assert [row.noise for row in rows] == [0.01, None]
    found = [loss_model(own).predict_networks(PAIR, TOKENS) for own in (path, rows)]
    assert found[0].mean == pytest.approx(found[1].mean)
    with pytest.raises(ConfigError, match=r"loss_model.own must be the path of a CSV file, or"):
        loss_model([1.0])
    path.write_text(path.read_text().replace("0.01", "-1"))
    with pytest.raises(ConfigError, match=r"own.csv:2: noise must be a number above 0"):
        loss_model(path)
