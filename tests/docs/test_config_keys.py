"""docs/search.md lists every option of a search that has no flag, as the option is declared."""

from documents import ROOT

from flashnas.base.settings import settings_of
from flashnas.cli.options import flags_of, help_of
from flashnas.cli.run import SearchCommandOptions

FLAGS = (
    "config",
    "json",
    "space",
    "table",
    "workload",
    "calibration",
    "runtime",
    "params",
    "min-layers",
    "vocab",
    "budget-ms",
    "budget",
    "objectives",
    "train-tokens",
    "train-anyway",
    "evidence",
    "min-recall",
    "sampler",
    "trials",
    "seed",
    "recipe",
    "data",
    "tokens",
    "executor",
    "executor-option",
    "workers",
    "start-from",
    "out",
    "resume",
    "dry-run",
)


def test_the_keys_without_flags_are_listed():
    page = (ROOT / "docs" / "search.md").read_text()
    table = page.partition("## Keys of a configuration file")[2].partition("\n## ")[0]
    expected = []
    for setting in settings_of(SearchCommandOptions):
        if not setting.flagged:
            switch = f" (default: {str(setting.default).lower()})" if setting.is_switch else ""
            expected.append(f"| `{setting.name}` | {help_of(setting)}{switch} |")
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected
    assert len(expected) > 10


def test_the_command_has_flags_for_the_others_alone():
    shown = {
        "config",
        "json",
        *(
            flag.removeprefix("--")
            for setting in settings_of(SearchCommandOptions)
            for flag in flags_of(setting)
        ),
    }
    assert shown == set(FLAGS)
