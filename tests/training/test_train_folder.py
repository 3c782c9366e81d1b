"""The folder of a training, while it is made and while signals come."""

import pytest

from flashnas.base.errors import RunError
from flashnas.training import folder as folder_module
from flashnas.training.folder import TrainFolder


def opened(path, seed=0):
    return TrainFolder(path, question={"seed": seed}, facts={"started": "today"}, resume=False)


def test_a_training_that_another_process_made_in_the_same_moment_is_not_overwritten(
    tmp_path, monkeypatch
):
    """It is made between the first look at the folder and the lock."""
    really = folder_module.hold_lock

    def late(*words):
        monkeypatch.setattr(folder_module, "hold_lock", really)
        with opened(tmp_path / "out", seed=1):
            pass
        return really(*words)

    monkeypatch.setattr(folder_module, "hold_lock", late)
    with pytest.raises(RunError, match=r"question\.seed is 1, but 0 is asked"):
        opened(tmp_path / "out")


def test_a_training_that_was_killed_while_it_made_its_folder_can_be_started_again(tmp_path):
    (tmp_path / "out").mkdir()
    for name in (".lock", ".train.yaml.1x2y3z"):
        (tmp_path / "out" / name).touch()
    with opened(tmp_path / "out"):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "final", "checkpoints/step-00000001"])
def test_a_folder_that_is_a_link_out_of_a_training_is_refused_and_not_written_to(name, tmp_path):
    with opened(tmp_path / "out"):
        pass
    (outside := tmp_path / "outside").mkdir()
    (outside / "architecture.yaml").write_text("mine")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).symlink_to(outside)
    with pytest.raises(RunError, match=rf"out/{name}: must lie in the folder .*; it is"):
        TrainFolder(tmp_path / "out", question={"seed": 0}, facts={"started": ""}, resume=True)
