"""The command `search` has these flags; its other options are keys of a file."""

from flashnas.base.settings import settings_of
from flashnas.cli.options import flags_of
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


def test_the_command_has_these_flags_alone():
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
