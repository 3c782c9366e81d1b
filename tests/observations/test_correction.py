import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import one_line

from flashnas.api.estimate import estimate
from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.latency.calibration import Calibration
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.workload import WORKLOADS
from flashnas.observations.correction import TimesCorrection, corrected
from flashnas.observations.times import ObservedTime
from flashnas.space import load_space

TABLE = "h100_sxm"
HYBRID = Architecture.parse("2048: 6x(d f m2 f)")
DEEPER = Architecture.parse("2048: 7x(d f m2 f)")
OTHER = Architecture.parse("1024: 20x(a f)")
NETWORKS = (HYBRID, DEEPER, OTHER)
CHAT, DECODE = LatencyModel(TABLE, "chat"), LatencyModel(TABLE, "decode-8k")
NEAR_RATIOS = st.floats(-1.0, 1.0)  # beyond, two networks of one kind contradict each other
RATIOS = st.floats(math.log(0.2), math.log(5))
SPREADS = st.floats(0, 0.2)


def observed(network, noise=None, model=DECODE, **ratios):
    """The time of a network at these logarithms of observed / predicted."""
    found = model.estimate(network)
    return ObservedTime(
        network=network,
        workload=model.workload,
        program="program",
        noise=noise,
        milliseconds={name: found.metric(name) * math.exp(r) for name, r in ratios.items()},
    )


def corrected_by(model, times):
    return model.corrected_by(TimesCorrection(model, times))


def factor(times, network, model=DECODE, name="latency_ms"):
    """corrected / predicted"""
    corrected = corrected_by(model, times)
    return corrected.estimate(network).metric(name) / model.estimate(network).metric(name)


def width(found, name="latency_ms"):
    lower, upper = found.bounds[name]
    return math.log(upper / lower)


TIMES = st.lists(
    st.builds(
        lambda network, model, noise, r: observed(network, noise, model, latency_ms=r),
        st.sampled_from(NETWORKS),
        st.sampled_from((CHAT, DECODE)),
        SPREADS,
        RATIOS,
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=6)
@given(TIMES, st.sampled_from((CHAT, DECODE)), st.randoms())
def test_a_correction_is_positive_consistent_and_the_same_in_any_order(times, model, random):
    corrected = corrected_by(model, times)
    shuffled = random.sample(times, len(times))
    again = corrected_by(model, shuffled)
    assert again.observed == corrected.observed
    latencies = corrected.latencies(NETWORKS)
    assert (again.latencies(NETWORKS) == latencies).all()
    for network, latency_ms in zip(NETWORKS, latencies, strict=True):
        found, w = corrected.estimate(network), model.workload
        assert 0 < found.lower_ms < found.latency_ms < found.upper_ms < math.inf
        assert found.latency_ms == pytest.approx(latency_ms, rel=1e-9)
        assert found.latency_ms == pytest.approx(
            found.ttft_ms + w.generated_tokens * found.tpot_ms, rel=1e-12
        )
        assert found.latency_ms == pytest.approx(sum(part["ms"] for part in found.breakdown))
        assert sum(found.sources.values()) == pytest.approx(1)


@settings(deadline=None, max_examples=6)
@given(RATIOS, SPREADS)
def test_one_time_shrinks_and_networks_like_it_follow_it_more(r, noise):
    times = [observed(HYBRID, noise, latency_ms=r)]
    timed, like, unlike = (math.log(factor(times, network)) / (r or 1) for network in NETWORKS)
    rounding = 1e-9 + 1e-15 / abs(r or 1)
    assert 1 + rounding > timed + (r == 0) >= like >= unlike >= 0 or r == 0


@settings(deadline=None, max_examples=8)
@given(st.lists(NEAR_RATIOS, min_size=3, max_size=3), st.sampled_from((CHAT, DECODE)))
def test_times_without_spread_are_met_exactly(ratios, model):
    times = [
        observed(network, 0.0, model, latency_ms=r)
        for network, r in zip(NETWORKS, ratios, strict=True)
    ]
    corrected = corrected_by(model, times)
    for time in times:
        found = corrected.estimate(time.network)
        assert found.latency_ms == pytest.approx(time.milliseconds["latency_ms"], rel=1e-4)
        assert width(found) < 0.02
        assert found.observed["latency_ms"] == [time.milliseconds["latency_ms"]]


def test_times_of_both_phases_are_met_and_make_up_the_request():
    ratios = {"ttft_ms": -0.1, "tpot_ms": 0.4}
    times = [observed(HYBRID, 0.0, CHAT, **ratios)]
    for name, r in ratios.items():
        assert math.log(factor(times, HYBRID, CHAT, name)) == pytest.approx(r, abs=1e-3)
    alone = [observed(HYBRID, 0.0, CHAT, tpot_ms=0.3)]
    assert 0 < math.log(factor(alone, HYBRID, CHAT, "ttft_ms")) < 0.3


def test_intervals_narrow_with_times_and_not_below_a_spread():
    before = width(DECODE.estimate(HYBRID))
    near = [observed(DEEPER, 0.01, latency_ms=0.05)]
    own = [*near, observed(HYBRID, 0.01, latency_ms=0.05)]
    found = [width(corrected_by(DECODE, times).estimate(HYBRID)) for times in (near, own)]
    assert before > found[0] > found[1] >= 2 * 1.645 * 0.01
    noisy = [observed(HYBRID, 0.03, latency_ms=0.05)] * 4
    assert width(corrected_by(DECODE, noisy).estimate(HYBRID)) >= 2 * 1.645 * 0.03


def test_programs_that_scatter_widen_what_was_not_timed():
    near, far = (
        [
            observed(network, latency_ms=r)
            for network, r in zip(NETWORKS[::2], (scatter, -scatter), strict=True)
        ]
        for scatter in (0.02, 0.5)
    )
    network = Architecture.parse("1536: 10x(m2 f a f)")
    widths = [width(corrected_by(DECODE, times).estimate(network)) for times in (near, far)]
    assert widths[1] > 2 * widths[0]


def test_another_workload_says_less_and_another_phase_less_still():
    network, r = HYBRID, 0.1
    shorter = LatencyModel(TABLE, "decode-1k")
    prefill = LatencyModel(TABLE, "prefill-2k")
    same, near, other = (
        factor([observed(network, 0.01, model, latency_ms=r)], network)
        for model in (DECODE, shorter, prefill)
    )
    assert same >= near > other > 1


def test_without_times_nothing_is_said_of_them():
    assert estimate(HYBRID).to_dict()["observed"] == {}


# -- another device's table as the program ---------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "calibration"),
    [("a100_sxm", "engine"), (TABLE, dataclasses.replace(DECODE.calibration, step_scale=1.4))],
)
def test_errors_of_networks_that_nobody_timed_fall(table, calibration):
    program = LatencyModel(table, "decode-8k", calibration=calibration)
    space, rng = load_space("free"), np.random.default_rng(0)
    networks = [space.architectures(space.sample(rng))[i % 3] for i in range(40)]
    timed, rest = networks[:6], networks[6:]
    truth = program.latencies(networks)
    times = [
        observed(network, latency_ms=math.log(ms / DECODE.latencies([network])[0]))
        for network, ms in zip(timed, truth, strict=False)
    ]
    corrected = corrected_by(DECODE, times)
    before, after = (
        np.sqrt(np.mean(np.log(model.latencies(rest) / truth[6:]) ** 2))
        for model in (DECODE, corrected)
    )
    assert after < before / 3
    inside = [
        found.lower_ms <= ms <= found.upper_ms
        for found, ms in zip(map(corrected.estimate, rest), truth[6:], strict=True)
    ]
    assert np.mean(inside) >= 0.9


# -- files -----------------------------------------------------------------------------------------

HEADER = "network,workload,program,device,latency_ms,p10_ms,p90_ms\n"


@pytest.fixture
def own(tmp_path):
    def write(*rows):
        path = tmp_path / "t.csv"
        path.write_text(HEADER + "\n".join(rows) + "\n")
        return str(path)

    return write


def test_estimate_says_what_was_predicted_observed_and_corrected(own, capsys):
    path = own(f"{HYBRID.notation},decode-8k,vllm 0.11,H100_SXM,17000,16900,17100")
    assert main(["estimate", HYBRID.notation, "--times", path]) == 0
    out = capsys.readouterr().out
    assert "note: 1 observed time of vllm 0.11 on h100_sxm: factor 1." in out
    assert "by the table alone 10,701.3 (9,014.6 to 13,574.7); observed: 17,000.0" in out
    assert main(["estimate", OTHER.notation, "--times", path]) == 0
    assert "not observed of this network" in capsys.readouterr().out


def test_rows_of_other_devices_and_types_are_left_out_in_one_line(own):
    path = own(
        f"{HYBRID.notation},decode-8k,p,,17000,,",
        f"{HYBRID.notation},decode-8k,p,a100_sxm,27000,,",
        f"{HYBRID.notation},decode-8k,p,a100_sxm,28000,,",
        f'{HYBRID.notation},"batch=1,generated=64,dtype=fp8",p,,128,,',
    )
    with pytest.warns(UserWarning, match=r"2 of a100_sxm, 1 of fp8") as caught:
        found = estimate(HYBRID, times=path)
    assert len(caught) == 1
    assert found.observed["times"] == 1
    refused = own(f"{HYBRID.notation},decode-8k,p,h100_smx,17000,,")
    message = one_line(ConfigError, estimate, HYBRID, times=refused)
    assert "must have a time on h100_sxm" in message
    assert "did you mean 'h100_sxm'" in message


def test_a_time_of_a_step_less_is_one_of_the_request():
    """vLLM draws the first token from the prompt: of 256 tokens it times 255 steps."""
    less = CHAT.at(f"batch=1,prompt={CHAT.workload.prompt_tokens},generated=255")
    model = corrected_by(CHAT, [observed(HYBRID, model=less, latency_ms=0.2)])
    assert model.observed["timed"] == [HYBRID.hash]
    found = model.estimate(HYBRID)
    (latency_ms,) = found.observed["latency_ms"]
    assert latency_ms == pytest.approx(
        less.estimate(HYBRID).latency_ms * math.exp(0.2) + found.tpot_ms
    )
    assert (
        corrected_by(DECODE, [observed(HYBRID, model=less, latency_ms=0.2)]).observed["timed"] == []
    )


def test_what_the_table_cannot_predict_is_one_line(own):
    path = own("2048: 6x(m f),prefill-2k,p,,17,,")
    message = one_line(ConfigError, corrected, model_of("a100_sxm", WORKLOADS["decode-8k"]), path)
    assert message.startswith(f"{path}:2: ")
    time = dataclasses.replace(observed(HYBRID), milliseconds={"ttft_ms": 3.0}, place="t.csv:2")
    message = one_line(ConfigError, TimesCorrection, DECODE, [time])
    assert "t.csv:2: ttft_ms must be empty" in message


def test_only_the_content_of_times_changes_a_digest(own):
    row = f"{HYBRID.notation},decode-8k,p,,%d,,"
    digests = [
        corrected(DECODE, own(*rows)).observed["digest"]
        for rows in (
            [row % 17_000, row % 18_000],
            [row % 18_000, row % 17_000],
            [row % 17_000, row % 18_001],
        )
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_calibration_s_own_constants_may_be_given():
    model = LatencyModel(TABLE, "decode-8k", calibration=Calibration())
    assert factor([observed(HYBRID, 0.0, model, latency_ms=0.2)], HYBRID, model) == pytest.approx(
        math.exp(0.2), rel=1e-3
    )


def test_a_time_of_steps_corrects_a_request_without_steps():
    prompts = LatencyModel(TABLE, "prefill-2k")
    model = corrected_by(prompts, [observed(HYBRID, latency_ms=0.2)])
    assert (model.observed["timed"], model.estimate(HYBRID).observed["latency_ms"]) == ([], [])
