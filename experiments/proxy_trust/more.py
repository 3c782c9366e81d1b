"""Two looks at results.csv that `flashnas proxy-trust` does not take: inside one width, and along the short trainings.

    python experiments/proxy_trust/more.py

curves.csv: the validation losses along the short trainings of seed 0, from trials.parquet of the run.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent


def main() -> None:
    table = pd.read_csv(HERE / "results.csv")
    means = table.groupby(["hash", "variant"])["loss"].mean().unstack()
    facts = table.drop_duplicates("hash").set_index("hash")
    width = facts["notation"].str.extract(r"^(\d+)", expand=False).astype(int)
    print("Spearman with the long losses inside one width: short training, parameter count; range of the long losses")
    for size, same in means.groupby(width):
        if len(same) >= 5:
            count = same["long"].corr(-facts.loc[same.index, "params"], method="spearman")
            print(f"{size}: n={len(same)} {same['short'].corr(same['long'], method='spearman'):.2f} {count:.2f}"
                  f"  {same['long'].max() - same['long'].min():.3f} nats")
    print("Spearman of the losses along the short trainings with the long losses, and with the width")
    for tokens, part in pd.read_csv(HERE / "curves.csv").groupby("tokens"):
        loss = part.set_index("hash")["loss"]
        found = [loss.corr(other, method="spearman") for other in (means["long"], width)]
        print(f"{tokens:,}: {found[0]:.2f} {found[1]:.2f}")
    speed = table.groupby(["hash", "variant"])["tokens_per_s"].mean().unstack()
    print(f"tokens/s short over wide, median: {(speed['short'] / speed['wide']).median():.2f}")


if __name__ == "__main__":
    main()
