"""Trackers: what one is told, one that fails, and what the shipped ones write, read back from their files."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashnas.base.errors import ConfigError
from flashnas.tracking import TRACKERS, Tracker, Trackers

CONFIG = "name: a\nspace:\n  name: tiny\nbudgets: {latency_ms: 60.0}\n"


TOLD = []


class Recorded(Tracker):
    """Keeps what it is told; `FAIL` names the method that raises."""

    FAIL = ""

    def __init__(self, folder):
        super().__init__(folder)
        self.told = TOLD

    def _tell(self, *call):
        if call[0] == self.FAIL:
            raise RuntimeError(f"no {call[0]}\nat all")
        self.told.append(call)

    def start(self, config):
        print("noise of a library")
        self._tell("start", config)

    def log(self, metrics, step):
        self._tell("log", dict(metrics), step)

    def artifact(self, path):
        self._tell("artifact", path.name)

    def finish(self, status):
        self._tell("finish", status)


class Failing(Recorded):
    FAIL = "log"


@pytest.fixture
def config(tmp_path, monkeypatch):
    TOLD.clear()
    monkeypatch.setitem(TRACKERS.shipped, "recorded", f"{__name__}:Recorded")
    monkeypatch.setitem(TRACKERS.shipped, "failing", f"{__name__}:Failing")
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


def write(names, config, note=None):
    """A short run."""
    trackers = Trackers(names, config, note or (lambda text: None))
    with trackers.finishing(lambda: [config, config.parent / "missing.png"]):
        for step in range(1, 4):
            trackers.log({"train/loss": 5.0 - step, "train/nothing": None, "train/nan": float("nan")}, step)
    return trackers


def test_a_tracker_is_told_of_finite_figures_and_files_and_the_end(config, capsys):
    write(["recorded"], config)
    assert [("start", {"name": "a", "space": {"name": "tiny"}, "budgets": {"latency_ms": 60.0}}),
                    *(("log", {"train/loss": 5.0 - step}, step) for step in (1, 2, 3)),
                    ("artifact", "run.yaml"), ("finish", "finished")] == TOLD
    assert capsys.readouterr().out == ""


def test_one_that_fails_is_one_line_and_the_others_go_on(config):
    lines = []
    write(["failing", "recorded"], config, lines.append)
    assert lines == ["tracker failing failed and is left out: RuntimeError: no log"]
    assert TOLD[-1] == ("finish", "finished")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_whatever_ends_a_run_is_its_status(config, error, status):
    trackers = Trackers(["recorded"], config, lambda text: None)

    def run():
        with trackers.finishing(list):
            trackers.log({"loss": 1}, 1)
            raise error

    with pytest.raises(error):
        run()
    assert TOLD[-1] == ("finish", status)


def test_a_run_that_never_began_is_not_recorded(config):
    with Trackers(["recorded"], config, print).finishing(list):
        pass
    assert TOLD == []


def test_a_missing_library_is_a_line_with_its_extra(config, monkeypatch):
    wrong = []
    for name in ("trackio", "tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        try:
            Trackers([name], config, print)
        except ConfigError as error:
            if str(error) != f"tracker {name!r} needs the package {name}: pip install 'flashnas[{name}]'":
                wrong.append(str(error))
        else:
            wrong.append(name)
    assert not wrong


# -- what is written, read back ------------------------------------------------------------------------------


def test_tensorboard(config):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(["tensorboard"], config)
    events = EventAccumulator(str(config.parent / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 4), (2, 3), (3, 2)]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "name: tiny" in text


def read_trackio(folder, name):
    from trackio.sqlite_storage import SQLiteStorage

    return [(row["step"], row["train/loss"]) for row in SQLiteStorage.get_logs("flashnas", name)]


def read_mlflow(folder, name):
    import mlflow

    client = mlflow.MlflowClient()
    run, = client.search_runs([client.get_experiment_by_name("flashnas").experiment_id])
    assert run.data.params["space.name"] == "tiny"
    assert (run.info.run_name, run.info.status) == (name, "FINISHED")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["run.yaml"]
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]


def read_wandb(folder, name):
    from wandb.proto.wandb_internal_pb2 import Record

    file, = (folder / "wandb").glob("offline-run-*/*.wandb")
    data, place, values = file.read_bytes(), 7, []
    while place < len(data):  # of a LevelDB log: checksum, length, kind, record; small ones are never split
        length = int.from_bytes(data[place + 4:place + 6], "little")
        record = Record.FromString(data[place + 7:place + 7 + length])
        figures = {item.key or item.nested_key[0]: float(item.value_json) for item in record.history.item
                   if not (item.key or item.nested_key[0]).startswith("_")}
        values += [(figures["step"], figures["train/loss"])] if figures else []
        place += 7 + length
    assert (file.parent / "files" / "run.yaml").read_text() == CONFIG
    return values


@pytest.mark.slow  # some seconds for the import of each library, and its own processes
@pytest.mark.parametrize("name", ["trackio", "mlflow", "wandb"])
def test_the_larger_trackers(name, config, tmp_path):
    """In a process of its own, so that the places of their files are its own."""
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    script = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path;"
              f"import test_trackers as t; t.write([{name!r}], Path({str(config)!r}), t.refuse);"
              f"values = t.read_{name}(Path({str(tmp_path)!r}), {tmp_path.name!r}); print(values)")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path,
                           env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline",
                                "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    assert child.returncode == 0, child.stderr
    assert ast.literal_eval(child.stdout.splitlines()[-1]) == [(1, 4), (2, 3), (3, 2)]


def refuse(text):
    raise AssertionError(text)
