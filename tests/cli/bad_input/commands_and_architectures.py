"""Bad input: the command line itself, architectures as notation and as files, and what `estimate`
takes.
"""

import json

from bad_input.words import (
    ARCH,
    CHAT,
    DELTA,
    HUGE,
    LLAMA,
    PRECIOUS,
    bomb,
    case,
    estimate,
    export,
    folder,
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
case(
    "estimate-missing-file",
    ["estimate", "nowhere/01.yaml"],
    "nowhere/01.yaml: cannot be read: No such file",
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
    ("bench", ["bench", "info"]),
):
    case(f"{command}-unknown-flag", [*right, "--colour"], "--colour")
    case(f"{command}-surplus-word", [*right, "surplus"], "surplus")
for command in ("estimate", "train"):
    case(f"{command}-without-words", [command], "required", command)


# -- architectures: notation -----------------------------------------------------------------------

for name, text, *expect in (
    ("unknown-operator", "2048: d q f", "'q'"),
    ("no-operators", "2048:", "operators"),
    ("width-1.6e15", "1600000000000000: a", "1600000000000000"),
    ("repeat-huge", "2048: 99999999999x(d)", "99999999999"),
    ("repeat-nested", "2048: 64x(64x(64x(d)))", "64"),
    ("option-unknown", "2048: a(headz=3)", "headz", "heads"),
    ("not-a-preset", "Nemotron-Flash-1", "Nemotron-Flash-1B"),
    ("zero-byte", "no\0file.yaml", "file.yaml"),
    ("very-long", "x" * 100_000, "xxxx"),
):
    case(
        f"arch-{name}",
        estimate(text),
        *expect,
    )


# -- architectures: files --------------------------------------------------------------------------

for name, content, *expect in (
    ("unknown-key", "architecture: {hidden: 64, widht: 3, operators: [f]}", "arch.yaml:1", "widht"),
    ("bomb", bomb("architecture: *a8"), "arch.yaml", "aliases"),
):
    case(f"arch-file-{name}", estimate("arch.yaml"), *expect, files=[write("arch.yaml", content)])
case(
    "arch-folder-without-config",
    estimate("{tmp}/full"),
    "config.json",
    files=[folder("full", PRECIOUS)],
)

for name, content, *expect in (("truncated", json.dumps(LLAMA)[:60], "config.json:1"),):
    case(
        f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", content)]
    )
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

# -- estimate: table, workload, stack --------------------------------------------------------------

case("estimate-table-missing", estimate("1024: d", "--table", "h100_sx"), "h100_sx", "h100_sxm")
case(
    "estimate-table-empty-folder",
    estimate("1024: d", "--table", "{tmp}/full"),
    "full",
    files=[folder("full", PRECIOUS)],
)
case(
    "estimate-weights-nobody-measured",
    estimate("1024: d", "--table", "a100_sxm", "--weights", "fp8"),
    "no matrix products with weights in fp8",
    "h100_sxm",
)

case(
    "estimate-weights-of-operators",
    estimate(DELTA, "--table", "{table}", "--workload", CHAT, "--weights", "fp8"),
    "no matrix products with weights in fp8",
)

case(
    "estimate-not-covered",
    estimate("48: d(head_dim=16)", "--table", "{table}", "--workload", CHAT),
    "48",
    "profile",
)
for name, text, *expect in (
    ("name", "decode-9k", "decode-9k", "decode-8k"),
    ("dtype-not-there", "generated=5,dtype=float16", "float16"),
):
    case(f"workload-{name}", estimate(DELTA, "--table", "{table}", "--workload", text), *expect)
for name, content, *expect in (("wrong-key", "promt_tokens: 5", "w.yaml:1", "promt_tokens"),):
    case(
        f"workload-file-{name}",
        estimate(ARCH, "--table", "{table}", "--workload", "w.yaml"),
        *expect,
        files=[write("w.yaml", content)],
    )
case("profile-workload-huge", profile("--workload", f"prompt={HUGE}"), HUGE)
case(
    "validate-workload-not-covered",
    validate("--workload", "batch=1,prompt=9,generated=9"),
    "profile|batch=1,prompt=9",
)
