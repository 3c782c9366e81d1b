"""A scorer of one's own: larger networks have a lower loss.

python examples/own_scorer.py
"""

import numpy as np

import flashnas as fn
from flashnas.loss.model import Prediction


class BySize:
    """A model of your own: larger networks have a lower loss, within 0.01 nats."""

    tokens = 1e11  # of the full training that is planned
    digest = "by-size-1"  # changes with the model: a run is continued only under the same

    def values(self, networks):  # what ranks: [N]
        return np.array([3 - 0.1 * np.log(network.params) for network in networks])

    def posterior(self, networks):  # means [N] and covariances [N, N]
        return Prediction.of(self.values(networks), 0.01**2 * np.eye(len(networks)))

    def recalls(self, networks):  # less that of a transformer: [N]
        return np.zeros(len(networks))

    def figures(self, network):  # the columns of one network
        value = float(self.values([network])[0])
        return {
            "value": value,
            "full_loss": value,
            "full_loss_sd": 0.01,
            "silence": 0.0,
            "expected_recall": 0.0,
            "expected_recall_sd": 0.0,
        }

    def reasons(self, networks):  # parts of the difference of two networks
        one, other = self.values(networks)
        return {"size": one - other, "shape": 0.0, "mix": 0.0}

    def to_dict(self):  # for run.yaml
        return {"name": "by size"}


if __name__ == "__main__":
    run = fn.search(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        budgets={"latency_ms": 14_000},
        scorer=BySize(),
        out="my_scored_search",
    )
    print(run)
