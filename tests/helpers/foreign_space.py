"""A space of another kind of model than flashnas knows (GPT-2: width, layers, heads, MLP ratio),
its evaluator and its latency, importable from a fresh process. The networks are of no class of
flashnas."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from flashnas.space import SearchSpace

WIDTHS, LAYERS, HEADS, RATIOS = (64, 128, 192), (2, 4, 6, 8), (2, 4, 8), (2, 4)


@dataclass(frozen=True)
class Gpt2:
    width: int
    layers: int
    heads: int
    ratio: int

    @property
    def notation(self):
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def hash(self):
        return "-".join(map(str, asdict(self).values()))

    @property
    def params(self):
        return self.layers * (4 + 2 * self.ratio) * self.width**2

    def to_dict(self):
        return asdict(self)


class Gpt2Space(SearchSpace[Gpt2]):
    """Only what a space has to provide; the genotype is the network."""

    name = "gpt2"

    def sample(self, rng):
        return Gpt2(*(int(rng.choice(values)) for values in (WIDTHS, LAYERS, HEADS, RATIOS)))

    def mutate(self, genotype, rng):
        values = list(asdict(genotype).values())
        axis = int(rng.integers(4))
        values[axis] = int(
            rng.choice([v for v in (WIDTHS, LAYERS, HEADS, RATIOS)[axis] if v != values[axis]])
        )
        return Gpt2(*values)

    def encode(self, genotype):
        return asdict(genotype)

    def architectures(self, genotype):
        return [genotype]

    def distributions(self):
        import optuna

        axes = dict(width=WIDTHS, layers=LAYERS, heads=HEADS, ratio=RATIOS)
        return {
            name: optuna.distributions.CategoricalDistribution(values)
            for name, values in axes.items()
        }

    def decode(self, params):
        return Gpt2(**params)


class WidthFittedGpt2Space(Gpt2Space):
    """The same with the width taken from the budget, and with baselines."""

    def architectures(self, genotype):
        return [replace(genotype, width=width) for width in reversed(WIDTHS)]

    def baselines(self):
        return [
            ("shallow", self.architectures(Gpt2(64, 2, 2, 2))),
            ("deep", self.architectures(Gpt2(64, 8, 8, 4))),
        ]


def latency_ms(network):
    return network.params / 1e5


def loss(network):
    return 5.0 - 0.1 * network.layers - network.width / 1000 + 0.01 * network.heads


def loss_and_latency(network):
    return {
        "loss": loss(network),
        "latency_ms": latency_ms(network),
        "accuracy": network.layers / 10,
    }


def sometimes_fails(network):
    if network.layers == 4:
        raise RuntimeError(f"no memory for {network.layers} layers\nsecond line")
    return float("nan") if network.layers == 6 else loss(network)


class Counting:
    """Counts its calls in a file, one line each."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, network):
        with open(self.path, "a") as file:
            file.write(json.dumps([network.notation, __import__("os").getpid()]) + "\n")
        return loss_and_latency(network)


def of_architecture(architecture):
    """A loss for networks of flashnas."""
    return 6.0 - len(architecture.operators) / 100 - architecture.hidden / 1000
