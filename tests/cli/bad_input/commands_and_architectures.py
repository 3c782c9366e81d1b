"""Bad input: the command line itself, architectures as notation and as files, and what `estimate` takes."""

from __future__ import annotations

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
    law,
    profile,
    search,
    train,
    trust,
    validate,
    write,
)

# -- the command line itself ---------------------------------------------------------------------------------

case("main-nothing", [], "COMMAND")
case("main-empty-word", [""], "flashnas")
case("main-unknown-command", ["serach"], "serach", "search")
case("main-capital-command", ["Search"], "Search", "search")
case("main-unknown-flag", ["--verison"], "COMMAND|--verison")
case("main-command-with-line-end", ["search\nestimate"], "search\\nestimate")
for command, right in (("search", search()), ("estimate", estimate("1024: d")), ("profile", profile()),
                       ("validate", validate()), ("proxy-trust", trust()), ("scaling-law", law()),
                       ("train", train()), ("export", export()),
                       ("report", ["report", "{run}"]), ("table", ["table", "info", "h100_sxm"]),
                       ("bench", ["bench", "info"])):
    case(f"{command}-unknown-flag", [*right, "--colour"], "--colour")
    case(f"{command}-surplus-word", [*right, "surplus"], "surplus")
for command in ("estimate", "train", "export", "report", "table", "bench"):
    case(f"{command}-without-words", [command], "required", command)
case("validate-without-words", ["validate"], "--table", "--space")
case("proxy-trust-without-words", ["proxy-trust"], "--results")
case("scaling-law-without-words", ["scaling-law"], "PATTERN", "--results")

# -- architectures: notation ---------------------------------------------------------------------------------

for name, text, *expect in (
        ("unknown-operator", "2048: d q f", "'q'"), ("no-operators", "2048:", "operators"),
        ("no-width", ": d f", "': d f'"), ("width-zero", "0: d", "hidden", "0"),
        ("width-negative", "-5: d", "-5: d"), ("width-fraction", "2048.5: d", "2048.5"),
        ("width-nan", "nan: d", "nan: d"), ("width-exponent", "1e3: d", "1e3"),
        ("width-22-digits", "9" * 22 + ": d", "9" * 22), ("width-1.6e15", "1600000000000000: a",
                                                          "1600000000000000"),
        ("open-repeat", "2048: 3x(d f", "("), ("closed-twice", "2048: d) f", ")"),
        ("repeat-zero", "2048: 0x(d)", "0"), ("repeat-huge", "2048: 99999999999x(d)", "99999999999"),
        ("repeat-nested", "2048: 64x(64x(64x(d)))", "64"), ("comma-between", "2048: d, f", ","),
        ("option-unknown", "2048: a(headz=3)", "headz", "heads"), ("option-twice", "2048: a(heads=8,heads=8)",
                                                                   "heads"),
        ("option-without-value", "2048: a(heads=)", "heads"), ("option-fraction", "2048: a(heads=0.5)",
                                                               "heads", "0.5"),
        ("option-negative", "2048: a(heads=-1)", "heads", "-1"),
        ("option-nan", "2048: a(rope_theta=nan)", "rope_theta"),
        ("option-inf", "2048: a(rope_theta=inf)", "rope_theta"),
        ("option-text", "2048: a(heads=many)", "heads", "many"),
        ("option-23-digits", f"2048: a(heads={LONG})", "heads", LONG),
        ("option-bool", "2048: a(heads=true)", "heads", "True|true"),
        ("kv-heads", "2048: a(heads=16,kv_heads=3)", "kv_heads", "3"),
        ("head-dim", "100: a(head_dim=16)", "head_dim", "100"), ("odd-head", "70: a(head_dim=7)", "head_dim",
                                                                 "7"),
        ("vocab-one", "2048(vocab=1): d", "vocab", "1"), ("vocab-nan", "2048(vocab=nan): d", "vocab", "nan"),
        ("vocab-huge", f"2048(vocab={HUGE}): d", "vocab|n=", HUGE), ("vocab-23-digits",
                                                                     f"2048(vocab={LONG}): d", LONG),
        ("meta-negative", "2048(meta=-1): d", "meta", "-1"), ("meta-huge", f"2048(meta={HUGE}): d", "meta",
                                                              HUGE),
        ("tied-number", "2048(tied=1): d", "tied", "1"), ("header-unknown", "2048(heads=3): d", "heads"),
        ("experts-top", "1024: moe(experts=4,active=9)", "active|top"),
        ("not-a-preset", "Nemotron-Flash-1", "Nemotron-Flash-1B"), ("empty", "", "''"),
        ("line-end", "Nemotron\nFlash", "Nemotron\\nFlash"),
        ("missing-file-with-line-end", "no\nfile.yaml", "file.yaml"),
        ("zero-byte", "no\0file.yaml", "file.yaml"), ("very-long", "x" * 100_000, "xxxx"),
        ("long-file-name", "x" * 300 + ".yaml", "xxxx"), ("not-utf8-name", "a\udcff.yaml", "udcff")):
    case(f"arch-{name}", estimate(text), *expect, apart=name in ("not-utf8-name", "width-1.6e15",
                                                                 "meta-huge"))
case("train-arch-unknown-operator", train(arch="32: d q f"), "'q'")
case("train-arch-width-1.6e15", train(arch="1600000000000000: a"), "1600000000000000", apart=True)
case("export-arch-vocab-1e12", export("--init-seed", "0", source="32(vocab=1000000000000): a(head_dim=16)"),
     "1000000000000|1,000,000,000,000|memory", apart=True)

# -- architectures: files ------------------------------------------------------------------------------------

for name, content, *expect in (
        ("empty", "", "arch.yaml"), ("list", "- 1024", "arch.yaml", "list"), ("garbage", GARBAGE, "arch.yaml",
                                                                              "UTF-8"),
        ("without-key", "archtecture: x", "arch.yaml", "architecture"), ("number", "architecture: 5",
                                                                         "arch.yaml"),
        ("unknown-key", "architecture: {hidden: 64, widht: 3, operators: [f]}", "arch.yaml:1", "widht"),
        ("operators-number", "architecture: {hidden: 64, operators: 3}", "arch.yaml", "operators", "3"),
        ("hidden-text", "architecture: {hidden: wide, operators: [f]}", "arch.yaml", "hidden", "wide"),
        ("hidden-fraction", "architecture: {hidden: 64.5, operators: [f]}", "hidden", "64.5"),
        ("tied-number", "architecture: {hidden: 64, tied: 3, operators: [f]}", "tied", "3"),
        ("tag", "architecture: !!python/object/apply:os.system ['true']", "arch.yaml:1", "python/object"),
        ("bomb", bomb("architecture: *a8"), "arch.yaml", "aliases"),
        ("tab", "architecture:\t{", "arch.yaml:1|arch.yaml:2"),
        ("itself", "architecture: &a [*a]", "arch.yaml"), ("nested", "architecture: " + "[" * 5000,
                                                           "arch.yaml"),
        ("date", "architecture: 2026-13-45", "arch.yaml"), ("merge", "<<: 5\narchitecture: x",
                                                            "arch.yaml:1")):
    case(f"arch-file-{name}", estimate("arch.yaml"), *expect, files=[write("arch.yaml", content)])
case("arch-folder-without-config", estimate("{tmp}/full"), "config.json", files=[folder("full", PRECIOUS)])
case("arch-folder-of-a-search", estimate("{run}"), "{run}|config.json")

for name, change, *expect in (
        ("type-unknown", {"model_type": "gpt5"}, "model_type", "gpt5"),
        ("type-list", {"model_type": ["llama"]}, "model_type"),
        ("hidden-text", {"hidden_size": "2048"}, "hidden_size", "'2048'"),
        ("hidden-null", {"hidden_size": None}, "hidden_size"),
        ("hidden-zero", {"hidden_size": 0}, "hidden_size", "0"),
        ("hidden-fraction", {"hidden_size": 2048.0}, "hidden_size"),
        ("hidden-list", {"hidden_size": [2048]}, "hidden_size"), ("hidden-bool", {"hidden_size": True},
                                                                  "hidden_size"),
        ("hidden-23-digits", {"hidden_size": int(LONG)}, "hidden_size", LONG),
        ("hidden-inf", {"hidden_size": float("inf")}, "hidden_size", "inf"),
        ("layers-negative", {"num_hidden_layers": -1}, "num_hidden_layers", "-1"),
        ("layers-huge", {"num_hidden_layers": 10**9}, "num_hidden_layers", "1000000000"),
        ("kv-heads", {"num_key_value_heads": 5}, "config.json", "5"),
        ("vocab-zero", {"vocab_size": 0}, "vocab_size", "0"),
        ("rope-nan", {"rope_theta": float("nan")}, "rope_theta", "nan"),
        ("rope-list", {"rope_scaling": [1]}, "rope_scaling"),
        ("rope-type", {"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling", "spiral"),
        ("tied-text", {"tie_word_embeddings": "no"}, "tie_word_embeddings", "'no'"),
        ("activation", {"hidden_act": "step"}, "hidden_act", "step")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json",
                                                                            {**LLAMA, **change})])
for name, content, *expect in (
        ("truncated", json.dumps(LLAMA)[:60], "config.json:1"), ("empty", "", "config.json"),
        ("list", "[1]", "config.json", "list"),
        ("garbage", GARBAGE, "config.json", "UTF-8"), ("no-type", "{}", "model_type"),
        ("twice", '{"model_type": "llama", "model_type": "llama"}', "model_type", "duplicate key"),
        ("nested", '{"a":' * 50_000, "config.json"), ("digits", '{"hidden_size": ' + "9" * 5000 + "}",
                                                      "config.json")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", content)])
for name, config, *expect in (
        ("pattern-3-of-52", {"model_type": "nemotron_h", "hybrid_override_pattern": "M*-",
                             "num_hidden_layers": 52},
         "52", "3"),
        ("pattern-letters", {"model_type": "nemotron_h", "hybrid_override_pattern": "MXM"},
         "hybrid_override_pattern",
         "MXM"),
        ("pattern-number", {"model_type": "nemotron_h", "hybrid_override_pattern": 7},
         "hybrid_override_pattern", "7"),
        ("blocks-of-52", {"model_type": "nemotron_h", "layers_block_type": ["mamba", "attention"],
                          "num_hidden_layers": 52},
         "52", "2"),
        ("mamba-heads", {"model_type": "mamba2", "num_heads": 7, "head_dim": 64, "hidden_size": 2048},
         "num_heads",
         "7"),
        ("mamba-step", {"model_type": "mamba2", "time_step_limit": [0]}, "time_step_limit"),
        ("layer-types-length", {"model_type": "qwen3_5_text", "num_hidden_layers": 4,
                                "layer_types": ["full_attention"]},
         "layer_types", "4", "1"),
        ("layer-types-name", {"model_type": "qwen3_5_text", "num_hidden_layers": 1, "layer_types": ["magic"]},
         "magic"),
        ("text-config", {"model_type": "qwen3_5", "text_config": 5}, "text_config", "5")):
    case(f"hf-{name}", estimate("{tmp}/config.json"), *expect, files=[write("config.json", config)])
case("train-hf-truncated", train(arch="{tmp}/config.json"), "config.json:1", files=[write("config.json",
                                                                                          "{")])
case("train-hf-positions", train(arch="{tmp}/config.json"), "max_position_embeddings", "16",
     files=[write("config.json", {**LLAMA, "hidden_size": 32, "num_attention_heads": 2,
                                  "num_key_value_heads": 1,
                                  "max_position_embeddings": 16})])

# -- estimate: table, workload, stack ------------------------------------------------------------------------

case("estimate-table-missing", estimate("1024: d", "--table", "h100_sx"), "h100_sx", "h100_sxm")
case("estimate-table-file", estimate("1024: d", "--table", "{quick}"), "{quick}")
case("estimate-table-empty-folder", estimate("1024: d", "--table", "{tmp}/full"), "full",
     files=[folder("full", PRECIOUS)])
case("estimate-stack", estimate("1024: d", "--stack", "both"), "stack", "both", "fused")
case("estimate-weights-nobody-measured", estimate("1024: d", "--table", "a100_sxm", "--weights", "fp8"),
     "no matrix products with weights in fp8", "h100_sxm")
case("estimate-weights-type", estimate("1024: d", "--weights", "fp4"), "weights", "fp4", "fp8")
case("estimate-weights-and-workload", estimate("1024: d", "--weights", "fp8", "--workload",
                                               "batch=1,generated=8,dtype=float32"), "--weights fp8",
     "float32")
case("estimate-weights-of-operators", estimate(DELTA, "--table", "{table}", "--workload", CHAT, "--weights",
                                               "fp8"),
     "no matrix products with weights in fp8")
case("search-weights-nobody-measured", search("--table", "a100_sxm", "--weights", "fp8"),
     "no matrix products with weights in fp8", "l40s")
case("estimate-mode", estimate("1024: d", "--mode", "eager"), "mode", "eager", "cuda_graph")
case("estimate-not-covered", estimate("48: d(head_dim=16)", "--table", "{table}", "--workload", CHAT), "48",
     "profile")
for name, text, *expect in (
        ("name", "decode-9k", "decode-9k", "decode-8k"), ("empty", "", "''"),
        ("batch-zero", "batch=0,prompt=3", "batch", "0"),
        ("batch-negative", "batch=-1,prompt=3", "batch", "-1"), ("batch-nan", "batch=nan,prompt=3", "batch",
                                                                 "nan"),
        ("batch-fraction", "batch=1.5,prompt=3", "batch", "1.5"), ("batch-huge", f"batch={HUGE},generated=4",
                                                                   HUGE),
        ("nothing", "prompt=0,generated=0", "prompt_tokens|generated"), ("key", "promt=5", "promt", "prompt"),
        ("twice", "prompt=1,prompt=2", "prompt"), ("no-value", "batch,prompt=3", "batch"),
        ("no-number", "prompt=", "prompt"), ("negative", "prompt=-3", "prompt", "-3"),
        ("prompt-huge", f"prompt={HUGE}", "prompt", HUGE), ("generated-huge", f"generated={HUGE}",
                                                            "generated", HUGE),
        ("generated-23-digits", f"generated={LONG}", "generated", LONG),
        ("dtype", "generated=5,dtype=int8", "dtype", "int8"),
        ("dtype-not-there", "generated=5,dtype=float16", "float16"), ("line-end", "decode\n8k",
                                                                      "decode\\n8k"),
        ("yaml-missing", "nowhere.yaml", "nowhere.yaml")):
    case(f"workload-{name}", estimate(DELTA, "--table", "{table}", "--workload", text), *expect)
for name, content, *expect in (
        ("wrong-key", "promt_tokens: 5", "w.yaml:1", "promt_tokens"),
        ("wrong-type", "prompt_tokens: many", "w.yaml:1", "many"),
        ("nan", "generated_tokens: .nan", "w.yaml:1", "generated_tokens"), ("list", "[5]", "w.yaml:1",
                                                                            "list"),
        ("negative", "generated_tokens: -5", "w.yaml", "-5"), ("garbage", GARBAGE, "w.yaml", "UTF-8")):
    case(f"workload-file-{name}", estimate(ARCH, "--table", "{table}", "--workload", "w.yaml"), *expect,
         files=[write("w.yaml", content)])
case("search-workload", search("--workload", "promt=4"), "promt", "prompt")
case("profile-workload", profile("--workload", "batch=0,prompt=3"), "batch", "0")
case("profile-workload-huge", profile("--workload", f"prompt={HUGE}"), HUGE, apart=True)
case("validate-workload", validate("--workload", "decode-9k"), "decode-9k")
case("validate-workload-not-covered", validate("--workload", "batch=1,prompt=9,generated=9"),
     "profile|batch=1,prompt=9")
