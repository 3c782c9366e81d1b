"""What can be foretold of the trainings of a bench at each point of their curves, and what rungs would have saved.

    python experiments/rungs/replay.py [BENCH]

Nothing is trained: the curves of the bench are cut at the rungs. Each replay takes 45 of its networks at random, and
the latencies of one of its tables and workloads. The first 8 play the part of baselines, the others come in cycles of
10.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr, t

import flashnas.bench
from flashnas.bench.table import LATENCY
from flashnas.proxy.final_loss import Curve, forecast, rank_correlations
from flashnas.search.pareto import hypervolume, non_dominated
from flashnas.search.rungs import decide

REPLAYS, NETWORKS, BASELINES, CYCLE = 100, 45, 8, 10


def foretold(curves: Sequence[Curve]) -> None:
    """Each network's final loss by the others' trainings."""
    tokens = int(curves[0][-1][0])
    final = np.array([curve[-1][1] for curve in curves])
    correlations = dict(rank_correlations(curves))
    print(f"{len(curves)} networks, final losses {final.min():.3f} to {final.max():.3f}, standard deviation"
          f" {final.std():.3f}\n")
    print("pause at     Spearman with final     finished  mean error    sd  in 90 % interval\n"
          "             measured   forecast     trainings     (nats)")
    for point, rho in correlations.items():
        cut = [[pair for pair in curve if pair[0] <= point] for curve in curves]
        for count in (4, 16, len(curves) - 1):
            rng = np.random.default_rng(0)
            means, sds, inside = [], [], []
            for place in range(len(curves)):
                others = rng.choice([other for other in range(len(curves)) if other != place], count, replace=False)
                found = forecast([cut[place]], [curves[other] for other in others], tokens)
                half = t.ppf(0.95, found.freedom) * np.sqrt(found.scale[0, 0])
                means.append(found.mean[0])
                sds.append(found.sd[0])
                inside.append(abs(found.mean[0] - final[place]) <= half)
            print(f"{point:>8,}  {rho:>11.2f}  {spearmanr(means, final).statistic:>9.2f}  {count:>12}"
                  f"  {np.abs(means - final).mean():>10.4f}  {np.mean(sds):.3f}  {np.mean(inside):>10.0%}")


def replayed(curves: Sequence[Curve], latencies: np.ndarray, rungs: Sequence[int], chance: float,
             ) -> tuple[float, float, int]:
    """A search that proposes these networks in this order -> (share of the tokens, share of the hypervolume, members of
    the front that were stopped)."""
    tokens = int(curves[0][-1][0])
    points = np.column_stack([[curve[-1][1] for curve in curves], latencies])
    reference = points.max(axis=0) * 1.01
    done, spent = list(range(BASELINES)), BASELINES * tokens
    for start in range(BASELINES, len(curves), CYCLE):
        on = list(range(start, min(start + CYCLE, len(curves))))
        reached = dict.fromkeys(on, tokens)
        for rung in rungs:
            found = decide([[pair for pair in curves[n] if pair[0] <= rung] for n in on], latencies[on, None],
                           finished=points[done], curves=[curves[n] for n in done], tokens=tokens, chance=chance)
            reached.update({n: rung for n, stays in zip(on, found.promoted, strict=True) if not stays})
            on = [n for n, stays in zip(on, found.promoted, strict=True) if stays]
        done += on
        spent += sum(reached.values())
    front = set(np.flatnonzero(non_dominated(points)))
    return (spent / (tokens * len(curves)), hypervolume(points[done], reference) / hypervolume(points, reference),
            len(front - set(done)))


def main() -> None:
    frame = flashnas.bench.load(*sys.argv[1:2]).sort_values("seed", kind="stable").drop_duplicates("proxy_hash")
    curves = list(frame["curve"])
    foretold(curves)
    columns = [name for name in frame.columns if name.startswith(LATENCY) and frame[name].notna().all()]
    steps = [int(tokens) for tokens, _ in curves[0][:-1]]
    print(f"\n{REPLAYS} replays of {NETWORKS} networks each; of the tokens and the hypervolume without rungs\n\n"
          f"{'rungs':<26}  chance  tokens  hypervolume (mean, least)  fronts that lost a network")
    for rungs in [*([step] for step in steps), steps[-2:], steps]:
        for chance in (0.02, 0.05, 0.1, 0.2):
            results = []
            for seed in range(REPLAYS):
                rng = np.random.default_rng(seed)
                chosen = rng.permutation(len(curves))[:NETWORKS]
                latencies = frame[columns[rng.integers(len(columns))]].to_numpy(float)[chosen]
                results.append(replayed([curves[n] for n in chosen], latencies, rungs, chance))
            spent, volume, lost = np.array(results).T
            print(f"{', '.join(f'{rung:,}' for rung in rungs):<26}  {chance:>6.2f}  {spent.mean():>6.1%}"
                  f"  {volume.mean():>9.2%}, {volume.min():>7.2%}  {(lost > 0).sum():>20}")


if __name__ == "__main__":
    main()
