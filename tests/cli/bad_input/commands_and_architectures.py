"""Bad input: the command line itself, architectures as notation and as files, and what `estimate`
takes.
"""

import json

from bad_input.words import (
    ARCH,
    CHAT,
    DELTA,
    GARBAGE,
    HUGE,
    LLAMA,
    LONG,
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
case("table-unknown-action", ["table", "inf"], "invalid choice: 'inf'")
case(
    "doctor-unknown-operator",
    ["doctor", "--operators", "m2,m3"],
    "--operators operator must be one of",
)
case(
    "doctor-unknown-device",
    ["doctor", "--device", "tpu"],
    "--device must be one of auto, cpu, cuda; got 'tpu'",
)
case(
    "doctor-absent-device",
    ["doctor", "--device", "cuda"],
    "torch finds no CUDA device; take --device cpu",
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
case("validate-without-words", ["validate"], "--table", "--space")

# -- architectures: notation -----------------------------------------------------------------------

for name, text, *expect in (
    ("unknown-operator", "2048: d q f", "'q'"),
    ("no-operators", "2048:", "operators"),
    ("width-1.6e15", "1600000000000000: a", "1600000000000000"),
    ("repeat-huge", "2048: 99999999999x(d)", "99999999999"),
    ("repeat-nested", "2048: 64x(64x(64x(d)))", "64"),
    ("option-unknown", "2048: a(headz=3)", "headz", "heads"),
    ("option-23-digits", f"2048: a(heads={LONG})", "heads", LONG),
    ("vocab-huge", f"2048(vocab={HUGE}): d", "vocab|n=", HUGE),
    ("meta-huge", f"2048(meta={HUGE}): d", "meta", HUGE),
    ("not-a-preset", "Nemotron-Flash-1", "Nemotron-Flash-1B"),
    ("line-end", "Nemotron\nFlash", "Nemotron\\nFlash"),
    ("zero-byte", "no\0file.yaml", "file.yaml"),
    ("very-long", "x" * 100_000, "xxxx"),
    ("long-file-name", "x" * 300 + ".yaml", "xxxx"),
    ("not-utf8-name", "a\udcff.yaml", "udcff"),
):
    case(
        f"arch-{name}",
        estimate(text),
        *expect,
        apart=name in ("not-utf8-name", "width-1.6e15", "meta-huge"),
    )
case("train-arch-width-1.6e15", train(arch="1600000000000000: a"), "1600000000000000", apart=True)
case(
    "export-arch-vocab-1e12",
    export("--init-seed", "0", source="32(vocab=1000000000000): a(head_dim=16)"),
    "1000000000000|1,000,000,000,000|memory",
    apart=True,
)

# -- architectures: files --------------------------------------------------------------------------

for name, content, *expect in (
    ("garbage", GARBAGE, "arch.yaml", "UTF-8"),
    ("unknown-key", "architecture: {hidden: 64, widht: 3, operators: [f]}", "arch.yaml:1", "widht"),
    (
        "tag",
        "architecture: !!python/object/apply:os.system ['true']",
        "arch.yaml:1",
        "python/object",
    ),
    ("bomb", bomb("architecture: *a8"), "arch.yaml", "aliases"),
    ("itself", "architecture: &a [*a]", "arch.yaml"),
    ("nested", "architecture: " + "[" * 5000, "arch.yaml"),
    ("date", "architecture: 2026-13-45", "arch.yaml"),
):
    case(f"arch-file-{name}", estimate("arch.yaml"), *expect, files=[write("arch.yaml", content)])
case(
    "arch-folder-without-config",
    estimate("{tmp}/full"),
    "config.json",
    files=[folder("full", PRECIOUS)],
)

for name, change, *expect in (
    ("type-unknown", {"model_type": "gpt5"}, "model_type", "gpt5"),
    ("hidden-inf", {"hidden_size": float("inf")}, "hidden_size", "inf"),
    ("layers-huge", {"num_hidden_layers": 10**9}, "num_hidden_layers", "1000000000"),
    ("kv-heads", {"num_key_value_heads": 5}, "config.json", "5"),
    ("rope-list", {"rope_scaling": [1]}, "rope_scaling"),
    ("tied-text", {"tie_word_embeddings": "no"}, "tie_word_embeddings", "'no'"),
):
    case(
        f"hf-{name}",
        estimate("{tmp}/config.json"),
        *expect,
        files=[write("config.json", {**LLAMA, **change})],
    )
for name, content, *expect in (
    ("truncated", json.dumps(LLAMA)[:60], "config.json:1"),
    ("twice", '{"model_type": "llama", "model_type": "llama"}', "model_type", "duplicate key"),
    ("nested", '{"a":' * 50_000, "config.json"),
    ("digits", '{"hidden_size": ' + "9" * 5000 + "}", "config.json"),
):
    case(
        f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", content)]
    )
for name, config, *expect in (
    (
        "pattern-letters",
        {"model_type": "nemotron_h", "hybrid_override_pattern": "MXM"},
        "hybrid_override_pattern",
        "MXM",
    ),
    (
        "layer-types-name",
        {"model_type": "qwen3_5_text", "num_hidden_layers": 1, "layer_types": ["magic"]},
        "magic",
    ),
    ("text-config", {"model_type": "qwen3_5", "text_config": 5}, "text_config", "5"),
):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", config)])
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
    "estimate-weights-and-workload",
    estimate("1024: d", "--weights", "fp8", "--workload", "batch=1,generated=8,dtype=float32"),
    "--weights fp8",
    "float32",
)
case(
    "estimate-weights-of-operators",
    estimate(DELTA, "--table", "{table}", "--workload", CHAT, "--weights", "fp8"),
    "no matrix products with weights in fp8",
)
case("estimate-mode", estimate("1024: d", "--mode", "eager"), "mode", "eager", "cuda_graph")
case(
    "estimate-not-covered",
    estimate("48: d(head_dim=16)", "--table", "{table}", "--workload", CHAT),
    "48",
    "profile",
)
for name, text, *expect in (
    ("name", "decode-9k", "decode-9k", "decode-8k"),
    ("batch-zero", "batch=0,prompt=3", "batch", "0"),
    ("batch-nan", "batch=nan,prompt=3", "batch", "nan"),
    ("nothing", "prompt=0,generated=0", "prompt_tokens|generated"),
    ("prompt-huge", f"prompt={HUGE}", "prompt", HUGE),
    ("dtype-not-there", "generated=5,dtype=float16", "float16"),
    ("line-end", "decode\n8k", "decode\\n8k"),
):
    case(f"workload-{name}", estimate(DELTA, "--table", "{table}", "--workload", text), *expect)
for name, content, *expect in (
    ("wrong-key", "promt_tokens: 5", "w.yaml:1", "promt_tokens"),
    ("nan", "generated_tokens: .nan", "w.yaml:1", "generated_tokens"),
):
    case(
        f"workload-file-{name}",
        estimate(ARCH, "--table", "{table}", "--workload", "w.yaml"),
        *expect,
        files=[write("w.yaml", content)],
    )
case("profile-workload-huge", profile("--workload", f"prompt={HUGE}"), HUGE, apart=True)
case(
    "validate-workload-not-covered",
    validate("--workload", "batch=1,prompt=9,generated=9"),
    "profile|batch=1,prompt=9",
)
