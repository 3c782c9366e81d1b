"""The store of finished trainings: what a file keeps, what it refuses, and what is trained of a list."""

import json
import os
from dataclasses import dataclass

import pandas as pd
import pytest
from offenders import every
from one_line import one_line

from flashnas.base.errors import BenchError, RunError
from flashnas.executors import Ended
from flashnas.training.store import (
    Pace,
    PlannedTraining,
    TrainingRow,
    TrainingStore,
    read_store,
    read_table,
    train_missing,
)

HEADER = {"flashnas_test": 1}
SCORE = {"loss": 3.0, "bits_per_byte": 2.0, "curve": [[512, 3.0]], "tokens": 512, "tokens_per_s": 9.0, "seconds": 10.0,
         "seed": 0, "proxy_params": 1000, "backends": {"a": "torch"}, "late_loss": 2.5}


@dataclass(frozen=True, kw_only=True)
class Cooked(TrainingRow):
    """A row of these tests."""

    name: str
    width: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.width <= 0:
            raise ValueError(f"width must be above 0; got {self.width:g}")

    @property
    def key(self):
        return self.name, self.seed


def done(name, **changes):
    return Cooked(name=name, **changes).ended(SCORE, "")


def store(tmp_path):
    return TrainingStore(tmp_path / "new" / "s.jsonl", HEADER, Cooked)


# -- the file ------------------------------------------------------------------------------------------------

def test_a_store_gives_back_what_was_added_and_goes_on(tmp_path):
    with store(tmp_path) as first:
        first.add(done("a"))
        first.add(Cooked(name="b", seed=1).ended(None, "out of memory"))
    assert read_store(first.path, Cooked) == (HEADER, [done("a"), Cooked(name="b", seed=1, reason="out of memory")])
    line = json.loads(first.path.read_text().splitlines()[1])
    assert list(line)[:4] == ["name", "width", "seed", "loss"]
    assert line["more"] == {"late_loss": 2.5}
    with store(tmp_path) as again:
        assert again.has(("a", 0))
        assert not again.has(("a", 1))
        again.add(done("c"))
    assert again.frame()["name"].tolist() == ["a", "b", "c"]
    assert again.frame()["loss"].isna().tolist() == [False, True, False]


def test_a_line_that_a_killed_process_left_is_cut_off(tmp_path):
    with store(tmp_path) as first:
        first.add(done("a"))
    whole = first.path.read_text()
    first.path.write_text(whole + '{"name": "b", "lo')
    assert len(read_store(first.path, Cooked)[1]) == 1
    with store(tmp_path):
        pass
    assert first.path.read_text() == whole


def test_one_process_writes_at_a_time_and_its_errors_have_the_class_of_the_store(tmp_path):
    with store(tmp_path) as first, pytest.raises(BenchError, match=r"s\.jsonl: another process is writing to it"), \
            TrainingStore(first.path, HEADER, Cooked, BenchError):
        pass
    with store(tmp_path):
        pass


@pytest.mark.parametrize("put", [lambda path, token: path.symlink_to(token), lambda path, _: os.mkfifo(path)])
def test_a_file_that_is_not_a_regular_one_is_refused_before_anything_is_written(put, tmp_path):
    token = tmp_path / "token"
    token.write_text("hf_SECRETTOKEN")  # one line without its end
    (tmp_path / "new").mkdir()
    put(tmp_path / "new" / "s.jsonl", token)
    with pytest.raises(Exception, match="must be a regular file"), store(tmp_path):
        pass
    assert token.read_text() == "hf_SECRETTOKEN"


@every(case=[
    ("{", "s.jsonl:3: not valid JSON"),
    ("[" * 100_000, "s.jsonl:3: must be nested at most"),
    ("[1]", "s.jsonl:3: training must be a mapping; got [1]"),
    ('{"name": "b", "lose": 1}', "s.jsonl:3: training has no key 'lose' (did you mean 'loss'?)"),
    ('{"loss": 1}', "s.jsonl:3: training needs the key 'name'"),
    ('{"name": "b", "loss": "low"}', "s.jsonl:3: training.loss must be a number or null; got 'low'"),
    ('{"name": "b", "loss": 1, "width": 0}', "s.jsonl:3: width must be above 0; got 0"),
    ('{"name": "b"}', "s.jsonl:3: training needs the key 'loss' where 'reason' is empty"),
    ('{"name": "a", "loss": 1}', "s.jsonl:3: must be another training or seed; this one stands above already"),
])
def test_what_is_wrong_in_a_line_is_one_line_with_its_place(case, tmp_path):
    line, words = case
    path = tmp_path / "s.jsonl"
    path.write_text('{"flashnas_test": 1}\n{"name": "a", "loss": 1}\n' + line + "\n")
    assert words in one_line(RunError, read_store, path, Cooked)


def test_a_file_that_is_no_store_is_one_line(tmp_path):
    path = tmp_path / "s.jsonl"
    for text, words in (("", "an empty file; remove it"), ("[]\n", ":1: the first line must be")):
        path.write_text(text)
        assert words in one_line(RunError, read_store, path, Cooked)
    (tmp_path / "new").write_text("")
    assert "new: cannot be written to: " in one_line(RunError, lambda: store(tmp_path).__enter__())
    (tmp_path / "t.parquet").write_text("x")
    assert "not readable as parquet" in one_line(RunError, read_table, tmp_path / "t.parquet", Cooked)


# -- tables of one's own -------------------------------------------------------------------------------------

def test_a_table_is_read_from_a_store_a_csv_and_parquet(tmp_path):
    with TrainingStore(tmp_path / "t.jsonl", HEADER, Cooked) as kept:
        kept.add(done("a"))
        kept.add(Cooked(name="b", seed=1, reason="diverged"))
    table = kept.frame()[["name", "seed", "loss", "tokens", "width", "reason"]]
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet", index=False)
    for end in ("jsonl", "csv", "parquet"):
        pd.testing.assert_frame_equal(read_table(tmp_path / f"t.{end}", Cooked)[list(table)], table)
    (tmp_path / "t.csv").write_text('name,loss,curve\n"x, y",2.5,"[[1, 2.5]]"\nz,,\n')  # the last one failed
    found = read_table(tmp_path / "t.csv", Cooked)
    assert (found["name"].tolist(), found["seed"].tolist(), found["curve"][0]) == (["x, y", "z"], [0, 0], [[1.0, 2.5]])
    assert found["loss"].isna().tolist() == [False, True]


@every(case=[
    ("name,loss,seed\na,1,0\nb,low,0\n", "t.csv:3: training.loss must be a number or null; got 'low'"),
    ("name,loss,seed\na,1,1.5\n", "t.csv:2: training.seed must be a whole number; got 1.5"),
    ("name,loss\na,1\na,2\n", "t.csv:3: must be another training or seed"),
    ("name,loss\na\n", "t.csv:2: must have 2 cells; got 1"),
    ("name,loss,curve\na,1,[\n", "t.csv:2: curve: not valid JSON"),
    ("", "not a table of trainings: it is empty"), (b"\xff\xfe\n", "cannot be read: not UTF-8 text")])
def test_a_wrong_table_is_one_line(case, tmp_path):
    content, words = case
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in one_line(RunError, read_table, path, Cooked)


# -- training what is missing --------------------------------------------------------------------------------

class Pool:
    """Answers each job in turn with (kind, score, reason)."""

    def __init__(self, *answers):
        self.answers, self.jobs = answers, []

    def run(self, jobs, on_wait=None):
        for key, (kind, result, reason) in zip(jobs, self.answers, strict=False):
            self.jobs.append(jobs[key])
            yield key, Ended(kind=kind, result=result, reason=reason)
            on_wait()


OK = ("done", SCORE, "")


@pytest.fixture
def training(tmp_path):
    """Trains a list of four, of costs 1 to 4, with given answers."""
    planned = [PlannedTraining(Cooked(name=name), name, f"job {name}", cost, "even" if cost % 2 == 0 else "odd")
               for cost, name in enumerate("abcd", start=1)]

    def run(*answers, **options):
        pool = Pool(*answers)
        with store(tmp_path) as opened:
            counts = train_missing(planned, opened, pool, lambda *line: run.shown.append(line),
                                   **{"workers": 1, **options})
        run.jobs, run.rows = pool.jobs, opened.rows
        return counts
    run.shown = []
    run.planned = planned
    return run


def test_failures_are_rows_and_lost_workers_are_tried_again(training):
    counts = training(OK, ("failed", None, "diverged"), ("killed", None, "worker died"), ("memory", None, "memory"))
    assert counts == {"asked": 4, "known": 0, "trained": 1, "failed": 2, "lost": 1}
    assert [row.reason for row in training.rows.values()] == ["", "diverged", "memory"]
    assert training(OK) == {"asked": 4, "known": 3, "trained": 1, "failed": 0, "lost": 0}
    assert training.jobs == ["job c"]
    assert training() == {"asked": 4, "known": 4, "trained": 0, "failed": 0, "lost": 0}


def test_an_error_that_is_not_about_the_network_ends_the_work_and_is_not_a_row(training):
    with pytest.raises(RunError, match="training of 'b' ended with: ModuleNotFoundError: no torch; nothing was rec"):
        training(OK, ("error", None, "ModuleNotFoundError: no torch"))
    assert training(OK, OK, OK)["known"] == 1


def test_what_is_known_elsewhere_is_not_trained(training):
    assert training(OK, OK, OK, known={("b", 0)}) == {"asked": 4, "known": 1, "trained": 3, "failed": 0, "lost": 0}
    assert training.jobs == ["job a", "job c", "job d"]


def test_the_time_left_follows_costs_by_sort_and_the_workers(training):
    training(OK, OK)
    assert training.shown[0] == (0, 4, None)                       # nothing has ended yet
    assert training.shown[1] == (1, 4, pytest.approx(10 * 3 + 10 * 6))   # `even` at the pace of the others
    assert training.shown[3] == (2, 4, pytest.approx(10 * 3 + 5 * 4))
    training(workers=2)                                            # continued: known at once
    assert training.shown[-1] == (2, 4, pytest.approx((10 * 3 + 5 * 4) / 2))
    pace = Pace()
    pace.add(1.0, training.planned[0])
    training(OK, OK, pace=pace)
    assert training.shown[-1] == (4, 4, 0.0)
