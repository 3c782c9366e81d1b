"""Bad input of `search`: its words and files, and the places that commands write to."""

from bad_input.words import (
    PRECIOUS,
    case,
    export,
    folder,
    profile,
    recipe,
    search,
    train,
    validate,
    write,
)

for flag, value, *expect in (
    ("--trials", "many", "trials", "many"),
    ("--budget", "latency=3", "budget", "latency"),
    ("--train-tokens", "0B", "train", "0B"),
    ("--recipe", "cpuu", "recipe", "cpuu"),
    ("--evidence", "{tmp}/missing.csv", "{tmp}/missing.csv", "No such file"),
    ("--config", "c.yaml", "c.yaml"),
    ("--space", "nemotron_flash", "table", "nemotron_flash|1024"),
    ("--budget-ms", "1e-9", "budget", "1e-09"),
):
    case(f"search{flag}={value}", search(flag, value), *expect)
case("search-no-measure", search("--no-measure"), "measure is a key of a file for --config")
for key, value, *expect in (
    ("sampler_options", {"popluation": 3}, "popluation"),
    ("sampler_options", {"seed": 3}, "seed", "keys.yaml:"),
    ("rank_by", "x", "'x'", "keys.yaml:1"),
):
    words = search("--sampler", "aging-evolution")
    case(f"search-{key}={value}", words, *expect, keys={key: value})
case(
    "search-no-trials-by-short",
    search("--trials", "0"),
    "--trials",
    "rank_by full",
    keys={"rank_by": "short"},
)
case(
    "search-executor-ray-nowhere",
    search("--executor", "ray", "--executor-option", "address=127.0.0.1:1"),
    "127.0.0.1:1",
    "does not answer",
)

# -- recipes, texts, tokenizers and spaces ---------------------------------------------------------


def tokens(vocab, unknown):
    """A tokenizer of whole words."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": unknown},
    }


HUGE_ID = write("t.json", tokens({"a": 0, "b": 4_000_000_000}, "a"))
for command, right in (("search", search), ("train", train)):
    case(
        f"{command}-recipe-factor",
        right("--recipe", "recipe.yaml"),
        "width",
        "3",
        "32|64",
        files=[recipe(width_factor=3)],
    )
    case(f"{command}-data-missing", right("--data", "nowhere"), "nowhere")
    case(
        f"{command}-data-short",
        right("--data", "{tmp}/a.txt"),
        "a.txt",
        "short",
        files=[write("a.txt", "one line")],
    )
for command, words, keys in (
    ("search", search(), {"tokenizer": "{tmp}/t.json"}),
    ("train", train("--tokenizer", "{tmp}/t.json"), None),
    ("export", export("--tokenizer", "{tmp}/t.json"), None),
):
    case(f"{command}-tokenizer-missing", words, "t.json", keys=keys)
    case(f"{command}-tokenizer-huge-id", words, "t.json|vocab", files=[HUGE_ID], keys=keys)
for command, right in (("search", search), ("profile", profile), ("validate", validate)):
    case(f"{command}-space-missing", right("--space", "nowhere.yaml"), "nowhere.yaml")

# -- places to write -------------------------------------------------------------------------------

for command, right in (
    ("search", search),
    ("train", train),
    ("profile", profile),
    ("export", export),
):
    for name, where, expect, files in (
        ("below-a-file", "{tmp}/file/below", "file", [write("file", "mine")]),
        ("zero-byte", "{tmp}/a\0b", "out|a\\x00b", []),
        ("foreign", "{tmp}/full", "full", [folder("full", PRECIOUS)]),
    ):
        case(
            f"{command}-out-{name}",
            right("--out", where),
            expect,
            files=files,
            absent=("free room",),
        )
case(
    "search-out-foreign-before-the-corpus",
    search("--out", "{tmp}/full", "--data", "nowhere"),
    "full",
    files=[folder("full", PRECIOUS)],
)
case("train-out-of-a-run", train("--resume", out="{run}"), "{run}")
case("search-out-of-a-training", search("--resume", out="{training}"), "{training}")
