import pytest
from run_builder import write_answered_run

from flashnas.run_folder.recorded_run import RecordedRun


@pytest.fixture(scope="session")
def runs(tmp_path_factory, run):
    """The recorded run, and those of its trials with an answer: after trainings, and without."""
    folder = tmp_path_factory.mktemp("answered")
    return {
        "plain": run,
        **{
            name: RecordedRun.load(write_answered_run(folder / name / "demo", trained=trained))
            for name, trained in (("trained", True), ("untrained", False))
        },
    }
