"""Bad input of a search in its files: recipes, texts, tokenizers and spaces."""

from bad_input.words import (
    HUGE,
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
    ("tokens-huge", {"tokens": 10**20}, "tokens", HUGE),
    ("width-factor-no-divisor", {"width_factor": 3}, "width", "3", "32|64"),
    ("family", {"lr_multipliers": {"attention": 2}}, "lr_multipliers", "attention"),
):
    deep = name in ("curve-points-1e9", "vocab-1e9", "tokens-huge", "steps-huge", "batch-huge")
    case(
        f"search-recipe-{name}",
        search("--recipe", "recipe.yaml"),
        *expect,
        files=[recipe(**change)],
    )
    if (deep and name != "vocab-1e9") or name in ("unknown-key", "width-factor-no-divisor", "cuda"):
        case(
            f"train-recipe-{name}",
            train("--recipe", "recipe.yaml"),
            *expect,
            files=[recipe(**change)],
        )


# -- corpora and tokenizers ------------------------------------------------------------------------

for name, where, builders, *expect in (
    ("missing", "nowhere", (), "nowhere"),
    ("name", "stotu", (), "stotu", "sotu"),
    ("binary", "{tmp}/a.txt", (garbage("a.txt"),), "a.txt", "UTF-8"),
    ("short", "{tmp}/a.txt", (write("a.txt", "one line"),), "a.txt", "short"),
    ("folder-without-text", "{tmp}/full", (folder("full", "a.bin"),), "full"),
    ("json", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": "a"}\n{"text": '),), "a.jsonl:2"),
    ("json-nested", "{tmp}/a.jsonl", (write("a.jsonl", '{"text": ' + "[" * 100_000),), "a.jsonl:1"),
    ("hub-parts", "hf:a:b:c:d", (), "hf:a:b:c:d"),
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
case("search-data-equal", search("--data", "{tmp}/equal.txt"), "equal.txt", files=[EQUAL])

for name, where, builders, *expect in (
    ("missing", "nowhere.json", (), "nowhere.json"),
    ("mapping", "{tmp}/t.json", (write("t.json", {}),), "t.json"),
    (
        "huge-id",
        "{tmp}/t.json",
        (write("t.json", tokens({"a": 0, "b": 4_000_000_000}, "a")),),
        "t.json|vocab",
    ),
):
    case(
        f"search-tokenizer-{name}",
        search(),
        *expect,
        files=builders,
        keys={"tokenizer": where},
    )
    case(f"train-tokenizer-{name}", train("--tokenizer", where), *expect, files=builders)
    case(
        f"export-tokenizer-{name}",
        export("--tokenizer", where),
        *expect,
        files=builders,
    )
case(
    "train-tokenizer-too-large",
    train("--tokenizer", "{training}/final/tokenizer.json", arch="32(vocab=260): a(head_dim=16)"),
    "tokenizer.json",
    "260",
)

# -- spaces ----------------------------------------------------------------------------------------

for name, builder, *expect in (
    ("unknown-key", space(width=[32]), "space.yaml", "'width'", "widths"),
    (
        "without-widths",
        write("space.yaml", {"template": "three_stage", "blocks": SPACE["blocks"]}),
        "widths",
    ),
    ("widths-descend", space(widths=[64, 32]), "space.yaml", "32", "64"),
    ("mixer-unknown", blocks(mixers=["q"]), "'q'"),
    ("mixer-no-divisor", blocks(mixers=["a(head_dim=24)"]), "24", "32"),
    ("repeats-huge", space(repeats=[1, 10**20]), "repeats", HUGE),
    (
        "bomb-in-widths",
        write("space.yaml", bomb("template: three_stage\nwidths: *a8\nblocks: {}\n")),
        "space.yaml",
    ),
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
    )
    case(f"{command}-space-missing", [*words, "--space", "nowhere.yaml"], "nowhere.yaml")
