"""A database that goes away for a while: its address, and how to wait until it is back."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.base.hints import duration, first_line, shown_path
from flashnas.base.urls import without_password

T = TypeVar("T")
LONGEST_S = 600.0       # that a database may be away
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
CREATE_TRIES, CREATE_PAUSE_S = 5, 0.2   # where several processes make the tables at once
EXTRA = "pip install 'flashnas[postgres]'"


def engine_url(url: str) -> str:
    """The URL as SQLAlchemy takes it: `postgresql://` names the driver that the extra `postgres` installs.
    Raises ConfigError if it is not a URL of a database, or the driver is missing."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        hint = f"; {EXTRA}" if url.startswith("postgres") else ""
        raise ConfigError(f"storage {shown_url(url)}: needs the package {error.name}{hint}") from None
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigError(f"storage {shown_url(url)}: must be the URL of a database, such as"
                          f" postgresql://host/name or sqlite:////shared/a.db: {first_line(error)}") from None
    if "@" in (parsed.host or ""):
        raise ConfigError(f"storage {shown_url(url)}: an @ in the password must be written as %40")
    return parsed.render_as_string(hide_password=False)


def shown_url(url: str) -> str:
    """The URL for a message: without its password, in one line."""
    return shown_path(without_password(url))


def is_outage(error: Exception) -> bool:
    """True for an error of the database or of the way to it, which the next attempt may not meet."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return False
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    cause = _cause(error)
    return isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and bool(cause.connection_invalidated))


def created(make: Callable[[], T]) -> T:
    """What `make()` returns, which makes tables unless they are there, as another process may at the same
    time."""
    for _ in range(CREATE_TRIES - 1):
        try:
            return make()
        except Exception as error:  # SQLAlchemy's, and Optuna's own
            if not any(words in str(error) for words in ("exist", "locked", "duplicate key")):
                raise
            time.sleep(CREATE_PAUSE_S)
    return make()


class Patience:
    """Repeats what a database refuses, with growing pauses and a line for the user, for at most LONGEST_S.
    place: names the database, without its password."""

    def __init__(self, place: str, note: Callable[[str], None]) -> None:
        self.place, self.note = place, note

    def __call__(self, action: Callable[[], T], longest_s: float | None = None) -> T:
        """What `action()` returns, once the database answers; raises WorkerError if it was away for too
        long."""
        limit_s = LONGEST_S if longest_s is None else longest_s
        began: float | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result = action()
            except Exception as error:
                if not is_outage(error):
                    raise
                cause: Any = _cause(error)
                line = first_line(getattr(cause, "orig", None) or cause)  # the database's own words
                now = time.monotonic()
                if began is None:
                    began = now
                    self.note(f"{self.place} does not answer ({line}); trying for {duration(limit_s)}")
                if now - began > limit_s:
                    raise WorkerError(f"{self.place} did not answer for {duration(limit_s)}: {line}; finished"
                                      " work is kept, continue with --resume when it is back") from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if began is not None:
                    self.note(f"{self.place} answers again, after {duration(time.monotonic() - began)}")
                return result


def _cause(error: Any) -> Any:
    """Of Optuna's error of a commit, SQLAlchemy's."""
    return error.__cause__ if type(error).__name__ == "StorageInternalError" and error.__cause__ else error
