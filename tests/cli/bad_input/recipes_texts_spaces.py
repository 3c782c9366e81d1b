"""Bad input of a search in its files: recipes, texts, tokenizers and spaces."""

from __future__ import annotations

from bad_input.words import (
    HUGE,
    LONG,
    PRECIOUS,
    SPACE,
    blocks,
    bomb,
    case,
    export,
    folder,
    garbage,
    layers,
    profile,
    recipe,
    search,
    space,
    train,
    validate,
    wide,
    write,
)

# -- recipes -------------------------------------------------------------------------------------------------

for name, change, *expect in (
        ("unknown-key", {"curve_pionts": 3}, "curve_pionts", "curve_points"),
        ("curve-points-1e9", {"curve_points": 10**9}, "curve_points"),
        ("vocab-1e9", {"vocab": 10**9}, "vocab", "1000000000|1,000,000,000"),
        ("vocab-small", {"vocab": 3}, "vocab", "3"),
        ("tokens-huge", {"tokens": 10**20}, "tokens", HUGE), ("tokens-negative", {"tokens": -1}, "tokens",
                                                              "-1"),
        ("tokens-text", {"tokens": "all"}, "tokens", "all"), ("rate-nan", {"muon_lr": float("nan")},
                                                              "muon_lr", "nan"),
        ("rate-inf", {"adamw_lr": float("inf")}, "adamw_lr", "inf"), ("rate-zero", {"muon_lr": 0}, "muon_lr",
                                                                      "0"),
        ("rate-bool", {"muon_lr": True}, "muon_lr", "True|true"), ("clip-negative", {"clip": -1}, "clip",
                                                                   "-1"),
        ("momentum", {"muon_momentum": 1.0}, "muon_momentum", "1.0"),
        ("steps-huge", {"muon_steps": 10**9}, "muon_steps"),
        ("batch-zero", {"batch_sequences": 0}, "batch_sequences", "0"),
        ("batch-huge", {"batch_sequences": 10**12}, "batch_sequences|tokens|short"),
        ("micro", {"micro_batch_sequences": 3}, "micro_batch_sequences", "3"),
        ("width-factor-zero", {"width_factor": 0}, "width_factor", "0"),
        ("width-factor-no-divisor", {"width_factor": 3}, "width", "3", "32|64"),
        ("optimizer", {"optimizer": "adam"}, "optimizer", "adam"), ("dtype", {"dtype": "float64"}, "dtype",
                                                                    "float64"),
        ("device", {"device": "tpu"}, "device", "tpu"), ("cuda", {"device": "cuda"}, "cuda"),
        ("backend", {"backend": "magic"}, "backend", "magic"), ("tasks-key", {"tasks": {"step": 3}}, "tasks",
                                                                "step"),
        ("tasks-nan", {"tasks": {"muon_lr": float("nan")}}, "tasks", "nan"), ("tasks-list", {"tasks": [3]},
                                                                              "tasks"),
        ("family", {"lr_multipliers": {"attention": 2}}, "lr_multipliers", "attention"),
        ("family-nan", {"lr_multipliers": {"a": float("nan")}}, "lr_multipliers", "nan")):
    deep = name in ("curve-points-1e9", "vocab-1e9", "tokens-huge", "steps-huge", "batch-huge")
    case(f"search-recipe-{name}", search("--recipe", "recipe.yaml"), *expect, files=[recipe(**change)],
         apart=deep)
    if (deep and name != "vocab-1e9") or name in ("unknown-key", "width-factor-no-divisor", "cuda"):
        case(f"train-recipe-{name}", train("--recipe", "recipe.yaml"), *expect, files=[recipe(**change)],
             apart=deep)
case("search-recipe-list", search("--recipe", "recipe.yaml"), "recipe.yaml:1", "list",
     files=[write("recipe.yaml", [3])])
case("search-recipe-garbage", search("--recipe", "recipe.yaml"), "recipe.yaml",
     files=[garbage("recipe.yaml")])
case("search-recipe-folder", search("--recipe", "{tmp}/full"), "full", files=[folder("full", PRECIOUS)])

# -- corpora and tokenizers ----------------------------------------------------------------------------------

for name, where, builders, *expect in (
        ("missing", "nowhere", (), "nowhere"), ("name", "stotu", (), "stotu", "sotu"),
        ("suffix", "{tmp}/a.pdf", (write("a.pdf", "x"),), ".pdf"),
        ("binary", "{tmp}/a.txt", (garbage("a.txt"),), "a.txt", "UTF-8"),
        ("empty", "{tmp}/a.txt", (write("a.txt", ""),), "a.txt"),
        ("blank", "{tmp}/a.txt", (write("a.txt", " \n\n "),), "a.txt"),
        ("short", "{tmp}/a.txt", (write("a.txt", "one line"),), "a.txt", "short"),
        ("empty-folder", "{tmp}/full", (folder("full"),), "full"),
        ("folder-without-text", "{tmp}/full", (folder("full", "a.bin"),), "full"),
        ("json", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": "a"}\n{"text": '),), "a.jsonl:2"),
        ("json-key", "{tmp}/a.jsonl", (write("a.jsonl", '{"txt": "a"}'),), "a.jsonl:1", "text"),
        ("json-number", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": 5}'),), "a.jsonl:1", "5"),
        ("json-column", "{tmp}/a.jsonl#body", (write("a.jsonl", '{"text": "a"}'),), "a.jsonl:1", "body"),
        ("json-nested", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "[" * 100_000),), "a.jsonl:1"),
        ("json-digits", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "9" * 5000 + "}"),), "a.jsonl:1"),
        ("parquet", "{tmp}/a.parquet", (garbage("a.parquet"),), "a.parquet"),
        ("hub-without-name", "hf:", (), "hf:"), ("hub-parts", "hf:a:b:c:d", (), "hf:a:b:c:d"),
        ("long-name", "x" * 300, (), "xxxx")):
    case(f"search-data-{name}", search("--data", where), *expect, files=builders)
    if name in ("missing", "binary", "short", "json-nested"):
        case(f"train-data-{name}", train("--data", where), *expect, files=builders)
EQUAL = write("equal.txt", "a" * 400_000)
case("search-data-equal", search("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True)
case("train-data-equal", train("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True)
for name, where, builders, *expect in (
        ("missing", "nowhere.json", (), "nowhere.json"), ("folder", "{corpus}", (), "{corpus}"),
        ("garbage", "{tmp}/t.json", (garbage("t.json"),), "t.json"),
        ("empty", "{tmp}/t.json", (write("t.json", ""),), "t.json"),
        ("mapping", "{tmp}/t.json", (write("t.json", {}),), "t.json"),
        ("no-tokens", "{tmp}/t.json", (write("t.json", {"version": "1.0", "added_tokens": [], "model": {
            "type": "WordLevel", "vocab": {}, "unk_token": "x"}}),), "t.json"),
        ("huge-id", "{tmp}/t.json", (write("t.json", {"version": "1.0", "added_tokens": [], "model": {
            "type": "WordLevel", "vocab": {"a": 0, "b": 4_000_000_000}, "unk_token": "a"}}),),
         "t.json|vocab")):
    apart = name in ("no-tokens", "huge-id", "garbage", "mapping")
    case(f"search-tokenizer-{name}", search("--tokenizer", where), *expect, files=builders, apart=apart)
    case(f"train-tokenizer-{name}", train("--tokenizer", where), *expect, files=builders, apart=apart)
    case(f"export-tokenizer-{name}", export("--tokenizer", where), *expect, files=builders, apart=apart)
case("train-tokenizer-too-large", train("--tokenizer", "{training}/final/tokenizer.json",
                                        arch="32(vocab=260): a(head_dim=16)"),
     "tokenizer.json", "260")

# -- spaces --------------------------------------------------------------------------------------------------

for name, builder, *expect in (
        ("no-template", write("space.yaml", {"widths": [32]}), "space.yaml:1", "template"),
        ("template", space(template="four_stage"), "space.yaml:1", "four_stage"),
        ("template-list", space(template=[1]), "template"),
        ("unknown-key", space(width=[32]), "space.yaml", "'width'", "widths"), ("without-widths",
                                                                                write("space.yaml", {
            key: value for key, value in SPACE.items() if key != "widths"}), "widths"),
        ("width-negative", space(widths=[-32]), "space.yaml", "-32"), ("width-zero", space(widths=[0]),
                                                                       "widths", "0"),
        ("widths-empty", space(widths=[]), "widths"), ("widths-descend", space(widths=[64, 32]), "space.yaml",
                                                       "32",
                                                       "64"),
        ("widths-equal", space(widths=[32, 32]), "widths", "32"), ("width-text", space(widths=["wide"]),
                                                                   "wide"),
        ("width-fraction", space(widths=[32.0]), "32.0"), ("width-bool", space(widths=[True]), "True|true"),
        ("widths-number", space(widths=32), "widths", "32"), ("width-23-digits", space(widths=[int(LONG)]),
                                                              "width",
                                                              LONG),
        ("mixers-empty", blocks(mixers=[]), "mixers"), ("mixer-unknown", blocks(mixers=["q"]), "'q'"),
        ("mixer-ffn", blocks(mixers=["f"]), "mixers", "'f'"), ("mixer-two", blocks(mixers=["d a"]), "mixers"),
        ("mixer-number", blocks(mixers=[3]), "mixers", "3"), ("mixer-no-divisor",
                                                              blocks(mixers=["a(head_dim=24)"]),
                                                              "24", "32"),
        ("mixers-equal", blocks(mixers=["d", "d"]), "mixers", "d"), ("ffn", blocks(ffn="a(head_dim=16)"),
                                                                     "ffn"),
        ("ratio", blocks(ratios=["2:9"]), "ratios", "2:9"), ("ratio-number", blocks(ratios=[1]), "ratios",
                                                             "1"),
        ("ffns", blocks(ffns_per_mixer=[3]), "ffns_per_mixer", "3"),
        ("ffns-bool", blocks(ffns_per_mixer=[True]), "ffns_per_mixer"),
        ("blocks-list", space(blocks=[1]), "blocks"), ("repeats-descend", space(repeats=[3, 1]), "repeats",
                                                       "3"),
        ("repeats-text", space(repeats="often"), "repeats", "often"),
        ("repeats-huge", space(repeats=[1, 10**20]), "repeats", HUGE),
        ("cap-zero", space(max_operators=0), "max_operators", "0"),
        ("cap-huge", space(max_operators=10**20), "max_operators", HUGE),
        ("cap-small", space(max_operators=3), "max_operators", "3"),
        ("vocab-one", space(model={"vocab": 1}), "vocab", "1"),
        ("vocab-huge", space(model={"vocab": 10**20}), "vocab|n=|512", HUGE),
        ("meta-negative", space(model={"meta_tokens": -1}), "meta_tokens", "-1"),
        ("tied-text", space(model={"tied": "perhaps"}), "tied", "perhaps"),
        ("model-key", space(model={"voacb": 512}), "voacb"),
        ("list", write("space.yaml", [3]), "space.yaml:1", "list"), ("empty", write("space.yaml", ""),
                                                                     "space.yaml"),
        ("garbage", garbage("space.yaml"), "space.yaml", "UTF-8"),
        ("tag", write("space.yaml", "template: !!python/object:os.x {}"), "space.yaml:1"),
        ("bomb", write("space.yaml", bomb("template: three_stage")), "space.yaml"),
        ("bomb-in-widths",
         write("space.yaml", bomb("template: three_stage\nwidths: *a8\nblocks: {}\nmax_operators: 5")),
         "space.yaml"),
        ("nested", write("space.yaml", "[" * 5000), "space.yaml"),
        ("indent", write("space.yaml", "a: 1\n b: 2"), "space.yaml:2"),
        ("depth-huge", layers(depth=10**9), "depth", "1000000000"),
        ("depth-text", layers(depth="deep"), "depth", "deep"),
        ("choices-empty", layers(choices=[]), "choices"), ("choices-equal", layers(choices=["a f", "a f"]),
                                                           "choices",
                                                           "a f"),
        ("choices-without-mixer", layers(choices=["f"]), "choices"), ("choice-unknown",
                                                                      layers(choices=["a q"]), "'q'"),
        ("choice-huge", layers(choices=["4000x(a)"]), "4000|12000|choices")):
    words = (wide if name == "choice-huge" else search)("--space", "space.yaml")
    case(f"search-space-{name}", words, *expect, files=[builder])
WIDE = {**SPACE, "blocks": {**SPACE["blocks"], "mixers": ["a"]}}
VERY_WIDE = write("space.yaml", {**WIDE, "widths": [1_600_000_000_000_000]})
MANY_WIDE = write("space.yaml", {**WIDE, "widths": list(range(128, 12_800_128, 128))})
for command, words in (("search", wide("--space", "space.yaml")), ("profile", profile("--space",
                                                                                      "space.yaml")),
                       ("validate", validate("--space", "space.yaml"))):
    case(f"{command}-space-width-1.6e15", words, "widths|space.yaml", "1600000000000000", files=[VERY_WIDE],
         apart=True)
    case(f"{command}-space-100000-widths", words, "widths", files=[MANY_WIDE], apart=True)
    case(f"{command}-space-missing", [*words, "--space", "nowhere.yaml"], "nowhere.yaml")
