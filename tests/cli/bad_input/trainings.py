"""Bad input of `train`, `export` and `eval`."""

from bad_input.words import (
    HUGE,
    LONG,
    PRECIOUS,
    as_file,
    case,
    copied,
    edited,
    export,
    folder,
    newest,
    removed,
    train,
    train_on,
    write,
)

for flag, value in (
    ("--tokens", "5"),
    ("--tokens", HUGE),
    ("--width-factor", "3"),
    ("--threads", "1000000"),
):
    case(f"train{flag}={value}", train(flag, value), flag.strip("-").partition("-")[0], value)
CHECKPOINT = "checkpoint.json"
for name, builders, *expect in (
    ("without-yaml", [removed("training/train.yaml")], "train.yaml"),
    (
        "question-text",
        [edited("training/train.yaml", ["question"], "hi")],
        "train.yaml",
        "question",
    ),
    ("checkpoints-file", [as_file("training/checkpoints")], "checkpoints"),
    (
        "final-foreign",
        [removed("training/final"), folder("training/final", PRECIOUS)],
        "final",
    ),
    ("scalars-list", [newest(CHECKPOINT, lambda file: write(file, "[1]"))], CHECKPOINT),
):
    case(f"train-resume-{name}", train_on(), *expect, files=[copied("training"), *builders])

# -- export and eval -------------------------------------------------------------------------------

for value in ("-1", LONG, "x"):
    case(
        f"export--init-seed={value}",
        export("--init-seed", value, source="32: a(head_dim=16)"),
        "seed",
        value,
    )
case("export-missing", export(source="nowhere"), "nowhere")
case(
    "export-architecture-huge",
    export(source="{tmp}/training/final"),
    "model.safetensors|vocab",
    files=[
        copied("training"),
        edited("training/final/architecture.yaml", ["architecture", "vocab"], 10**15),
    ],
)
for name, words in (
    ("eval", ["--text", "{corpus}"]),
    ("export", ["--to", "hf", "--out", "{tmp}/ex"]),
):
    case(
        f"{name}-record-seed",
        [name, "{tmp}/training", *words],
        "train.yaml",
        "seed",
        "x",
        files=[copied("training"), edited("training/train.yaml", ["question", "seed"], "x")],
    )
