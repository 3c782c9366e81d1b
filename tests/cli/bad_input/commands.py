"""Bad input: the command line itself, and what `estimate`, `profile`, `validate`, `table` and
`bench` take.
"""

from bad_input.words import (
    ARCH,
    CHAT,
    HUGE,
    LLAMA,
    case,
    copied,
    edited,
    estimate,
    export,
    profile,
    search,
    train,
    validate,
    write,
)

# -- the command line itself -----------------------------------------------------------------------


case("main-empty-word", [""], "flashnas")
case("main-unknown-command", ["serach"], "serach", "search")
case("main-command-with-line-end", ["search\nestimate"], "search\\nestimate")
case("estimate-nothing", ["estimate"], "ARCH is required")
case("export-nothing-but-a-source", ["export", "256: d"], "--to and --out are required")
case("table-without-an-action", ["table"], "the following arguments are required: ACTION")
case(
    "doctor-unknown-operator",
    ["doctor", "--operators", "m2,m3"],
    "--operators operator must be one of",
)
case(
    "doctor-out-of-another-kind",
    ["doctor", "--no-test", "--out", "."],
    "--out must end in .json; got '.'",
)
case(
    "search-misspelt-flag",
    ["search", "--buget-ms", "3"],
    "does not know '--buget-ms' (did you mean '--budget-ms'?)",
)
for command, right in (
    ("search", search()),
    ("estimate", estimate("1024: d")),
    ("profile", profile()),
    ("validate", validate()),
    ("train", train()),
    ("export", export()),
    ("report", ["report", "{run}"]),
    ("table", ["table", "info", "h100_sxm"]),
):
    case(f"{command}-unknown-flag", [*right, "--colour"], "--colour")
    case(f"{command}-surplus-word", [*right, "surplus"], "surplus")
for name, words, spelling in (
    ("report", ["report", ""], "RUN"),
    ("evidence", ["evidence", "a f", "--evidence="], "--evidence"),
    ("search", search("--recipe", ""), "--recipe"),
):
    case(f"{name}-empty", words, spelling, "must not be empty; got ''")

# -- estimate --------------------------------------------------------------------------------------

case("estimate-operator", estimate("2048: d q f"), "'q'")
case("estimate-missing-file", estimate("nowhere/01.yaml"), "nowhere/01.yaml: cannot be read")
case("estimate-table-missing", estimate("1024: d", "--table", "h100_sx"), "h100_sx", "h100_sxm")
case(
    "estimate-not-covered",
    estimate("48: d(head_dim=16)", "--table", "{table}", "--workload", CHAT),
    "48",
    "profile",
)
case("estimate-workload", estimate(ARCH, "--workload", "decode-9k"), "decode-9k", "decode-8k")
case(
    "train-hf-positions",
    train(arch="{tmp}/config.json"),
    "max_position_embeddings",
    "16",
    files=[
        write(
            "config.json",
            {
                **LLAMA,
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 16,
            },
        )
    ],
)

# -- tables ----------------------------------------------------------------------------------------

DAMAGED = [copied("table"), edited("table/meta.yaml", ["calibration"], "hello")]
for command, words in (
    ("estimate", estimate(ARCH, "--table", "{tmp}/table", "--workload", CHAT)),
    ("search", search("--table", "{tmp}/table")),
    ("info", ["table", "info", "{tmp}/table"]),
):
    case(f"{command}-table-damaged", words, "meta.yaml", "calibration", "hello", files=DAMAGED)
case("table-info-missing", ["table", "info", "nowhere"], "nowhere")
for source, more, *expect in (
    ("aiconfig", [], "aiconfig"),
    ("aiconfigurator", ["--path", "{tmp}/nowhere.whl"], "nowhere.whl"),
):
    case(
        f"table-import-{source}",
        ["table", "import", source, "h100_sxm", "--out", "{tmp}/out", *more],
        *expect,
    )

# -- profile and validate --------------------------------------------------------------------------

case("profile-workload-huge", profile("--workload", f"prompt={HUGE}"), HUGE)
case("profile-runtime", profile("--runtime", "llama"), "--runtime", "did you mean 'llama.cpp'")
# where the runtime is not installed, the line names what installs it
for words, expect in (
    (("--mode", "eager"), "--mode is for --runtime torch"),
    (("--weights", "q4k"), "--weights|did you mean"),
    (("--cache-type", "q8_0"), "needs --flash-attention"),
    (("--space", "nemotron_flash"), "llama.cpp cannot hold this network"),
):
    case(
        f"profile-llama-cpp{words[0]}",
        ["profile", "--runtime", "llama.cpp", "--out", "{tmp}/out", *words],
        f"{expect}|flashnas[llama-cpp]",
    )
for flag, value in (("-n", "0"), ("-n", HUGE), ("--table", "nowhere")):
    case(f"validate{flag}={value}", validate(flag, value), flag.strip("-"), value)
case("validate-absent-device", validate(table="h100_sxm"), "h100_sxm")
case(
    "validate-workload-not-covered",
    validate("--workload", "batch=1,prompt=9,generated=9"),
    "profile|batch=1,prompt=9",
)
