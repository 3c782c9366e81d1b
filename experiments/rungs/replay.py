"""What can be foretold of the trainings of a bench at each point of their curves, and what rungs would have saved.

    python experiments/rungs/replay.py [BENCH]

Nothing is trained: the curves of the bench are cut at the rungs. Each replay takes 45 of its networks at random, and
the latencies of one of its tables and workloads. The first 8 play the part of baselines, the others come in cycles of
10. Beside our rule, which asks for the chance to enter the front, stands that of multi-objective successive halving:
the best share of a cycle by non-dominated rank of loss and latency trains on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr, t

import flashnas.bench
from flashnas.bench.table import LATENCY
from flashnas.search.forecast import Curve, forecast, rank_correlations
from flashnas.search.pareto import hypervolume, non_dominated, standings
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


def by_rank(losses: Sequence[float], latencies: np.ndarray, share: float) -> np.ndarray:
    """Which of the paused candidates are the best share by non-dominated rank, at least one."""
    places = standings(np.column_stack([losses, latencies]))
    promoted = np.zeros(len(losses), dtype=bool)
    promoted[np.argsort(places, kind="stable")[:max(1, round(share * len(losses)))]] = True
    return promoted


def replayed(curves: Sequence[Curve], latencies: np.ndarray, rungs: Sequence[int], chance: float,
             share: float | None = None) -> tuple[float, float, int]:
    """A search that proposes these networks in this order -> (share of the tokens, share of the hypervolume, members of
    the front that were stopped). share: that trains on by rank; None: those with the chance do."""
    tokens = int(curves[0][-1][0])
    points = np.column_stack([[curve[-1][1] for curve in curves], latencies])
    reference = points.max(axis=0) * 1.01
    done, spent = list(range(BASELINES)), BASELINES * tokens
    for start in range(BASELINES, len(curves), CYCLE):
        on = list(range(start, min(start + CYCLE, len(curves))))
        reached = dict.fromkeys(on, tokens)
        for rung in rungs:
            cut = [[pair for pair in curves[n] if pair[0] <= rung] for n in on]
            if share is None:
                promoted = decide(cut, latencies[on, None], finished=points[done], curves=[curves[n] for n in done],
                                  tokens=tokens, chance=chance).promoted
            else:
                promoted = by_rank([curve[-1][1] for curve in cut], latencies[on], share)
            reached.update({n: rung for n, stays in zip(on, promoted, strict=True) if not stays})
            on = [n for n, stays in zip(on, promoted, strict=True) if stays]
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

    def show(rungs: Sequence[int], chance: float, label: str, share: float | None = None) -> None:
        results = []
        for seed in range(REPLAYS):
            rng = np.random.default_rng(seed)
            chosen = rng.permutation(len(curves))[:NETWORKS]
            latencies = frame[columns[rng.integers(len(columns))]].to_numpy(float)[chosen]
            results.append(replayed([curves[n] for n in chosen], latencies, rungs, chance, share))
        spent, volume, lost = np.array(results).T
        print(f"{', '.join(f'{rung:,}' for rung in rungs):<26}  {label:>6}  {spent.mean():>6.1%}"
              f"  {volume.mean():>9.2%}, {volume.min():>7.2%}  {(lost > 0).sum():>20}")

    print(f"\n{REPLAYS} replays of {NETWORKS} networks each; of the tokens and the hypervolume without rungs\n\n"
          f"{'rungs':<26}  chance  tokens  hypervolume (mean, least)  fronts that lost a network")
    for rungs in [*([step] for step in steps), steps[-2:], steps]:
        for chance in (0.02, 0.05, 0.1, 0.2):
            show(rungs, chance, f"{chance:.2f}")
    print("\nby rank\n")
    for rungs in (steps[-2:-1], steps[-2:], steps):
        for share in (0.8, 0.7, 0.6, 0.5):
            show(rungs, 0.0, f"{share:.0%}", share)


if __name__ == "__main__":
    main()
