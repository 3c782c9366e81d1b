"""One test per rule: it runs for every case and lists the cases that break the rule."""

import functools
import inspect
import itertools

import pytest


def every(**cases):
    """The test, called with each combination of the cases; what pytest itself passes stays as it
    is.
    """

    def decorate(rule):
        @functools.wraps(rule)
        def test(**fixtures):
            wrong = []
            for values in itertools.product(*cases.values()):
                try:
                    rule(**dict(zip(cases, values, strict=True)), **fixtures)
                except pytest.skip.Exception:
                    continue
                except Exception as error:  # of any kind: the others are wanted too
                    wrong.append(f"{', '.join(map(str, values))}: {type(error).__name__}: {error}")
            assert not wrong, "\n".join(wrong)

        signature = inspect.signature(rule)
        test.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[one for name, one in signature.parameters.items() if name not in cases]
        )
        return test

    return decorate
