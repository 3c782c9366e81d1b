import dataclasses
import shutil

import numpy as np
import pytest
from invented_times import CHAT, truth, write_invented_table
from tiny_tables import tiny_kinds, write_entry, write_table

from flashnas.base.errors import SpaceError, TableError
from flashnas.latency import validation
from flashnas.latency.calibration import Calibration, ModelCorrection, conformal_margin, min_count
from flashnas.latency.certificate import Certificate
from flashnas.latency.corrections import Regressors, fit, kinds_of_error
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import (
    POOL,
    ROUNDS,
    Comparison,
    Summary,
    half,
    sample,
    store,
    validate,
)
from flashnas.latency.workload import Workload
from flashnas.report.results import validation_text
from flashnas.space import load_space

TINY = load_space("tiny")


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(validation, "POOL", 10)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return write_invented_table(tmp_path_factory.mktemp("invented") / "t", patch).path


@pytest.fixture
def table(written, tmp_path):
    return LatencyTable.load(shutil.copytree(written, tmp_path / "t"))


def certificate(table, confidence, workload=CHAT, space=TINY):
    table = LatencyTable.load(table.path).only(None)
    return Certificate.of(
        table, workload, space_name=space.name, space_hash=space.hash, confidence=confidence
    )


def test_an_additive_truth_has_no_error(table):
    result = validate(table, TINY, CHAT, truth(table), count=6)
    assert (
        len(result.comparisons)
        == len({check.architecture.hash for check in result.comparisons})
        == 6
    )
    for summary in result.metrics:
        assert summary.max_error == pytest.approx(0, abs=1e-9)
        assert summary.spearman == pytest.approx(1)
    for kinds in result.carriers.values():
        assert all(abs(entry["own_error"]) < 1e-6 for entry in kinds.values())


@pytest.mark.parametrize("planted", [{"model_us": 300.0}, {"scale": 0.8, "operator_us": 40.0}])
def test_planted_constants_are_recovered_and_held_out_models_predicted(table, planted):
    result = validate(table, TINY, CHAT, truth(table, **planted), count=24, calibrate=True)
    for phase in ("prefill", "decode"):
        for name, value in {
            "scale": 1.0,
            "model_us": 0.0,
            "operator_us": 0.0,
            "mb_us": 0.0,
            **planted,
        }.items():
            assert getattr(result.corrections[phase], name) == pytest.approx(
                value, rel=1e-3, abs=1e-3
            ), (phase, name)
    assert max(summary.max_error for summary in result.metrics) < 1e-4
    assert max(summary.mean_error for summary in result.before) > 0.05
    assert len(result.held_out) == 12


def test_a_correction_reaches_every_estimate_from_the_file(table):
    before = LatencyModel(table, CHAT)
    result = validate(table, TINY, CHAT, truth(table, model_us=300.0), count=24, calibrate=True)
    store(result, TINY, CHAT, seed=0, calibrate=True)
    after = LatencyModel(LatencyTable.load(table.path), CHAT)
    architecture = result.comparisons[3].architecture
    for metric, planted_ms in (("ttft_ms", 0.3), ("tpot_ms", 0.3), ("latency_ms", 0.3 * 257)):
        more = after.estimate(architecture).metric(metric) - before.estimate(architecture).metric(
            metric
        )
        assert more == pytest.approx(planted_ms, rel=1e-3)
    estimate = after.estimate(architecture)
    assert after.latencies([architecture])[0] == pytest.approx(estimate.latency_ms)
    assert sum(entry["ms"] for entry in estimate.breakdown) == pytest.approx(estimate.latency_ms)
    assert {
        entry["operator"] for entry in estimate.breakdown if entry["kernel"] == "calibration"
    } == {"embedding"}


def test_noise_alone_is_not_taken_for_a_constant(table):
    rng = np.random.default_rng(3)
    result = validate(
        table,
        TINY,
        CHAT,
        truth(table, noise=lambda: float(rng.lognormal(0, 0.02))),
        count=30,
        calibrate=True,
    )
    for before, after in zip(result.before, result.metrics, strict=True):
        assert after.mean_error < before.mean_error + 0.005


def test_architectures_are_spread_over_latency_and_never_those_of_a_calibration(table):
    model = LatencyModel(table, CHAT)
    rng = np.random.default_rng(0)
    chosen = sample(TINY, model, 10, rng)
    latencies = model.latencies(chosen)
    pool = model.latencies(
        [
            TINY.architecture(TINY.sample(rng), int(rng.choice(TINY.hidden_sizes)))
            for _ in range(300)
        ]
    )
    assert (np.diff(latencies) > 0).all()
    for quantile in (0.2, 0.5, 0.8):
        assert (latencies < np.quantile(pool, quantile)).mean() == pytest.approx(quantile, abs=0.2)
    write_entry(table.path, "calibration", {"whole": {"fitted_on": [a.hash for a in chosen]}})
    again = sample(
        TINY, LatencyModel(LatencyTable.load(table.path), CHAT), 10, np.random.default_rng(0)
    )
    assert not {a.hash for a in again} & {a.hash for a in chosen}


def test_each_architecture_is_timed_in_every_round_and_the_median_counts(table):
    calls, measure = [], truth(table)

    def slow_once(architecture):
        calls.append(architecture)
        factor = 9.0 if len(calls) <= 5 else 1.0  # the first round
        return {name: factor * value for name, value in measure(architecture).items()}

    told = []
    result = validate(
        table,
        TINY,
        CHAT,
        slow_once,
        count=5,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 5 * ROUNDS) for done in range(5 * ROUNDS + 1)]
    assert all(calls.count(check.architecture) == ROUNDS for check in result.comparisons)
    assert max(summary.max_error for summary in result.metrics) < 1e-9


def test_halves_hold_one_of_each_pair_of_neighbours():
    chosen = half(21, np.random.default_rng(0))
    assert len(chosen) == 10
    assert all(len({first, first + 1} & chosen) == 1 for first in range(0, 20, 2))


def test_the_operator_that_carries_the_error_is_named():
    rng = np.random.default_rng(0)
    terms = []
    for _ in range(20):
        by_kind = {
            kind: float(rng.integers(1, 8)) * us
            for kind, us in (("a", 100.0), ("d", 150.0), ("f", 80.0))
        }
        terms.append(
            Regressors(
                rows_us=sum(by_kind.values()),
                operators=10,
                megabytes=1.0,
                by_kind_us=by_kind,
                measured_us=sum(by_kind.values()) + 0.3 * by_kind["d"],
            )
        )
    found = kinds_of_error(terms, ModelCorrection())
    assert next(iter(found)) == "d"
    assert found["d"]["own_error"] == pytest.approx(0.3, abs=0.03)
    assert max(abs(found[kind]["own_error"]) for kind in ("a", "f")) < 0.05


def test_rank_correlation_needs_three_and_shares_ranks_of_ties():
    def summary(predicted, measured):
        architecture = TINY.architecture(next(TINY.enumerate()), 64)
        return Summary.of(
            [
                Comparison(
                    architecture=architecture, predicted={"tpot_ms": p}, measured={"tpot_ms": m}
                )
                for p, m in zip(predicted, measured, strict=True)
            ],
            "tpot_ms",
        )

    assert np.isnan(summary([1.0, 2.0], [2.0, 3.0]).spearman)
    assert summary([1.0, 2.0, 3.0], [2.0, 1.0, 3.0]).spearman == pytest.approx(0.5)
    assert summary([1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]).spearman == pytest.approx(
        0.9486832980505138
    )


def test_too_little_to_calibrate_or_to_sample_is_one_line(table):
    with pytest.raises(TableError, match="at least 4 whole models; got 2"):
        fit([Regressors(rows_us=1.0, operators=1, megabytes=1.0, measured_us=1.0)] * 2)
    with pytest.raises(
        TableError, match="--calibrate fits rows of whole operators, which table tiny does"
    ):
        validate(
            write_table(table.path.parent / "k", tiny_kinds()),
            TINY,
            CHAT,
            truth,
            count=8,
            calibrate=True,
        )
    rng = np.random.default_rng(0)
    drawn = [
        TINY.architecture(TINY.sample(rng), int(rng.choice(TINY.hidden_sizes))).hash
        for _ in range(4 * POOL)
    ]
    write_entry(table.path, "calibration", {"whole": {"fitted_on": drawn}})
    with pytest.raises(
        SpaceError, match="gave only 0 architectures that no calibration was fitted to; asked for 4"
    ):
        validate(LatencyTable.load(table.path), TINY, CHAT, truth(table), count=4)


def test_a_correction_is_of_one_mode(tmp_path, monkeypatch):
    table = write_invented_table(tmp_path / "t", monkeypatch, modes=("eager", "cuda_graph"))
    result = validate(
        table, TINY, CHAT, truth(table.only("eager"), model_us=300.0), count=24, calibrate=True
    )
    store(result, TINY, CHAT, seed=0, calibrate=True)
    architecture = result.comparisons[0].architecture
    for mode, more in (("eager", 0.3), ("cuda_graph", 0.0)):
        bare, full = (
            LatencyModel(LatencyTable.load(table.path), CHAT, mode=mode, calibration=flag)
            for flag in (Calibration(), "engine")
        )
        added = full.estimate(architecture).tpot_ms - bare.estimate(architecture).tpot_ms
        assert added == pytest.approx(more, rel=1e-3)
    one, two = (
        LatencyModel(table, CHAT, mode=mode, calibration=Calibration())
        .estimate(architecture)
        .tpot_ms
        for mode in ("eager", "cuda_graph")
    )
    assert two == pytest.approx(2 * one, rel=1e-3)


@pytest.mark.parametrize(
    ("mode", "operator_us"), [("cuda_graph", -3.0), ("eager", 0.0), ("cuda_graph", 2.0)]
)
def test_a_graph_may_hide_the_start_of_each_operator(mode, operator_us):
    """Rows of operators alone have their own start and end; only in that mode may operators cost
    less than nothing beyond their rows, and no operator more than half of a mean row."""
    rng, models = np.random.default_rng(1), []
    for _ in range(16):
        operators = int(rng.integers(6, 40))
        rows_us = operators * float(rng.uniform(15, 70))
        models.append(
            Regressors(
                rows_us=rows_us,
                operators=operators,
                megabytes=rows_us,
                measured_us=rows_us + (-3.0 if operator_us < 1 else operator_us) * operators + 12.0,
            )
        )
    found = fit(models, mode)
    assert (
        found.operator_us == pytest.approx(operator_us, abs=1e-6)
        if mode != "eager"
        else found.operator_us >= 0
    )
    if mode == "cuda_graph":
        assert (found.scale, found.model_us) == (pytest.approx(1), pytest.approx(12))
        added = found.added(operators=1, models=0, megabytes=0.0)
        assert added.lower_us <= added.us <= added.upper_us
    tiny = [
        Regressors(rows_us=10.0 * n, operators=n, megabytes=1.0, measured_us=0.1 * n)
        for n in range(5, 12)
    ]
    assert fit(tiny, mode).operator_us >= -5.0


def test_a_negative_constant_is_read_where_rows_are_of_operators_alone(table):
    for mode, right in (("cuda_graph", True), ("eager", False)):
        write_entry(table.path, "calibration", {"whole": {mode: {"decode": {"operator_us": -2.5}}}})
        if right:
            LatencyTable.load(table.path)
            continue
        with pytest.raises(
            TableError, match=r"eager.decode.operator_us must be a number of at least 0; got -2.5"
        ):
            LatencyTable.load(table.path)


# -- the certificate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_the_least_number_of_residuals(confidence, least):
    assert min_count(confidence) == least
    assert conformal_margin(list(range(least)), confidence) == least - 1


@pytest.mark.parametrize(("count", "confidence"), [(19, 0.95), (20, 0.9), (40, 0.8)])
def test_the_bound_covers_as_often_as_it_says(count, confidence):
    rng = np.random.default_rng(0)
    residuals = rng.standard_t(3, (4000, count + 1)) * 0.05 - 0.03
    covered = np.mean(
        [row[-1] <= conformal_margin(row[:-1].tolist(), confidence) for row in residuals]
    )
    rank = np.ceil((count + 1) * confidence - 1e-9)
    assert covered == pytest.approx(rank / (count + 1), abs=0.02)
    assert rank / (count + 1) >= confidence - 1e-9


def test_a_certificate_is_the_quantile_of_the_stored_residuals(table):
    rng = np.random.default_rng(1)
    result = validate(
        table, TINY, CHAT, truth(table, noise=lambda: float(rng.lognormal(0.05, 0.03))), count=19
    )
    store(result, TINY, CHAT, seed=0, calibrate=False)
    known = certificate(table, 0.95)
    ratios = [
        check.measured["latency_ms"] / check.predicted["latency_ms"] for check in result.comparisons
    ]
    estimate = LatencyModel(table, CHAT).estimate(result.comparisons[0].architecture)
    assert known.bound(estimate, "latency_ms") / estimate.latency_ms == pytest.approx(
        max(ratios), rel=1e-4
    )
    assert known.bound(estimate, "params") == estimate.params
    assert known.bound(estimate, "throughput_tok_s") < estimate.throughput_tok_s
    for budget in (
        Budget("latency_ms", 500.0),
        Budget("throughput_tok_s", 500.0),
        Budget("memory_gb", 1.0),
    ):
        (tight,) = known.tightened([budget])
        assert tight.limit * known.bound(estimate, budget.metric) / estimate.metric(
            budget.metric
        ) == pytest.approx(budget.limit)


def test_predictions_that_are_too_high_do_not_loosen_a_budget(table):
    store(
        validate(table, TINY, CHAT, truth(table, scale=0.5), count=19),
        TINY,
        CHAT,
        seed=0,
        calibrate=False,
    )
    assert certificate(table, 0.95).tightened([Budget("latency_ms", 500.0)]) == [
        Budget("latency_ms", 500.0)
    ]


def test_a_certificate_that_cannot_be_given_says_what_to_run(table):
    with pytest.raises(
        TableError,
        match=r"no validation of space 'tiny' and workload 'chat'.*: flashnas validate"
        r" --table .* --space tiny --workload chat$",
    ):
        certificate(table, 0.95)
    store(validate(table, TINY, CHAT, truth(table), count=10), TINY, CHAT, seed=0, calibrate=False)
    with pytest.raises(
        TableError, match=r"needs 19 architectures .* there are 10: flashnas validate .* -n 19$"
    ):
        certificate(table, 0.95)
    assert certificate(table, 0.9).confidence == 0.9
    with pytest.raises(TableError, match="no validation of space 'small'"):
        certificate(table, 0.9, space=load_space("small"))
    with pytest.raises(TableError, match="no validation of space 'tiny' and workload 'other'"):
        certificate(table, 0.9, workload=Workload(name="other", generated_tokens=5))
    write_entry(table.path, "calibration", {"whole": {"eager": {"decode": {"scale": 1.1}}}})
    with pytest.raises(TableError, match="was calibrated or measured anew since it was validated"):
        certificate(table, 0.9)
    write_entry(
        table.path,
        "validations",
        [
            {
                "workload": {k: v for k, v in CHAT.to_dict().items() if k != "name"},
                "space_hash": TINY.hash,
                "mode": "eager",
            }
        ],
    )
    with pytest.raises(TableError, match=r"the entry in validations of meta\.yaml is damaged"):
        certificate(table, 0.9)


def test_a_later_validation_replaces_the_earlier_of_the_same_question(table):
    for count in (5, 7):
        store(
            validate(LatencyTable.load(table.path), TINY, CHAT, truth(table), count=count),
            TINY,
            CHAT,
            seed=0,
            calibrate=False,
        )
    entries = LatencyTable.load(table.path).meta["validations"]
    assert [entry["architectures"] for entry in entries] == [7]


def test_validations_that_ran_at_once_are_both_kept(table):
    shorter = dataclasses.replace(CHAT, name="shorter", generated_tokens=CHAT.generated_tokens // 2)
    results = [
        (validate(LatencyTable.load(table.path), TINY, workload, truth(table), count=5), workload)
        for workload in (CHAT, shorter)
    ]
    for result, workload in results:
        store(result, TINY, workload, seed=0, calibrate=False)
    assert len(LatencyTable.load(table.path).meta["validations"]) == 2


def test_the_text_shows_each_architecture_and_what_is_held_out(table):
    result = validate(table, TINY, CHAT, truth(table, model_us=300.0), count=10, calibrate=True)
    text = validation_text(result.to_dict())
    assert text.count("\n*") == 5 + 1  # the calibrated half, and the line that explains the star
    assert "before      decode step" in text
    assert "calibrated  decode step  mean error 0.0%" in text
    assert "300 us per model" in text
