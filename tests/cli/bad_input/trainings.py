"""Bad input of `train` and `export`."""

from bad_input.words import (
    HUGE,
    LONG,
    PRECIOUS,
    as_file,
    case,
    copied,
    cut_half,
    edited,
    export,
    folder,
    garbage,
    newest,
    removed,
    replaced,
    train,
    train_on,
    without,
    write,
)

# -- train -----------------------------------------------------------------------------------------

for flag, value in (
    ("--tokens", "5"),
    ("--tokens", HUGE),
    ("--width-factor", "3"),
    ("--threads", "1000000"),
):
    case(
        f"train{flag}={value}",
        train(flag, value),
        flag.strip("-").replace("-", "_").partition("_")[0],
        value,
    )
CHECKPOINT = "checkpoint.json"
for name, builders, *expect in (
    ("log-columns", [replaced("training/log.csv", "gradient_norm", "norm")], "log.csv"),
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
        [as_file("training/final"), removed("training/final"), folder("training/final", PRECIOUS)],
        "final",
    ),
    ("scalars-list", [newest(CHECKPOINT, lambda file: write(file, "[1]"))], CHECKPOINT),
    ("model-garbage", [newest("model.safetensors", garbage)], "model.safetensors"),
    ("optimizer-cut", [newest("optimizer.safetensors", cut_half)], "optimizer.safetensors"),
):
    case(f"train-resume-{name}", train_on(), *expect, files=[copied("training"), *builders])
case(
    "train-resume-scalars-self",
    train_on(),
    CHECKPOINT,
    files=[copied("training"), newest(CHECKPOINT, lambda file: without(file, "self"))],
    absent=("'self'",),
)
case(
    "train-resume-other-seed",
    train_on("--seed", "3"),
    "question.seed",
    "3",
    files=[copied("training")],
)

# -- export ----------------------------------------------------------------------------------------

for flag, value in (("--to", "onnx"),):
    case(f"export{flag}={value}", export(flag, value), flag, value)
for value in ("-1", LONG, "x", "1.5"):
    case(
        f"export--init-seed={value}",
        export("--init-seed", value, source="32: a(head_dim=16)"),
        "seed",
        value,
    )
case("export-missing", export(source="nowhere"), "nowhere")
case("export-without-weights", export(source="32: a(head_dim=16)"), "--init-seed")
case("export-weights-and-seed", export("--init-seed", "1"), "--init-seed")

for name, arch, expect in (
    ("no-attention", "32(vocab=300): m2(head_dim=16) f", "no operator 'a'"),
    ("meta", "32(vocab=300,meta=9): m2(head_dim=16) f a(head_dim=16) f", "9 meta tokens"),
    ("order", "32(vocab=300): m2(head_dim=16) a(head_dim=16) f", "operator 1, 'a'"),
):
    drawn = ["export", arch, "--init-seed", "0", "--out", "{tmp}/out"]
    # where the runtime is not installed, the line names what installs it
    case(f"export-gguf-{name}", [*drawn, "--to", "gguf"], f"{expect}|flashnas[llama-cpp]")
    case(f"export-nemotron-h-{name}", [*drawn, "--to", "nemotron-h"], "Nemotron-H")

for name, builder, *expect in (
    ("weights-cut", cut_half("training/final/model.safetensors"), "model.safetensors"),
    ("weights-missing", removed("training/final/model.safetensors"), "model.safetensors"),
    (
        "architecture-other",
        edited("training/final/architecture.yaml", ["architecture", "hidden"], 64),
        "model.safetensors",
    ),
    (
        "architecture-huge",
        edited("training/final/architecture.yaml", ["architecture", "vocab"], 10**15),
        "model.safetensors|vocab",
    ),
):
    case(
        f"export-{name}",
        export(source="{tmp}/training/final"),
        *expect,
        files=[copied("training"), builder],
    )

# -- eval and export -------------------------------------------------------------------------------

SCORE = ["--text", "{corpus}"]
case("eval-of-nothing", ["eval", "{training}"], "--text")
case(
    "eval-of-an-untrained-run", ["eval", "{run}", *SCORE], "has not been trained", "flashnas train"
)


for name, words in (("eval", SCORE), ("export", ["--to", "hf", "--out", "{tmp}/ex"])):
    for file, builder, *expect in (
        (
            "results-number",
            write("training/final/eval.json", '{"weights_sha256": 3}'),
            "eval.json",
            "3",
        ),
        (
            "record-seed",
            edited("training/train.yaml", ["question", "seed"], "x"),
            "train.yaml",
            "seed",
            "x",
        ),
    ):
        case(
            f"{name}-{file}",
            [name, "{tmp}/training", *words],
            *expect,
            files=[copied("training"), builder],
        )
