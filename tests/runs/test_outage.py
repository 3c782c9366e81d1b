"""A database that does not answer, and what is shown of its URL."""

import pytest
import sqlalchemy as sql

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.runs import outage
from flashnas.runs.outage import Patience, engine_url, shown_url


def test_what_a_database_refuses_is_tried_again_and_told_once(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    notes, left = [], [3]

    def action():
        left[0] -= 1
        if left[0] >= 0:
            raise sql.exc.OperationalError("SELECT", {}, Exception("connection refused\nIs it running?"))
        return 5

    assert Patience("database x", notes.append)(action) == 5
    assert notes[0] == "database x does not answer (connection refused); trying for 10 min 00 s"
    assert notes[1].startswith("database x answers again, after")
    assert len(notes) == 2
    left[0] = 10**9
    with pytest.raises(WorkerError, match="database x did not answer for 0 s: connection refused; finished work is"):
        Patience("database x", notes.append)(action, longest_s=0.01)
    with pytest.raises(ZeroDivisionError):
        Patience("database x", notes.append)(lambda: 1 / 0)


def test_a_password_is_not_shown():
    url = "postgresql://flash:secret@host/name"
    assert "secret" not in shown_url(url)
    assert engine_url(url) == "postgresql+psycopg://flash:secret@host/name"
    with pytest.raises(ConfigError) as caught:
        engine_url("postgresql://flash:secret@host:port/name")
    assert "must be the URL of a database" in str(caught.value)
