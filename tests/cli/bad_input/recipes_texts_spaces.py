"""Bad input of a search in its files: recipes, texts, tokenizers and spaces."""

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

# -- recipes ---------------------------------------------------------------------------------------

for name, change, *expect in (
    ("unknown-key", {"curve_pionts": 3}, "curve_pionts", "curve_points"),
    ("curve-points-1e9", {"curve_points": 10**9}, "curve_points"),
    ("vocab-1e9", {"vocab": 10**9}, "vocab", "1000000000|1,000,000,000"),
    ("tokens-huge", {"tokens": 10**20}, "tokens", HUGE),
    ("rate-nan", {"muon_lr": float("nan")}, "muon_lr", "nan"),
    ("steps-huge", {"muon_steps": 10**9}, "muon_steps"),
    ("batch-huge", {"batch_sequences": 10**12}, "batch_sequences|tokens|short"),
    ("width-factor-no-divisor", {"width_factor": 3}, "width", "3", "32|64"),
    ("cuda", {"device": "cuda"}, "cuda"),
    ("tasks-of-earlier-versions", {"tasks": {"steps": 3}}, "tasks"),
    ("family", {"lr_multipliers": {"attention": 2}}, "lr_multipliers", "attention"),
):
    deep = name in ("curve-points-1e9", "vocab-1e9", "tokens-huge", "steps-huge", "batch-huge")
    case(
        f"search-recipe-{name}",
        search("--recipe", "recipe.yaml"),
        *expect,
        files=[recipe(**change)],
        apart=deep,
    )
    if (deep and name != "vocab-1e9") or name in ("unknown-key", "width-factor-no-divisor", "cuda"):
        case(
            f"train-recipe-{name}",
            train("--recipe", "recipe.yaml"),
            *expect,
            files=[recipe(**change)],
            apart=deep,
        )
case(
    "search-recipe-folder",
    search("--recipe", "{tmp}/full"),
    "full",
    files=[folder("full", PRECIOUS)],
)

# -- corpora and tokenizers ------------------------------------------------------------------------

for name, where, builders, *expect in (
    ("missing", "nowhere", (), "nowhere"),
    ("name", "stotu", (), "stotu", "sotu"),
    ("suffix", "{tmp}/a.pdf", (write("a.pdf", "x"),), ".pdf"),
    ("binary", "{tmp}/a.txt", (garbage("a.txt"),), "a.txt", "UTF-8"),
    ("blank", "{tmp}/a.txt", (write("a.txt", " \n\n "),), "a.txt"),
    ("short", "{tmp}/a.txt", (write("a.txt", "one line"),), "a.txt", "short"),
    ("folder-without-text", "{tmp}/full", (folder("full", "a.bin"),), "full"),
    ("json", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": "a"}\n{"text": '),), "a.jsonl:2"),
    (
        "json-column",
        "{tmp}/a.jsonl#body",
        (write("a.jsonl", '{"text": "a"}'),),
        "a.jsonl:1",
        "body",
    ),
    ("json-nested", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "[" * 100_000),), "a.jsonl:1"),
    (
        "json-digits",
        "{tmp}/a.jsonl",
        (write("a.jsonl", '{"text": ' + "9" * 5000 + "}"),),
        "a.jsonl:1",
    ),
    ("hub-parts", "hf:a:b:c:d", (), "hf:a:b:c:d"),
    ("long-name", "x" * 300, (), "xxxx"),
):
    case(f"search-data-{name}", search("--data", where), *expect, files=builders)
    if name in ("missing", "binary", "short", "json-nested"):
        case(f"train-data-{name}", train("--data", where), *expect, files=builders)


def tokens(vocab, unknown):
    """A tokenizer of whole words."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": unknown},
    }


EQUAL = write("equal.txt", "a" * 400_000)
case(
    "search-data-equal", search("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True
)
case("train-data-equal", train("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL], apart=True)
for name, where, builders, *expect in (
    ("missing", "nowhere.json", (), "nowhere.json"),
    ("mapping", "{tmp}/t.json", (write("t.json", {}),), "t.json"),
    ("no-tokens", "{tmp}/t.json", (write("t.json", tokens({}, "x")),), "t.json"),
    (
        "huge-id",
        "{tmp}/t.json",
        (write("t.json", tokens({"a": 0, "b": 4_000_000_000}, "a")),),
        "t.json|vocab",
    ),
):
    apart = name in ("no-tokens", "huge-id", "garbage", "mapping")
    case(
        f"search-tokenizer-{name}",
        search(),
        *expect,
        files=builders,
        apart=apart,
        keys={"tokenizer": where},
    )
    case(
        f"train-tokenizer-{name}", train("--tokenizer", where), *expect, files=builders, apart=apart
    )
    case(
        f"export-tokenizer-{name}",
        export("--tokenizer", where),
        *expect,
        files=builders,
        apart=apart,
    )
case(
    "train-tokenizer-too-large",
    train("--tokenizer", "{training}/final/tokenizer.json", arch="32(vocab=260): a(head_dim=16)"),
    "tokenizer.json",
    "260",
)

# -- spaces ----------------------------------------------------------------------------------------

for name, builder, *expect in (
    ("no-template", write("space.yaml", {"widths": [32]}), "space.yaml:1", "template"),
    ("template", space(template="four_stage"), "space.yaml:1", "four_stage"),
    ("unknown-key", space(width=[32]), "space.yaml", "'width'", "widths"),
    (
        "without-widths",
        write("space.yaml", {"template": "three_stage", "blocks": SPACE["blocks"]}),
        "widths",
    ),
    ("widths-descend", space(widths=[64, 32]), "space.yaml", "32", "64"),
    ("width-23-digits", space(widths=[int(LONG)]), "width", LONG),
    ("mixer-unknown", blocks(mixers=["q"]), "'q'"),
    ("mixer-ffn", blocks(mixers=["f"]), "mixers", "'f'"),
    ("mixer-no-divisor", blocks(mixers=["a(head_dim=24)"]), "24", "32"),
    ("ratio", blocks(ratios=["2:9"]), "ratios", "2:9"),
    ("repeats-huge", space(repeats=[1, 10**20]), "repeats", HUGE),
    ("cap-huge", space(max_operators=10**20), "max_operators", HUGE),
    ("cap-small", space(max_operators=3), "max_operators", "3"),
    ("vocab-huge", space(model={"vocab": 10**20}), "vocab|n=|512", HUGE),
    (
        "bomb-in-widths",
        write("space.yaml", bomb("template: three_stage\nwidths: *a8\nblocks: {}\n")),
        "space.yaml",
    ),
    ("nested", write("space.yaml", "[" * 5000), "space.yaml"),
    ("depth-huge", layers(depth=10**9), "depth", "1000000000"),
    ("choice-huge", layers(choices=["4000x(a)"]), "4000|12000|choices"),
):
    words = (wide if name == "choice-huge" else search)("--space", "space.yaml")
    case(f"search-space-{name}", words, *expect, files=[builder])
WIDE = {**SPACE, "blocks": {**SPACE["blocks"], "mixers": ["a"]}}
VERY_WIDE = write("space.yaml", {**WIDE, "widths": [1_600_000_000_000_000]})
MANY_WIDE = write("space.yaml", {**WIDE, "widths": list(range(128, 12_800_128, 128))})
for command, words in (
    ("search", wide("--space", "space.yaml")),
    ("profile", profile("--space", "space.yaml")),
    ("validate", validate("--space", "space.yaml")),
):
    case(
        f"{command}-space-width-1.6e15",
        words,
        "widths|space.yaml",
        "1600000000000000",
        files=[VERY_WIDE],
        apart=True,
    )
    case(f"{command}-space-missing", [*words, "--space", "nowhere.yaml"], "nowhere.yaml")
case(
    "search-space-100000-widths",
    wide("--space", "space.yaml"),
    "widths",
    files=[MANY_WIDE],
    apart=True,
)
