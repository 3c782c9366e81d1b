"""What a user reads of an error: one line."""

import pytest


def one_line(error, call, *arguments, **options):
    """The message with which the call is refused."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
