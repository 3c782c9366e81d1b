"""Does more training of Gated DeltaNet in place of attention beat removal? Eight layers of SmolLM2.

    python experiments/convert/blocks.py MODEL.gguf --tokens 60000 240000

Every fourth layer, trained alone on the hidden states of the model, for each number of tokens anew;
then KL and recall of that one change on text that nothing was trained on, beside those of removing
the attention; and of sets that save nearly as many milliseconds: seven layers with Gated DeltaNet,
two or three without attention. A killed run goes on; rows that are in results/blocks.jsonl are not
measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from flashnas.conversion.choices import NONE, REPLACEMENTS, Choice
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.measure import Student
from flashnas.conversion.replacements import FOLDER, read_replacements, train_replacements
from flashnas.data.scored_text import ContextReader
from flashnas.families.load_pretrained import load_pretrained
from flashnas.network.precision import fast_dtype
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention

HERE = Path(__file__).parent
LAYERS = range(1, 30, 4)  # of the model; its operators 2, 10, 18, ..
DATA, CONTEXT, SEED = "sotu+stdlib", 1024, 4
DOCUMENTS, PROMPTS = 8, 6
SETS = {"gd": [[5, 9, 13, 17, 21, 25, 29]], NONE: [[25, 29], [9, 25, 29]]}


def main() -> None:
    """Train and measure what is missing, and append a row for each change."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[60_000, 240_000])
    parser.add_argument("--out", type=Path, default=Path("experiments/runs/convert_blocks"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = HERE / "results" / "blocks.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    known = {(*row["layers"], row["change"]) for row in map(json.loads, lines)}
    model = load_pretrained(given.model)
    teacher, tokenizer = model.network, model.tokenizer
    assert tokenizer is not None
    operators = teacher.architecture.canonical().operators
    for tokens in [0, *given.tokens]:
        change = f"gd {tokens}" if tokens else NONE
        choices = [
            Choice(2 * layer, "gd" if tokens else NONE, replacement(operators[2 * layer], tokens))
            for layer in LAYERS
        ]
        sets = [[layer] for layer in LAYERS] + SETS["gd" if tokens else NONE]
        missing = [layers for layers in sets if (*layers, change) not in known]
        if not missing:
            continue
        reader = ContextReader(DATA, tokenizer, CONTEXT, SEED)
        (draw,) = reader.draws(DOCUMENTS, PROMPTS, 1)
        dtype = fast_dtype("cpu")
        config = ConvertConfig(
            model=given.model,
            replacements=("gd",),
            replacement_tokens=tokens or 1,
            out=given.out / str(tokens),
        )
        config.out.mkdir(parents=True, exist_ok=True)
        trained = train_replacements(config, teacher, choices, reader, dtype, note)
        replacements = read_replacements(config.out / FOLDER, choices)
        student = Student(teacher, draw, dtype, trained=replacements)
        for layers in missing:
            layout = tuple(choice for choice in choices if choice.layer // 2 in layers)
            score = student.measure(layout)
            row = {
                "layers": layers,
                "change": change,
                "kl": np.mean(score.kl),
                "kl_sd": np.std(score.kl, ddof=1),
                "recall": np.mean(score.recalled),
                "curve": trained.curve if trained else [],
                "training_s": round(trained.seconds) if trained else 0,
            }
            note(json.dumps(row))
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


def replacement(spec: OperatorSpec, tokens: int) -> OperatorSpec | None:
    """What takes the place of attention; nothing without tokens to train it on."""
    assert isinstance(spec, Attention)
    return REPLACEMENTS["gd"](spec) if tokens else None


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
