"""Recipe: all that a training depends on besides the architecture, the data and the seed."""

import math
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from flashnas.architecture import Architecture
from flashnas.base.documents import fingerprint, read_yaml
from flashnas.base.errors import ConfigError
from flashnas.base.settings import Settings, option, settings_of
from flashnas.base.text import did_you_mean, shown
from flashnas.operators import OPERATORS
from flashnas.operators.backends import BACKENDS
from flashnas.operators.spec import FULL_WIDTH, OWN_RATES, PROXY_HEAD_DIM

RECIPES = Path(__file__).parent / "recipes"
UNNAMED = "custom"


# fields on which the loss of a given network does not depend: it shows what it is
NOT_OF_A_NETWORK = ("name", "width_factor", "least_head_dim", "short_text")
# fields of weights that are drawn
START = ("embedding_std", "output_scale", "conv_noise")
# fields that came later, and at what value digests leave them out: older recipes keep theirs
LATER = {"short_text": False, "balance_loss": 0.01, "balance_rate": 0.001}
# fields that change rounding alone, as digests have them: a training may go on with other values
ROUNDING = {"micro_batch_sequences": 0, "dtype": "bfloat16"}
# an upper bound is far above what anyone trains with, and below what hangs or ends the process


def families() -> tuple[str, ...]:
    """Of parameters with a learning rate of their own: `m2`, and `m2.conv` where a part of the
    operator has one. embedding: also the head and meta tokens; norm: the final norm.
    """
    names = []
    for kind, operator in OPERATORS.items():
        roles = {tensor.role for tensor in operator().tensors(FULL_WIDTH)}
        parts = [f"{kind}.{part}" for role, part in OWN_RATES.items() if role in roles]
        names += [kind, *parts]
    return (*names, "embedding", "norm")


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings, where="recipe"):
    """A training recipe. Its fields are checked when it is built: ConfigError.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe.load("cpu")
        >>> recipe.proxy_of(fn.Architecture.parse("2048: d f")).hidden
        64
    """

    name: str = option(UNNAMED, "of the recipe; of a file without one, the file's")
    width_factor: int = option(
        16,
        "the trained network is `architecture.scaled(width_factor)`: the same operators at smaller"
        " widths",
        min=1,
        max=2**16,
    )
    least_head_dim: int = option(
        PROXY_HEAD_DIM,
        "heads, states and windows shrink with the width, but not below this; fewer heads remain"
        " instead",
        min=2,
        max=2**16,
    )
    vocab: int = option(
        4096, "size of the tokenizer that is trained if none is given", min=257, max=2**22
    )
    sequence_tokens: int = option(256, "tokens of a sequence", min=2, max=2**24)
    batch_sequences: int = option(4, "sequences of a step", min=1, max=2**24)
    micro_batch_sequences: int = option(
        0,
        "sequences per backward pass; gradients of a step are summed, which changes"
        " rounding alone. 0: its whole batch",
        min=0,
        max=2**24,
    )
    tokens: int = option(
        81_920,
        "training tokens. A step takes `batch_sequences` x `sequence_tokens` of them; there"
        " is at least one step",
        min=1,
        max=2**53,
    )
    validation_tokens: int = option(
        20_480,
        "size of the fixed validation slice, for the last point of the curve",
        min=1,
        max=2**53,
    )
    curve_points: int = option(
        5, "validations during the training, the last one included", min=1, max=10_000
    )
    curve_tokens: int = option(
        4_096,
        "the part of the validation slice that the points before the last use",
        min=1,
        max=2**53,
    )
    optimizer: str = option(
        "muon",
        "`muon` gives the hidden matrices to Muon at `muon_lr`, with `muon_steps` Newton-Schulz"
        " iterations, and the other parameters to AdamW at `adamw_lr`; `adamw` gives everything to"
        " AdamW at `adamw_lr`",
        choices=("muon", "adamw"),
    )
    muon_lr: float = option(
        0.00125,
        "peak, reached after `warmup_fraction` of the steps. A cosine then falls to"
        " `final_lr_fraction`",
        above=0,
    )
    adamw_lr: float = option(0.06, "likewise", above=0)
    lr_multipliers: dict[str, float] = option(
        dict,
        "factors on the rate of one family of parameters each: an operator's short name, that name"
        " with `.conv` for its short convolution, `moe.router`, `embedding` or `norm`. Other"
        " families have the factor 1",
        keys=families,
        above=0,
    )
    lr_depth: int = option(
        0,
        "operators of the networks that `muon_lr` suits. Muon's rate for a network of N operators"
        " is multiplied by sqrt(lr_depth / N), since deeper networks want lower ones; 0: one rate"
        " for all depths",
        min=0,
        max=2**20,
    )
    muon_momentum: float = option(0.95, "Nesterov momentum of Muon", min=0, below=1)
    muon_steps: int = option(3, "Newton-Schulz iterations of Muon", min=1, max=100)
    adamw_beta1: float = option(0.9, "decay of AdamW's mean of gradients", min=0, below=1)
    adamw_beta2: float = option(0.95, "decay of AdamW's mean of squared gradients", min=0, below=1)
    weight_decay: float = option(0.1, "of all matrices, gates and token tables", min=0)
    warmup_fraction: float = option(0.1, "share of the steps in which the rate rises", min=0, max=1)
    final_lr_fraction: float = option(0.1, "share of the peak rate at the end", min=0, max=1)
    clip: float = option(1.0, "largest gradient norm; 0: gradients are not clipped", min=0)
    embedding_std: float = option(
        0.2, "standard deviation of embedding, meta tokens and head at the start", above=0
    )
    output_scale: float = option(
        0.0,
        "factor on the drawn output projections of the operators; 0: every operator"
        " starts as the identity",
        min=0,
    )
    conv_noise: float = option(
        0.2,
        "share of the random filter in a short convolution's start; the rest passes the current"
        " token through. 1: as the model draws it",
        min=0,
        max=1,
    )
    weight_norm: bool = option(
        False,
        "set the matrices that read or write the residual stream to unit norm at the start and after"
        " each step; matrices inside an operator keep their size. With `output_scale: 0` output"
        " projections are 0 until the first step and have norm 1 from then on. It needs rates of its"
        " own",
    )
    balance_loss: float = option(
        0.01,
        "factor on the loss of each layer that balances experts chosen by a softmax; as the Switch"
        " Transformer",
        min=0,
    )
    balance_rate: float = option(
        0.001, "step of the biases that balance experts chosen by sigmoids; as DeepSeek-V3", min=0
    )
    dtype: str = option(
        "auto",
        "`bfloat16` keeps weights and optimizer in float32 and computes matrix products in"
        " bfloat16; on CUDA the residual stream, too. `auto`: the faster one in a timed product",
        choices=("auto", "float32", "bfloat16"),
    )
    device: str = option("cpu", "that trains", choices=("cpu", "cuda"))
    backend: str = option(
        "auto",
        "the library that computes the operators; `auto`: the best installed one that"
        " serves the device",
        choices=BACKENDS,
    )
    short_text: bool = option(
        False,
        "train on more than 4 epochs of the text, or validate on less than `validation_tokens`,"
        " where the text has no more",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("validation_tokens", "curve_tokens"):
            if getattr(self, name) < self.sequence_tokens:
                self.wrong(
                    name,
                    f"must be at least sequence_tokens ({self.sequence_tokens}); got"
                    f" {getattr(self, name)}",
                )
        if self.curve_tokens > self.validation_tokens:
            self.wrong(
                "curve_tokens",
                f"must be at most validation_tokens ({self.validation_tokens}); got"
                f" {self.curve_tokens}",
            )
        if self.batch_sequences % (self.micro_batch_sequences or 1):
            self.wrong(
                "micro_batch_sequences",
                f"must be a divisor of batch_sequences ({self.batch_sequences}) or 0;"
                f" got {self.micro_batch_sequences}",
            )

    def __hash__(self) -> int:
        return hash((self.name, self.tokens, self.muon_lr))  # mappings have none

    # -- derived values ----------------------------------------------------------------------------

    @property
    def batch_tokens(self) -> int:
        """Training tokens of one step."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps: the token budget in whole batches, rounded up."""
        return max(1, -(-self.tokens // self.batch_tokens))

    @property
    def curve_at(self) -> tuple[int, ...]:
        """Training tokens after which the network is validated: the points of its curve, the last
        one at the end."""
        steps = {
            round(self.steps * (point + 1) / self.curve_points)
            for point in range(self.curve_points)
        }
        return tuple(step * self.batch_tokens for step in sorted(steps) if step)

    def work_left(self, done: int = 0) -> float:
        """Training tokens after the first `done`, with a third of the validation tokens, which have
        no backward pass."""
        points = sum(point > done for point in self.curve_at)
        validated = (points - 1) * self.curve_tokens + self.validation_tokens if points else 0
        return self.steps * self.batch_tokens - done + validated / 3

    @property
    def training_settings(self) -> dict[str, Any]:
        """The fields on which the loss of a given network depends."""
        return {
            name: value
            for name, value in {**self.to_dict(), **ROUNDING}.items()
            if name not in NOT_OF_A_NETWORK
        }

    @property
    def digest(self) -> str:
        """16 hex digits of what a training depends on, without what changes rounding alone."""
        return fingerprint({**self.to_dict(), **ROUNDING, "name": ""})

    def multiplier(self, family: str) -> float:
        """The factor on the rate of a family; a convolution or router without one has the factor of
        its operator."""
        return float(
            self.lr_multipliers.get(family, self.lr_multipliers.get(family.partition(".")[0], 1.0))
        )

    def depth_multiplier(self, operators: int) -> float:
        """The factor on Muon's rate for a network of so many operators."""
        return math.sqrt(self.lr_depth / operators) if self.lr_depth else 1.0

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, from 0: linear warm-up, then a cosine to
        final_lr_fraction."""
        warmup = round(self.steps * self.warmup_fraction)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup + 1) / (self.steps - warmup + 1)
        return (
            self.final_lr_fraction
            + (1 - self.final_lr_fraction) * (1 + math.cos(math.pi * done)) / 2
        )

    def proxy_of(self, architecture: Architecture, vocab: int | None = None) -> Architecture:
        """The network that is trained in place of an architecture: narrower by `width_factor`,
        with the vocabulary of the tokenizer in use (None: `recipe.vocab`). ArchitectureError where
        the factor does not divide."""
        smaller = architecture.scaled(self.width_factor, self.least_head_dim)
        return replace(smaller, vocab=vocab or self.vocab)

    def with_dtype(self, recorded: str | None = None) -> Self:
        """With a type in place of `auto`: `recorded`, of a training that is continued, else bfloat16
        on CUDA and float32 on a CPU."""
        if self.dtype != "auto":
            return self
        from flashnas.network.precision import DEFAULT_DTYPE  # loads torch

        return replace(self, dtype=recorded or DEFAULT_DTYPE[self.device])

    # -- files -------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """YAML- and JSON-ready; `from_dict` gives the same object back."""
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self).items()
            if name not in LATER or value != LATER[name]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ConfigError naming an unknown key, a wrong type or value."""
        return cls.build(**data)

    @classmethod
    def load(cls, source: str | Path | Self) -> Self:
        """A shipped recipe by name, or a YAML file; a recipe itself is returned as it is. Raises
        ConfigError with file, line, rule and value."""
        if isinstance(source, cls):
            return source
        if not isinstance(source, str | os.PathLike):
            raise ConfigError(
                f"a recipe must be a name or the path of a YAML file; got {shown(source)}"
            )
        shipped = shipped_recipes()
        path = shipped.get(str(source), Path(source))
        if not path.exists():
            raise ConfigError(
                f"recipe {str(source)!r} is neither a shipped recipe{did_you_mean(source, shipped)}"
                f" nor a YAML file; shipped: {', '.join(shipped)}"
            )
        recipe = cls.build(read_yaml(path))
        return replace(recipe, name=path.stem) if recipe.name == UNNAMED else recipe

    def save(self, path: str | Path) -> None:
        """Write every field as YAML."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


Recipe.__doc__ = (Recipe.__doc__ or "").replace(
    "\n    Example:",
    "\n".join(
        [
            "",
            *(
                textwrap.fill(
                    f"{setting.name}: {setting.doc}.",
                    110,
                    initial_indent=4 * " ",
                    subsequent_indent=8 * " ",
                )
                for setting in settings_of(Recipe)
            ),
            "",
            "    Example:",
        ]
    ),
)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with flashnas, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
