import pytest

from flashnas.base.urls import without_password, without_passwords


@pytest.mark.parametrize(("url", "shown"), [
    ("postgresql://me:secret@host:5432/name", "postgresql://me@host:5432/name"),
    ("--storage=postgresql+psycopg://me:secret@host/name?sslmode=require",
     "--storage=postgresql+psycopg://me@host/name?sslmode=require"),
    ("postgresql://me:sec/r?et#secret@host/name", "postgresql://me@host/name"),
    ("postgresql://me:my secret@host:port/name", "postgresql://me@host:port/name"),
    ("postgresql://me:p@secret@host/name", "postgresql://me@host/name"),
    ("postgresql://:secret@host/name", "postgresql://@host/name"),
    ("postgresql://host/name?user=me&password=secret", "postgresql://host/name?user=me"),
    ("postgresql://host/name?sslpassword=secret&user=me", "postgresql://host/name?user=me"),
    ("postgresql://host/name?PASSWORD=secret", "postgresql://host/name"),
    *[(same, same) for same in ("postgresql://me@host:5432/name", "sqlite:////home/me/a.db", "a:b@c",
                                "hf:roneneldan/x",
                                "ray://10.0.0.1:10001", "postgresql://host/name?", "")]])
def test_only_the_password_is_left_out(url, shown):
    assert without_password(url) == shown


def test_all_urls_of_a_message_are_without_passwords():
    assert without_passwords("storage postgresql://me:secret@a/b: as  ray://x:secret@c:1; mail me@d") == (
        "storage postgresql://me@a/b: as  ray://x@c:1; mail me@d")
