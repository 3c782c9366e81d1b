"""What a user reads of an error: one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def one_line(
    error: type[BaseException], call: Callable[..., Any], *arguments: Any, **options: Any
) -> str:
    """The message with which the call is refused."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
