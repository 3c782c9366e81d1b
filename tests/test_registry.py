"""Names of shipped objects and of plugins: found lazily, listed without imports, refused in one
line.
"""

import sys
from pkgutil import resolve_name

import pytest
from fake_plugins import run_with, write_plugin
from offenders import every
from one_line import one_line

from flashnas.base.errors import ConfigError, PluginError
from flashnas.base.registry import Registry, forget_plugins
from flashnas.cli.main import main

GROUP = "flashnas.test_things"


def registry(attribute=""):
    return Registry(
        "thing", GROUP, {"path": "pathlib:Path", "join": "os.path:join"}, ConfigError, attribute
    )


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts packages with entry points on sys.path for one test."""
    forget_plugins()

    def install(package, names, *, group=GROUP, **modules):
        folder = write_plugin(
            tmp_path / package,
            package,
            {group: names},
            {f"{name}.py": source for name, source in modules.items()},
        )
        monkeypatch.syspath_prepend(folder)
        forget_plugins()

    yield install
    monkeypatch.undo()
    forget_plugins()


def test_shipped_names_are_loaded_and_in_order():
    from pathlib import Path

    assert registry()["path"] is Path
    assert list(registry()) == ["path", "join"]
    assert len(registry()) == 2
    assert registry().origin("path") == "flashnas"


@every(name=["pathh", "", 3, ["path"], {"path": 1}])
def test_an_unknown_name_is_one_line_of_the_registrys_class(name):
    assert name not in registry()
    assert registry().get(name) is None
    assert registry().get(name, 5) == 5
    for ask in (registry().__getitem__, registry().origin):
        hint = " (did you mean 'path'?)" if name in ("pathh", ["path"]) else ""
        assert (
            one_line(ConfigError, ask, name).removesuffix(hint)
            == f"thing must be one of path, join; got {name!r}"
        )


def test_a_plugin_is_listed_without_being_imported_and_loaded_by_its_name(install):
    install(
        "test-plugin-a",
        {"zeta": "zeta_module:Zeta", "alpha": "zeta_module:Alpha"},
        zeta_module="class Zeta: pass\nclass Alpha: pass\n",
    )
    things = registry()
    assert list(things) == ["path", "join", "alpha", "zeta"]
    assert len(things) == 4
    assert "zeta" in things
    assert things.origin("zeta") == "test-plugin-a"
    assert "zeta_module" not in sys.modules
    assert things["zeta"] is sys.modules["zeta_module"].Zeta


def test_a_plugin_with_a_shipped_name_is_refused_whatever_is_asked(install):
    install("test-plugin-a", {"path": "os:sep"})
    for ask in (list, len, lambda things: things["other"], lambda things: "other" in things):
        assert one_line(PluginError, ask, registry()) == (
            "thing 'path' of the package test-plugin-a has the name of one of"
            " flashnas itself;"
            " uninstall one of the packages"
        )


def test_two_plugins_of_one_name_are_refused_but_one_that_is_found_twice_is_not(install):
    install("test-plugin-a", {"z": "os:sep"})
    install("test-plugin-b", {"z": "os:sep"})
    assert registry()["z"]
    install("test-plugin-c", {"z": "os:linesep"})
    with pytest.raises(
        PluginError,
        match=r"thing 'z' of the package test-plugin-. has the name of one of the package"
        r" test-plugin-.; uninstall one of the packages",
    ):
        registry()["z"]


@pytest.mark.parametrize(
    ("value", "source", "words"),
    [
        (
            "broken_b:Z",
            "raise RuntimeError('no GPU\\nsecond line')\n",
            "cannot be loaded from broken_b:Z: RuntimeError: no GPU",
        ),
        (
            "broken_c:Z",
            "Y = 1\n",
            "cannot be loaded from broken_c:Z: AttributeError: module 'broken_c' has no attribute",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_package_and_reason(
    install, value, source, words
):
    install("test-plugin-a", {"z": value}, **{value.partition(":")[0]: source})
    assert "z" in registry()
    message = one_line(PluginError, registry().__getitem__, "z")
    assert message.startswith(f"thing 'z' of the package test-plugin-a {words}")


def test_an_object_must_state_the_name_of_its_entry_point(install):
    install(
        "test-plugin-a",
        {"good": "kinds:Good", "bad": "kinds:Bad", "none": "os:sep"},
        kinds="class Good:\n    kind = 'good'\nclass Bad:\n    kind = 'worse'\n",
    )
    assert registry("kind")["good"].kind == "good"
    for name, got in (("bad", "'worse'"), ("none", "None")):
        with pytest.raises(
            PluginError, match=f"must be {name!r}, the name of its entry point; got {got}"
        ):
            registry("kind")[name]


# -- the registries of flashnas --------------------------------------------------------------------

OPERATOR = """\
from flashnas.operators.feed_forward.spec import FeedForward
class Wide(FeedForward):
    kind = "wide"
    name = "wide"
"""


def test_a_plugin_operator_is_parsed_and_known_to_spawned_workers(tmp_path):
    folder = write_plugin(
        tmp_path,
        "flashnas-wide",
        {"flashnas.operators": {"wide": "wide_operator:Wide"}},
        {
            "wide_operator.py": OPERATOR,
            "jobs.py": (
                "def count(text):\n"
                "    from flashnas.architecture import Architecture\n"
                "    return Architecture.parse(text).params\n"
            ),
        },
    )
    assert (
        run_with(
            folder,
            """if True:
        import multiprocessing
        from jobs import count
        if __name__ == "__main__":
            text = "64(vocab=100): a(head_dim=16) wide"
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(count, [text]) == count(text) > 0)
        """,
        )
        == "True"
    )


BROKEN = "operator 'zz' of the package flashnas-bad cannot be loaded from bad_operator:Z: "


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_there\n", "ModuleNotFoundError: No module named 'nothing_there'"),
        ("import sys\nsys.exit(7)\n", "SystemExit: 7"),
    ],
)
def test_a_broken_plugin_is_a_warning_for_commands_that_do_not_use_it(
    install, capsys, source, reason
):
    install(
        "flashnas-bad",
        {"zz": "bad_operator:Z"},
        group="flashnas.operators",
        bad_operator=source,
    )
    assert (main(["list", "operators"]), main(["estimate", "2048: zz f"])) == (0, 2)
    lines = capsys.readouterr().err.splitlines()
    assert f"flashnas: {BROKEN}{reason}; it is left out" in lines
    assert lines[-1] == f"flashnas estimate: {BROKEN}{reason}"


def test_a_warning_of_a_plugin_does_not_reach_the_terminal_as_it_is(install, capsys):
    source = "import warnings\nwarnings.warn('\\x1b]0;PWN\\x07')\nZ = 5\n"
    install(
        "flashnas-bad", {"zz": "their_warning:Z"}, group="flashnas.operators", their_warning=source
    )
    main(["list", "operators"])
    assert "flashnas: \\x1b]0;PWN\\x07" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "place",
    [
        "flashnas.operators:OPERATORS",
        "flashnas.operators.kernel_kinds:KERNEL_KINDS",
        "flashnas.samplers:SAMPLERS",
        "flashnas.executors:EXECUTORS",
        "flashnas.space.load:TEMPLATES",
        "flashnas.latency.schema:RUNTIMES",
        "flashnas.exporting.exporter:EXPORTS",
        "flashnas.cli.command:COMMANDS",
    ],
)
def test_a_plugin_of_another_type_is_one_line(install, place):
    things = resolve_name(place)
    install(
        "test-plugin-b",
        {"function": "os:getcwd", "class": "decimal:Decimal", "number": "math:pi"},
        group=things.group,
    )
    for name in ("function", "class", "number"):
        with pytest.raises(
            PluginError, match=f"^{things.noun} '{name}' of the package test-plugin-b: .* must be a"
        ):
            things[name]
