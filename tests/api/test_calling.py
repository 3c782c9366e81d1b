"""Functions that take the options of a dataclass as keywords, and the checks of a folder to
write.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields

import pytest

import flashnas as fn
from flashnas.api.calling import takes, writable_out
from flashnas.base.errors import ConfigError
from flashnas.base.settings import REQUIRED, SettingError, Settings, option


class Flour:
    pass


@dataclass(frozen=True, kw_only=True)
class Bake(Settings, where="bake"):
    flour: str = option(
        REQUIRED, "what to take", positional=True, instance=f"{__name__}:Flour | Callable"
    )
    grams: int = option(500, "how much", min=1)
    out: str | None = option(None, "folder", metavar="DIR")


@takes(Bake)
def bake(options, *, objects, stir=None):
    """Bake.

    Further:
        stir (Callable): how.

    Returns:
        All that it was given.
    """
    return options, objects, stir


def test_options_come_as_keywords_or_whole():
    assert bake("rye", grams=3, stir=1) == (Bake(flour="rye", grams=3), {}, 1)
    assert bake(flour="rye") == (Bake(flour="rye"), {}, None)
    assert bake(Bake(flour="rye"), stir=2) == (Bake(flour="rye"), {}, 2)
    with pytest.raises(ConfigError, match=r"bake has no option 'gram' \(did you mean 'grams'\?\)"):
        bake("rye", gram=3)
    with pytest.raises(SettingError, match=r"^bake\.flour is required"):
        bake()
    with pytest.raises(SettingError, match=r"^bake\.grams must be at least 1; got 0"):
        bake("rye", grams=0)
    with pytest.raises(TypeError, match="too many positional"):
        bake("rye", 3)
    with pytest.raises(TypeError, match="multiple values"):
        bake("rye", flour="wheat")


def test_objects_come_apart_from_the_options():
    @dataclass(frozen=True, kw_only=True)
    class Mix(Settings, where="mix"):
        flour: str = option("rye", "what to take", instance=f"{__name__}:Flour | Callable")
        mill: str = option("stone", "what grinds", instance=f"type[{__name__}:Flour]")

    mix = takes(Mix)(lambda options, *, objects: (options.flour, objects))
    flour = Flour()
    assert mix(flour=flour, mill=Flour) == ("rye", {"flour": flour, "mill": Flour})
    assert mix(flour=print) == ("rye", {"flour": print})
    assert mix(flour="wheat") == ("wheat", {})
    for wrong in (3, Flour):
        with pytest.raises(
            SettingError, match=r"^mix\.flour must be text or Flour \| Callable; got"
        ):
            mix(flour=wrong)
    with pytest.raises(SettingError, match=r"^mix\.mill must be text or type\[Flour\]; got"):
        mix(mill=flour)


def test_signature_and_docstring_are_made_from_the_options():
    assert str(inspect.signature(bake)) == (
        "(flour: 'str | Flour | Callable', *, grams: 'int' = 500, out: 'str | None' = None, stir=None)"
    )
    assert (
        inspect.getdoc(bake)
        == """\
Bake.

Args:
    flour (str | Flour | Callable): what to take.
    grams (int): how much (at least 1).
    out (str | None): folder.
    stir (Callable): how.

Returns:
    All that it was given."""
    )


def test_every_keyword_of_the_search_is_an_option_or_its_own():
    from flashnas.study.config import SearchConfig

    parameters = list(inspect.signature(fn.search).parameters)
    assert parameters == [
        *(field.name for field in fields(SearchConfig)),
        "out",
        "resume",
        "progress",
        "evaluator",
        "scorer",
        "command",
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: (folder / "out").write_text("mine"), "is no folder; choose another"),
        (
            lambda folder: (folder / "out").symlink_to("nowhere"),
            "is no folder; choose another",
        ),
        (
            lambda folder: (folder / "out").mkdir() or (folder / "out" / "x").write_text("mine"),
            "exists and is not empty",
        ),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(SettingError, match=words):
        writable_out(Bake(flour="rye", out=str(tmp_path / "out")), empty=True)
