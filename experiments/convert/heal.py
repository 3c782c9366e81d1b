"""Six layouts of SmolLM2-135M, healed: chosen, evenly spaced and the best of five random ones.

    python experiments/convert/heal.py MODEL.gguf --tokens 50000

Each learns from the model on the same text,
in the same order; KL, loss and recall are of held-out text, before and after.
A killed run goes on when it is started again; rows that are in results/heal.jsonl are not trained
again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import flashnas as fn
from flashnas.families.load_pretrained import load_pretrained
from flashnas.network.weights import save_model

HERE = Path(__file__).parent
# layers of the model that lose their attention, of the second draw: the answers of
# results/seed2_attention.json, as many evenly spaced, and of five random draws that of the lowest KL
LAYOUTS = {
    "chosen 90 %": [6, 12, 22, 25, 29],
    "even 90 %": [3, 9, 15, 21, 27],
    "random 90 %": [3, 7, 8, 12, 21],
    "chosen 80 %": [4, 5, 6, 9, 14, 22, 25, 28, 29],
    "even 80 %": [1, 5, 8, 11, 15, 18, 21, 25, 28],
    "random 80 %": [4, 6, 7, 12, 14, 15, 21, 26, 27],
}


def main() -> None:
    """Train what is missing, and append a row for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--recipe", default="heal")
    parser.add_argument("--only", nargs="*", help="names of networks, such as 'chosen 90 %%'")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs"))
    given = parser.parse_args()
    rows = HERE / "results" / "heal.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    done = {(row["name"], row["tokens"]) for row in map(json.loads, lines)}
    for name, removed in LAYOUTS.items():
        recipe = fn.Recipe.load(given.recipe)
        tokens = -(-given.tokens // recipe.batch_tokens) * recipe.batch_tokens
        if (name, tokens) in done or (given.only and name not in given.only):
            continue
        slug = name.replace(" %", "").replace(" ", "_")
        weights = given.out / f"heal_{slug}"
        write_weights(given.model, removed, weights)
        found = fn.train(
            str(weights),
            distill=given.model,
            recipe=recipe,
            data="sotu+stdlib",
            tokens=tokens,
            threads=1,
            resume=True,
            keep=1,
            out=given.out / f"heal_{slug}_{tokens}",
            progress=Lines(),
        )
        print(name, found, sep="\n", flush=True)
        row = {
            "name": name,
            "removed": removed,
            "tokens": found.tokens,
            "training_s": round(found.tokens / found.tokens_per_s),
            "before": found.before,
            "after": found.after,
            "curve": found.curve,
        }
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


def write_weights(model: str, removed: list[int], folder: Path) -> None:
    """The model without the attention of these layers, as a folder of weights."""
    if folder.exists():
        return
    pretrained = load_pretrained(model)
    teacher = pretrained.network
    gone = {2 * layer for layer in removed}
    kept = [n for n in range(len(teacher.blocks)) if n not in gone]
    architecture = teacher.architecture.canonical()
    operators = tuple(architecture.operators[n] for n in kept)
    student = fn.HybridLM(fn.Architecture(**{**vars(architecture), "operators": operators}))
    for to, block in zip(student.blocks, (teacher.blocks[n] for n in kept), strict=True):
        to.load_state_dict(block.state_dict())
    student.embedding.load_state_dict(teacher.embedding.state_dict())
    student.final_norm.load_state_dict(teacher.final_norm.state_dict())
    assert pretrained.tokenizer is not None
    save_model(folder, student.eval(), tokenizer_json=pretrained.tokenizer.to_str())


class Lines:
    """Progress as lines, for a log."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def update(self, step: fn.Step, of_steps: int) -> None:
        print(
            f"[{step.number}/{of_steps}] {step.loss:.4f} {step.validation}",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
