"""What the tests of the evidence share: the shipped rows, and a file of own trainings."""

import pytest

from flashnas.evidence.trainings import read_published

HEAD = "group,source,operators,params,tokens,metric,value\n"


@pytest.fixture(scope="session")
def shipped():
    return read_published()


@pytest.fixture
def own(tmp_path):
    """Writes own trainings, from `operators -> loss`; returns their path."""
    def write(losses, name="own.csv", group="mine"):
        path = tmp_path / name
        path.write_text(HEAD + "".join(f"{group},my runs,{operators},400M,50B,val_loss,{loss}\n"
                                       for operators, loss in losses.items()))
        return path
    return write
