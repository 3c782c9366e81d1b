"""The answer in words and in the report: it names the recommended network, and its numbers are
those of run.yaml.
"""

from __future__ import annotations

import dataclasses
import re

import pytest
from answered_runs import write_answered_run
from matplotlib.text import Annotation

from flashnas.base.text import INTERVAL_90, names_text, signed
from flashnas.report.answer import next_commands, statements
from flashnas.report.figures import draw
from flashnas.report.page import render_html
from flashnas.report.planes import plane_of
from flashnas.report.sections import header
from flashnas.report.table import front_table
from flashnas.runs.front import front_path
from flashnas.runs.run import RecordedRun


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answered")
    return {
        trained: RecordedRun.load(
            write_answered_run(folder / f"{trained}" / "demo", trained=trained)
        )
        for trained in (True, False)
    }


@pytest.fixture(params=[True, False], ids=["trained", "untrained"])
def answered(request, runs) -> RecordedRun:
    return runs[request.param]


@pytest.fixture
def built(runs):
    """The run, with entries of its answer that are otherwise."""

    def build(*, trained=True, **answered):
        run = runs[trained]
        answer = {**run.config["answer"], **answered}
        return dataclasses.replace(run, config={**run.config, "answer": answer})

    return build


def with_figures(run: RecordedRun, place: int, **figures: float) -> RecordedRun:
    """The run with other figures of one network of the front."""
    front = list(run.front)
    front[place] = dataclasses.replace(front[place], **figures)
    return dataclasses.replace(run, front=tuple(front))


def said(run: RecordedRun) -> dict[str, str]:
    return {about: words for about, words in statements(run)}


# what the helper's answer says, by hand: P15 is recommended, P14 tied, and the budget 14 s
SAID = {
    "recommended": "P15, 2560: 2x(a f m2 f) 4x(d f m2 f); 13.61 s, 1.423 B parameters; the lowest"
    " expected loss after 100B tokens plus what no publication vouches for (here nothing);"
    " probability of being the best of the front and the pure stacks 0.60",
    "transformer": "2304: 12x(a f) at 12.94 s: +0.171 ± 0.033 nats, worse than P15 with a"
    " probability of 0.99; made wider, it is as good at 15.4 s and 1.570 B parameters",
    "pure stack": "2560: 12x(m2 f) at 13.23 s: +0.031 ± 0.033 nats, worse than P15 with a"
    " probability of 0.74; made wider, it is as good at 15.4 s and 1.570 B parameters",
    "published": "expected to be worse than P15: Nemotron-Flash-1B (14.3 s) and Untimed-1B; not told"
    " apart from P15: LFM2-1.2B (18.7 s); better: Qwen3-1.7B (36.9 s); all with the vocabulary of"
    " the space",
    "why": "size -0.012, width against depth +0.004, mix of operators -0.025, own short training"
    " +0.002 nats to the best pure stack; below 0 speaks for P15",
    "evidence": "in 4 of 5 published pairs of trainings the mix of P15 is better than that of the"
    " best pure stack (arXiv 2604.03444, 2511.18890)",
    "to settle it": "train P15 and P14 on 5.46B tokens each, 11.3 H100-hours in all; with a"
    " probability of 0.91 they differ by more than the noise",
    "recall": "-0.05 ± 0.10 of full marks against a transformer; keeps the floor of -0.50 with a"
    " probability of 0.75; without the floor the answer is the same",
    "limit": "13.61 s of 14 s (90 %: 12.25 s to 15.65 s); a larger budget would allow a better"
    " network",
    "full training": "100B tokens, 8.1e+20 FLOPs, 572 H100-hours at a utilisation of 40%",
    "trained here": "the short trainings left the answer as it was before them; no other one alone"
    " is likely to change it",
}
OTHER = {"hash": "x", "notation": "512: d f", "difference": -0.03, "sd": 0.04}
OTHER["expected_recall"] = -0.2
CHANGE = {"hash": "x", "notation": "512: a f a f a f", "nats": 0.041, "probability": 0.2}
CHANGE["usual_nats"] = 0.05


def test_each_sentence_of_a_recorded_answer(built):
    words = said(built())
    assert {about: words[about] for about in SAID} == SAID


def test_a_network_that_is_compared_with_none_has_no_probability_of_being_the_best(built):
    run = built()
    answer = run.config["answer"]
    own = [entry for entry in answer["standings"] if entry["hash"] == answer["recommended"]]
    alone = built(standings=own, baselines=[], above_budget=[], cheapest=answer["recommended"])
    alone = dataclasses.replace(alone, front=alone.front[-1:])
    assert said(alone)["recommended"].endswith("vouches for (here nothing)")


@pytest.mark.parametrize(
    ("about", "answered", "part"),
    [
        (
            "pure stack",
            {"pure": {"difference": 0.01, "probability": 0.2}},
            "-0.010 ± 0.033 nats, worse than P15 with a probability of 0.20",
        ),
        (
            "pure stack",
            {"pure": {"ms": None, "params": None}},
            "; not even twice as wide is it as good",
        ),
        (
            "evidence",
            {"support": None},
            "no publication compares its mix with that of the best pure stack",
        ),
        (
            "recall",
            {"without_floor": OTHER},
            "; without the floor it would be 512: d f: recall -0.20, -0.030 ± 0.066 nats",
        ),
        (
            "recall",
            {"kept": False},
            "with a probability of 0.75; no network of the front is expected to keep it",
        ),
        ("recommended", {"without_floor": OTHER}, ", of those that keep the floor for recall; "),
        ("limit", {"limit": "space"}, "no other network of the space ranks higher"),
        ("limit", {"limit": "depth"}, "the budget is not used up: the space has no more layers"),
        ("limit", {"limit": "params"}, "the bound on parameters is reached: a higher one would"),
        (
            "trained here",
            {"to_change": CHANGE},
            "of 512: 3x(a f) would change it if it ends 0.041 nats below what is expected, probability 0.20",
        ),
        (
            "trained here",
            {"same": False, "before": "64: a f"},
            "published trainings alone recommend 64: a f, which was not trained",
        ),
        (
            "trained here",
            {"same": False, "before": "2560: d f a f a f a f"},
            "the short trainings changed the answer: published trainings alone recommend P1;",
        ),
    ],
)
def test_what_an_answer_says_otherwise(built, about, answered, part):
    for name, entry in answered.items():
        if isinstance(entry, dict):
            answered = {**answered, name: {**getattr(built().answer, name), **entry}}
    assert part in said(built(**answered))[about]


def test_what_an_answer_does_not_have_is_not_said(built):
    run = built()
    chosen = {**run.answer.pure, "hash": run.answer.recommended}
    words = said(
        built(
            pure=chosen,
            transformer={},
            reasons={},
            published=[],
            support=None,
            experiment={},
            training=None,
        )
    )
    assert words["pure stack"] == "P15 itself, pure m2"
    assert not {"transformer", "published", "why", "evidence", "to settle it", "full training"} & {
        *words
    }
    same = said(built(pure=run.answer.transformer))
    assert same["pure stack"] == "the transformer is the best one"
    untrained = said(built(trained=False))
    assert untrained["trained here"].startswith("nothing was trained")
    assert "own short training" not in untrained["why"]


def test_silence_of_the_recommended_network_is_in_its_line(built):
    words = said(with_figures(built(), -1, silence=0.122))["recommended"]
    assert "plus what no publication vouches for (here 0.122 nats)" in words


def test_a_network_that_saves_less_than_half_a_percent_is_not_called_faster(built):
    own = built().front[-1].latency_ms
    faster, as_fast = (
        said(with_figures(built(), -2, latency_ms=share * own))["not told apart"]
        for share in (0.9, 0.997)
    )
    assert "; P14 is 10% faster (12.25 s), at " in faster
    assert as_fast == "P14: the probability that P15 is better is below 0.8"


def test_a_better_network_below_the_floor_is_named_as_such(built):
    first, *others = (dataclasses.asdict(standing) for standing in built().answer.standings)
    better = [{**first, "difference": -1.0, "tied": False}, *others]
    words = said(built(standings=better, min_recall=0.05))["not told apart"]
    assert "; below the floor for recall: P1, P14 and " in words


def test_the_commands_are_those_of_the_command_line(answered):
    train, export = next_commands(answered)
    config = front_path(answered.path, answered.front[-1])
    assert train.startswith(f"flashnas train {config} --data ")
    assert "--tokens 100000000000 --device cuda" in train
    assert train.endswith(f" --out {answered.path}/trained/{config.stem}")
    assert export == f"flashnas export {answered.path}/trained/{config.stem} --to hf --out exported"
    programs = {"llama.cpp": "gguf", "vllm": "nemotron-h"}
    for asked, to in ((None, "gguf"), ("llama.cpp", "gguf"), ("vllm", "nemotron-h")):
        run = with_figures(answered, -1, runs_in=programs)
        options = {**(run.entry("options") or {}), "runtime": asked}
        run = dataclasses.replace(run, config={**run.config, "options": options})
        assert f" --to {to} " in next_commands(run)[1]


def test_a_network_that_a_cpu_trains_gets_the_tokens_that_suit_it(answered):
    """And no GPU; the plan of the user counts where it is shorter."""
    front = [dataclasses.replace(entry, params=3_100_000) for entry in answered.front]
    for tokens, given in ((1e11, 60_000_000), (2e6, 2_000_000)):
        config = {
            **answered.config,
            "answer": {**answered.config["answer"], "train_tokens": tokens},
        }
        run = dataclasses.replace(answered, front=tuple(front), config=config)
        assert f"--tokens {given} --out" in next_commands(run)[0]


def test_the_table_marks_what_matters(answered):
    text = front_table(answered, 200)
    lines = text.splitlines()[1:]
    for line, entry in zip(lines, answered.front, strict=False):
        assert line.startswith(entry.name)
        assert (" ! " in line) == (entry.figures["upper_ms"] > answered.budget_ms)
        if entry.hash != answered.answer.recommended:
            assert f"{entry.figures['full_loss_difference']:+.3f} ± 0.082" in line
    chosen = len(answered.front) - 1
    assert lines[chosen].startswith(f"{answered.front[-1].name} *")
    assert lines[chosen - 1].startswith(f"{answered.front[-2].name} ~")
    assert ("short loss" in text) != answered.untrained
    wide = front_table(answered, width=400)
    assert ("trial " in wide, "network " in wide) == (not answered.untrained, answered.untrained)
    assert "\nlatency: of one request in s, decode-8k on " in text
    assert "± and bounds: 90 %" in text
    assert "None" not in text
    assert "nan" not in text.split("\n\n")[0]


def test_below_the_front_the_table_has_what_it_is_compared_with(answered):
    table = front_table(answered, 200).split("\nlatency:")[0]
    on_front = answered.finalists
    shown = [
        (each.difference, 0.082, r"\d+: .*")
        for each in answered.answer.baselines
        if each.hash not in on_front
    ]
    shown += [(each["difference"], 0.033, each["name"]) for each in answered.answer.published]
    for difference, reach, name in shown:
        figures = re.escape(f"{difference:+.3f} ± {reach}")
        assert re.search(rf"\n +{figures}  .*  {name}\n", table), name


def test_silence_has_a_column_only_where_some_network_has_it(answered):
    assert "silence" in front_table(answered).splitlines()[0]
    vouched = [dataclasses.replace(entry, silence=0.0) for entry in answered.front]
    trials = answered.trials.assign(silence=0.0)
    run = RecordedRun(answered.path, answered.config, trials, tuple(vouched))
    assert "silence" not in front_table(run).splitlines()[0]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_keeps_what_matters(answered, width):
    table = front_table(answered, width).split("\nnext ")[0]
    assert max(map(len, table.splitlines())) <= width
    head = table.splitlines()[0]
    assert {"full", "recall", "latency", "architecture"} <= {*head.split()}
    assert ("bounds" in head) == (width == 120)


def test_the_report_opens_with_the_answer(answered):
    page = render_html(answered)
    assert (
        page.index("recommended")
        < page.index("Finalists")
        < page.index("Where the latencies come from")
    )
    assert page.count('<div class="reason">') == (3 if answered.untrained else 4)
    assert "recommended</small>" in page
    assert "None" not in page
    assert page.count("<figure ") == (3 if answered.untrained else 4)


def test_the_picture_shows_intervals_of_the_front_and_the_baselines(answered):
    points = plane_of(answered).points.dropna(subset="hash").set_index("hash")
    standings = (*answered.answer.standings, *answered.answer.baselines)
    for standing in standings:
        assert points.loc[standing.hash, "y"] == pytest.approx(standing.difference)
        assert points.loc[standing.hash, "reach"] == pytest.approx(INTERVAL_90 * standing.sd)
    others = points[~points.index.isin({standing.hash for standing in standings})]
    assert others["reach"].isna().all()
    assert set(others["style"]) == {"small"}
    plot = draw(answered, "front")
    (panel,) = plot.panels
    intervals = panel.collections[0].get_segments()
    # and of published models within the axes
    assert len(intervals) == len({standing.hash for standing in standings}) + 2
    assert {entry.name for entry in answered.front} <= names_in(panel)
    keys = [text.get_text() for text in plot.legends[0].get_texts()]
    assert "90 % interval" in keys
    assert not [key for key in keys if "front so far" in key or "Pareto" in key]


def names_in(panel) -> set[str]:
    """The labels of networks."""
    return {text.get_text() for text in panel.texts if isinstance(text, Annotation)}


def test_the_axes_hold_what_is_compared_and_name_what_lies_beyond(built):
    first, *others = (dataclasses.asdict(standing) for standing in built().answer.standings)
    run = built(standings=[{**first, "difference": 5.0}, *others])
    (panel,) = draw(run, "front").panels
    assert panel.get_ylim()[1] < 0.5
    assert panel.get_xlabel().endswith("\nbeyond the axes: P1 and Qwen3-1.7B")
    assert {"P15", "2304: 12x(a f)", "LFM2-1.2B"} <= names_in(panel)
    assert "P1" not in names_in(panel)


def test_the_axis_of_a_lone_network_is_not_made_of_rounding(built):
    plane = plane_of(built())
    lone = plane.points[:1].assign(y=0.0, reach=1e-8)
    low, high = dataclasses.replace(plane, points=lone).ranges[1]
    assert high - low > 0.1


def test_text_of_an_answer_cannot_become_markup(built):
    attack = "<script>alert(1)</script>"
    run = built()
    own = header(
        built(
            pure={**run.answer.pure, "label": attack, "notation": attack}, before=attack, same=False
        )
    )
    assert attack not in own
    assert "&lt;script&gt;" in own


def test_a_run_without_an_answer_yet_has_a_picture(answered):
    config = {key: value for key, value in answered.config.items() if key != "answer"}
    going = RecordedRun(answered.path, config, answered.trials, ())
    assert statements(going) == next_commands(going) == []
    assert plane_of(going).points["y"].min() == 0
    assert "answer" not in header(going)


def test_names_and_signs():
    assert names_text([]) == ""
    assert names_text(["P1"]) == "P1"
    assert names_text(["P1", "P2"]) == "P1 and P2"
    assert names_text(["P1", "P3", "P4", "P5", "P9"]) == "P1, P3 to P5 and P9"
    assert [signed(value) for value in (0.02, -0.0004, -0.3)] == ["+0.020", "0.000", "-0.300"]
