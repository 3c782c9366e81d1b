"""What ships, that its constants are of the shipped files, and a user's own trainings as one
publication more.
"""

import json

import numpy as np
import pandas as pd
import pytest
from offenders import every
from one_line import one_line

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.loss.load import (
    FFN_SHARES,
    FITTED,
    RECALL,
    SHAPES,
    digests,
    expected,
    fitted,
    loss_model,
)
from flashnas.loss.own import OWN, own_rows
from flashnas.observations.read_losses import EXPERTS, SHIPPED

AS_PUBLISHED = {
    "12x(a f)": 2.60,
    "12x(m2 f)": 2.62,
    "12x(gd f)": 2.595,
    "2x(5x(m2 f) a f)": 2.58,
    "2x(5x(gd f) a f)": 2.57,
}
AGAINST = {"12x(a f)": 2.50, "12x(m2 f)": 2.30, "12x(gd f)": 2.75, "2x(5x(m2 f) a f)": 2.65}
NETWORKS = [Architecture.parse(f"2048: {text}") for text in ("12x(a f)", "12x(m2 f)")]


def test_the_shipped_constants_are_of_the_shipped_files():
    assert fitted()["digests"] == digests()
    assert FITTED.stat().st_size < 100_000
    law = loss_model().coefficients()["law"][0]
    assert fitted()["coefficients"]["law"]["mean"] == pytest.approx(law, rel=1e-4)


def test_every_shipped_row_has_a_source():
    paths = (SHIPPED, SHAPES, FFN_SHARES, RECALL, EXPERTS)
    tables = [pd.read_csv(path, dtype={"source": str}) for path in paths]
    assert [len(table) for table in tables] == [269, 292, 7, 39, 192]
    for table in tables:
        assert table["source"].astype(bool).all()
        assert table["source"].notna().all()
        assert table["table"].notna().all()


# -- own trainings ---------------------------------------------------------------------------------


def test_more_own_trainings_than_can_be_fitted_are_refused_at_once(own):
    path = own({f"{depth}x(a f)": 3.0 for depth in range(1, 302)})
    assert "own.csv: must hold at most 300 trainings" in one_line(ConfigError, own_rows, path)


def test_own_trainings_change_predictions_and_are_their_own_publication(own):
    path = own({"12x(a f)": 2.6, "12x(m2 f)": 2.5})
    before, after = (
        loss_model(file).predict_networks(NETWORKS, 1e11).difference(1, 0) for file in (None, path)
    )
    assert after[0] < before[0] - 0.02
    assert all(row.source == OWN for row in own_rows(path))
    assert loss_model(path).publication == OWN
    assert OWN in loss_model(path).spreads.reliability


def test_own_groups_do_not_mix_with_published_ones_of_the_same_name(own):
    found = [
        loss_model(own({"12x(a f)": 2.6, "12x(m2 f)": 2.5}, group=group)).predict_networks(
            NETWORKS, 1e11
        )
        for group in ("mine", "nf_500m_100b")
    ]
    assert found[0].difference(1, 0) == pytest.approx(found[1].difference(1, 0))


def test_what_contradicts_counts_with_a_wide_spread(own):
    agreeing, against = (
        loss_model(own(losses)).spreads.reliability[OWN] for losses in (AS_PUBLISHED, AGAINST)
    )
    assert against > 2 > 1.3 > agreeing


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mine,,12x(d f),400M,50B,val_loss,2.5", "own.csv:4: source must not be empty"),
        ("mine,my runs,12x(d f),1,50B,val_loss,2.5", "own.csv:4: '12x(d f)': params must be from "),
    ],
)
@pytest.mark.parametrize("command", [["evidence"], ["estimate", "2048: 12x(a f)"]])
def test_what_is_wrong_in_own_trainings_is_one_line(own, line, words, command, refused):
    path = own({"12x(a f)": 2.6, "12x(m2 f)": 2.5})
    path.write_text(path.read_text() + line + "\n")
    assert words in refused([*command, "--evidence", str(path)])


# -- what publications say -------------------------------------------------------------------------


def test_the_command_lists_and_compares(own, capsys):
    assert main(["evidence", "a f", "m2 f", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["publications"]) == 14
    assert [each["source"] for each in found["mixes"]["said"]] == [
        "2405.21060",
        "2506.05233",
        "2604.03444",
        "2603.15569",
    ]
    assert main(["evidence", "a f", "m2 f", "--evidence", str(own(AGAINST))]) == 0
    out, err = capsys.readouterr()
    assert "own trainings" in out
    assert "'m2 f' less 'a f'" in out
    assert not err
    assert main(["evidence"]) == 0
    assert "nats per token at equal size" not in capsys.readouterr().out


@every(
    case=[
        (["a f"], "MIX must be two mixes, such as 'a f' 'm2 f', or none; got 1"),
        (["a f", "q"], "operator must be one of a, swa"),
        (["f f", "a f"], "a mix must have at least one token mixer, such as 'a f'; got 'f f'"),
        (["a f", "2048: m2 f"], "2048"),
    ]
)
def test_what_the_user_got_wrong_is_one_line(case, refused):
    words, expected = case
    assert expected in refused(["evidence", *words])


# -- what is expected of one network ---------------------------------------------------------------


def test_the_transformer_is_as_good_as_its_kind_at_the_best_depth():
    found = [
        expected(Architecture.parse(f"2048: {depth}x(a(qk_norm=true) f)"), 1e11)
        for depth in range(16, 80, 6)
    ]
    differences = [each.full_loss_difference for each in found]
    assert (
        abs(min(differences)) < 0.005
    )  # heads round at widths, and with them the share of attention
    best = found[int(np.argmin(differences))]
    assert best.full_loss_sd < 0.003
    assert abs(best.recall) < 0.01
    assert best.outside == ()
    wide = expected(Architecture.parse("4096: 4x(a(qk_norm=true) f)"), 1e11)
    assert wide.full_loss_difference > 0.03
    assert wide.full_loss_of_shape == pytest.approx(wide.full_loss_difference, abs=0.01)
    assert abs(best.full_loss_of_shape) < 0.005


def test_an_estimate_asks_the_evidence_when_it_is_read():
    found = fn.estimate("2048: 12x(m2 f)")
    assert "expected" not in vars(found)
    answer = expected(Architecture.parse("2048: 12x(m2 f)"), 1e11)
    assert (found.full_loss, found.outside) == (answer.full_loss, answer.outside)
    assert found.to_dict()["full_loss_sd"] == answer.full_loss_sd


def test_an_estimate_has_the_loss_to_expect(own, capsys, refused):
    assert main(["estimate", "2048: 12x(m2 f)", "--train-tokens", "2T", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"] > 0
    assert found["train_tokens"] == 2e12
    assert found["outside"] == ["2T training tokens; publications have 7B to 350B"]
    assert found["recall"] < -0.05
    assert main(["estimate", "2048: 12x(m2 f)", "--evidence", str(own(AGAINST))]) == 0
    out, err = capsys.readouterr()
    assert "nats per token after 100B tokens" in out
    assert "of it by width against depth" in out
    assert not err
    for wrong in ("many", "0", "-5B", "1e30", "nan"):
        line = refused(["estimate", "2048: 12x(m2 f)", f"--train-tokens={wrong}"])
        assert "--train-tokens must be a number of tokens from 1 to 1000T, such as 100B;" in line
