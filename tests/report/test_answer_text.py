"""The answer in words and in the report: it names the recommended network, and its numbers are
those of run.yaml.
"""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from answered_runs import write_answered_run
from matplotlib.image import imread

from flashnas.architecture.folding import compressed
from flashnas.report import RecordedRun, front_table, write_report
from flashnas.report.answer_text import next_commands, signed, statements
from flashnas.report.header_section import HEADER
from flashnas.report.marks import Label, Whiskers
from flashnas.report.planes import INTERVAL_90, front_picture, plane_of
from flashnas.report.text import names_text


@pytest.fixture(scope="module", params=[True, False], ids=["trained", "untrained"])
def answered(request, tmp_path_factory) -> RecordedRun:
    return RecordedRun.load(
        write_answered_run(tmp_path_factory.mktemp("answered") / "demo", trained=request.param)
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The run, with entries of its answer that are otherwise."""
    runs = {
        trained: RecordedRun.load(
            write_answered_run(tmp_path_factory.mktemp("built") / "demo", trained=trained)
        )
        for trained in (True, False)
    }

    def build(*, trained=True, **answered):
        config = runs[trained].config
        return dataclasses.replace(
            runs[trained], config={**config, "answer": {**config["answer"], **answered}}
        )

    return build


def said(run: RecordedRun) -> dict[str, str]:
    return {about: words for about, words in statements(run)}


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_words_name_the_recommended_network_and_agree_with_run_yaml(answered):
    data = yaml.safe_load((answered.path / "run.yaml").read_text())["answer"]
    chosen = answered.front[-1]
    assert chosen.hash == data["recommended"]
    words = said(answered)
    assert words["recommended"].startswith(f"{chosen.name} at ")
    assert compressed(chosen.notation) in words["recommended"]
    assert "100B tokens" in words["recommended"]
    assert words["recommended"].endswith("0.60")
    assert answered.front[-2].name in words["not told apart"]
    assert answered.front[-3].name not in words["not told apart"]
    assert f"{data['pure']['difference']:+.3f} ± {data['pure']['sd']:.3f}" in words["pure stacks"]
    assert data["pure"]["label"] in words["pure stacks"]
    shown = {name for name in data["reasons"] if answered.untrained is False or name != "training"}
    assert [float(value) for value in re.findall(r"[+-]\d\.\d+", words["why"])] == [
        data["reasons"][name] for name in data["reasons"] if name in shown
    ]


def test_a_probability_below_the_limit_is_not_called_better(built):
    run = built()
    assert "cannot be told from" in said(run)["pure stacks"]
    assert "0.74" in said(run)["pure stacks"]
    pure = {**run.answer.pure, "probability": 0.97}
    assert "is ahead of" in said(built(pure=pure))["pure stacks"]
    assert "is behind" in said(built(pure={**pure, "probability": 0.02}))["pure stacks"]
    own = {**pure, "hash": run.answer.recommended}
    assert "is itself the best pure stack" in said(built(pure=own, reasons={}))["pure stacks"]


def test_a_network_that_saves_less_than_half_a_percent_is_not_called_faster(built):
    run = built()
    chosen, tied = run.front[-1], run.front[-2]
    said_of = {}
    for share in (0.9, 0.997):
        figures = {**tied.figures, "latency_ms": share * chosen.latency_ms}
        front = (*run.front[:-2], dataclasses.replace(tied, figures=figures), chosen)
        said_of[share] = said(dataclasses.replace(run, front=front))["not told apart"]
    assert "(10% less)" in said_of[0.9]
    assert said_of[0.997].endswith("; none of these is faster")


def test_what_training_did_is_said_as_it_was(built):
    assert "left the answer" in said(built())["training"]
    run = built(same=False, before=built().front[0].notation)
    assert said(run)["training"].startswith("the short trainings changed the answer")
    assert "P1, " in said(run)["training"]
    assert "which was not trained" in said(built(same=False, before="64: a f"))["training"]
    assert "nothing was trained" in said(built(trained=False))["training"]
    assert "to change it" not in said(built(trained=False))


def test_what_would_change_the_answer_names_the_network_and_the_gap(built):
    other = {
        "hash": "x",
        "notation": "512: a f a f a f",
        "nats": 0.041,
        "usual_nats": 0.05,
        "probability": 0.2,
    }
    words = said(built(to_change=other))["to change it"]
    assert "512: 3x(a f)" in words
    assert "0.041 nats" in words
    assert "0.20" in words
    assert "was not trained" in said(built(to_change={**other, "nats": 0.0}))["to change it"]


def test_the_floor_for_recall_and_what_it_costs(built):
    other = {
        "hash": "x",
        "notation": "512: d f",
        "expected_recall": -0.2,
        "difference": -0.03,
        "sd": 0.04,
    }
    words = said(built(without_floor=other, min_recall=-0.05))["recall"]
    assert "512: d f would be recommended, recall -0.20; that buys -0.030 ± 0.040 nats" in words
    assert "buys nothing" in said(built(without_floor={**other, "difference": 0.03}))["recall"]
    assert (
        "no network of the front keeps the floor of -0.05"
        in said(built(kept=False, min_recall=-0.05))["recall"]
    )


def test_a_better_network_below_the_floor_is_named_as_such(built):
    run = built()
    first, *others = (dataclasses.asdict(standing) for standing in run.answer.standings)
    other = {
        "hash": "x",
        "notation": "512: d f",
        "expected_recall": -0.2,
        "difference": -0.03,
        "sd": 0.04,
    }
    words = said(
        built(
            without_floor=other, standings=[{**first, "difference": -1.0, "tied": False}, *others]
        )
    )
    assert words["not told apart"].endswith(
        "; P1 is expected to be better, but does not keep the recall"
    )
    assert ", of those that keep the floor for recall; " in words["recommended"]
    assert "floor" not in said(run)["recommended"]


def test_tokens_outside_the_law_are_marked(built):
    assert "extrapolated" not in said(built())
    assert "2T training tokens" in said(built(extrapolated=True, train_tokens=2e12))["extrapolated"]


def test_the_commands_are_those_of_the_command_line(answered):
    train, export = next_commands(answered)
    assert train.startswith(
        f"flashnas train {answered.path}/pareto/{answered.front[-1].path.name} --data "
    )
    assert "--tokens 100000000000 --device cuda" in train
    assert train.endswith(f" --out {answered.path}/trained/{answered.front[-1].path.stem}")
    assert (
        export
        == f"flashnas export {answered.path}/trained/{answered.front[-1].path.stem} --to hf --out"
        " exported"
    )


def test_a_network_that_a_cpu_trains_gets_the_tokens_that_suit_it(answered):
    """And no GPU; the plan of the user counts where it is shorter."""
    front = [
        dataclasses.replace(entry, figures={**entry.figures, "params": 3.1e6})
        for entry in answered.front
    ]
    for tokens, given in ((1e11, 60_000_000), (2e6, 2_000_000)):
        config = {
            **answered.config,
            "answer": {**answered.config["answer"], "train_tokens": tokens},
        }
        run = dataclasses.replace(answered, front=tuple(front), config=config)
        assert f"--tokens {given} --out" in next_commands(run)[0]


def test_the_table_marks_what_matters(answered):
    text = front_table(answered)
    lines = text.splitlines()[1 : len(answered.front) + 1]
    upper = {entry.name: entry.figures["upper_ms"] for entry in answered.front}
    for line, entry in zip(lines, answered.front, strict=True):
        assert line.startswith(entry.name)
        assert (" ! " in line) == (upper[entry.name] > answered.budget_ms)
        if entry.hash != answered.answer.recommended:
            assert f"{entry.figures['full_loss_difference']:+.3f} ± 0.050" in line
    assert lines[-1].startswith(f"{answered.front[-1].name} *")
    assert lines[-2].startswith(f"{answered.front[-2].name} ~")
    assert ("short loss" in text) != answered.untrained
    assert "\nlatency: of one request, decode-8k on " in text
    assert "None" not in text
    assert "nan" not in text.split("\n\n")[0]


def test_the_report_opens_with_the_answer(answered):
    html, png = write_report(answered.path)
    page = html.read_text()
    own = without_scripts(page)
    assert (
        own.index("Recommended".lower())
        < own.index("Finalists")
        < own.index("Where the latencies come from")
    )
    assert own.count('<div class="reason">') == (3 if answered.untrained else 4)
    assert "recommended</small>" in own
    assert "None" not in own
    assert page.count('<script type="application/json">') == (3 if answered.untrained else 4)
    assert imread(png).shape[:2] == (800, 1500)


def test_the_picture_shows_intervals_of_the_front_and_the_baselines(answered):
    plane = plane_of(answered)
    shown = plane.points.set_index("hash")
    for standing in (*answered.answer.standings, *answered.answer.baselines):
        assert shown.loc[standing.hash, "y"] == pytest.approx(standing.difference)
        assert shown.loc[standing.hash, "reach"] == pytest.approx(INTERVAL_90 * standing.sd)
    named = {standing.hash for standing in (*answered.answer.standings, *answered.answer.baselines)}
    assert shown.loc[~shown.index.isin(named), "reach"].isna().all()
    assert shown.loc[~shown.index.isin(named), "small"].all()
    picture = front_picture(answered)
    (intervals,) = [mark for mark in picture.panels[0].marks if isinstance(mark, Whiskers)]
    assert len(intervals.x) == len(named)
    assert {entry.name for entry in answered.front} <= {
        mark.text for mark in picture.panels[0].marks if isinstance(mark, Label)
    }
    assert not [key for key in picture.keys if "front so far" in key.text or "Pareto" in key.text]


def test_the_axis_of_a_lone_network_is_not_made_of_rounding(built):
    plane = plane_of(built())
    (low, high) = dataclasses.replace(
        plane, points=plane.points[:1].assign(y=0.0, reach=1e-8)
    ).ranges()[1]
    assert high - low > 0.1


def test_text_of_an_answer_cannot_become_markup(built):
    attack = "<script>alert(1)</script>"
    run = built()
    own = HEADER.html(
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
    assert "answer" not in HEADER.html(going)


def test_names_and_signs():
    assert names_text([]) == ""
    assert names_text(["P1"]) == "P1"
    assert names_text(["P1", "P2"]) == "P1 and P2"
    assert names_text(["P1", "P3", "P4", "P5", "P9"]) == "P1, P3 to P5 and P9"
    assert [signed(value) for value in (0.02, -0.0004, -0.3)] == ["+0.020", "0.000", "-0.300"]
