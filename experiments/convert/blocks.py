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
from flashnas.conversion.measure import Student
from flashnas.conversion.replacements import read_replacements, train_replacements
from flashnas.conversion.texts import draws, training_rows
from flashnas.conversion.weights import load_pretrained
from flashnas.network.precision import fast_dtype

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
    (draw,) = draws(
        DATA, tokenizer, context=CONTEXT, documents=DOCUMENTS, prompts=PROMPTS, count=1, seed=SEED
    )
    for tokens in [0, *given.tokens]:
        choices = [
            Choice(
                2 * layer, f"gd {tokens}", REPLACEMENTS["gd"](operators[2 * layer]), trained=True
            )  # type: ignore[arg-type]
            if tokens
            else Choice(2 * layer, NONE, None)
            for layer in LAYERS
        ]
        name = choices[0].name
        sets = [[layer] for layer in LAYERS] + SETS["gd" if tokens else NONE]
        missing = [layers for layers in sets if (*layers, name) not in known]
        if not missing:
            continue
        text = training_rows(
            DATA,
            tokenizer,
            context=CONTEXT,
            skip=DOCUMENTS + PROMPTS,
            tokens=tokens,
            seed=SEED,
        )
        trained, dtype = [], fast_dtype("cpu")
        if tokens:
            trained = train_replacements(given.out, teacher, choices, text, tokens, dtype, note)
        student = Student(teacher, draw, dtype, trained=read_replacements(given.out, choices))
        for layers in missing:
            layout = tuple(choice for choice in choices if choice.layer // 2 in layers)
            score = student.measure(layout)
            row = {
                "layers": layers,
                "change": name,
                "kl": np.mean(score.kl),
                "kl_sd": np.std(score.kl, ddof=1),
                "recall": np.mean(score.recalled),
                "block_error": score.block_error,
                "curve": trained[0].curve if trained else [],
                "training_s": round(trained[0].seconds) if trained else 0,
            }
            note(json.dumps(row))
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
