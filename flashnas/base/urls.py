"""URLs in what is printed or recorded."""

import re

# up to the last @: one inside may not be escaped
PASSWORD = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
PARAMETER = re.compile(r"(?<=[?&])(ssl)?password=[^&#]*&?", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A message with its URLs without their passwords."""
    return " ".join(map(without_password, text.split(" ")))


def without_password(url: str) -> str:
    """A URL without its password, `postgresql://me@host/name`; any other text as it is."""
    if "://" not in url:
        return url
    plain = PASSWORD.sub(r"\1@", url)
    shorter = PARAMETER.sub("", plain)
    return plain if shorter == plain else shorter.rstrip("?&")
