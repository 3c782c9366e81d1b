"""The networks of experiments/proxy_trust after a quarter and a half of their tokens, each a training of its own.

    python experiments/depth_width/shorter.py    # about 6 minutes of one core; continues shorter.csv
"""

import dataclasses
from pathlib import Path

import pandas as pd

from flashnas.architecture import Architecture
from flashnas.data.dataset import prepare_dataset
from flashnas.study.job import Job, run_job
from flashnas.training.recipe import Recipe

HERE = Path(__file__).parent
SEED, TOKENS = 0, (20_480, 40_960)


def main() -> None:
    results = pd.read_csv(HERE.parent / "proxy_trust" / "results.csv")
    recipe = Recipe.load(HERE.parent / "proxy_trust" / "recipe.yaml")
    dataset = prepare_dataset("sotu", recipe)
    out = HERE / "shorter.csv"
    if not out.exists():
        out.write_text("hash,tokens,seed,loss,seconds\n")
    done = set(pd.read_csv(out)[["hash", "tokens"]].itertuples(index=False, name=None))
    for tokens in TOKENS:
        for row in results.drop_duplicates("hash").itertuples():
            if (row.hash, tokens) not in done:
                short = dataclasses.replace(recipe, tokens=tokens, curve_points=1)
                score = run_job(Job(architecture=Architecture.parse(row.notation), dataset=str(dataset.folder),
                                    recipe=short.to_dict(), seed=SEED))
                with out.open("a") as file:
                    file.write(f"{row.hash},{tokens},{SEED},{score['loss']:.6f},{score['seconds']:.2f}\n")


if __name__ == "__main__":
    main()
