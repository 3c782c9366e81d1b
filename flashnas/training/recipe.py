"""Recipe: everything that a short training run depends on besides the architecture, the data and the seed."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import yaml

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean, one_of, shown
from flashnas.base.yaml import LocatedDict, check_keys, read_yaml
from flashnas.operators import OPERATORS
from flashnas.operators.backends import BACKENDS
from flashnas.operators.spec import PROXY_HEAD_DIM
from flashnas.training.task_settings import TaskTraining

RECIPES = Path(__file__).parent / "recipes"
# of parameters with a learning rate of their own. embedding: also the head and meta tokens; norm: the final norm
FAMILIES = (*OPERATORS.shipped, *(f"{kind}.{part}" for kind in OPERATORS.shipped for part in OPERATORS[kind].own_rates),
            "embedding", "norm")
OPTIMIZERS = ("muon", "adamw")
DTYPES = ("float32", "bfloat16")
DEVICES = ("cpu", "cuda")
# of whole numbers; an upper one is far above what anyone trains with, and below what hangs or ends the process
BOUNDS = {"width_factor": (1, 2**16), "depth_factor": (1, 2**10), "least_head_dim": (2, 2**16), "vocab": (257, 2**22),
          "sequence_tokens": (2, 2**24), "batch_sequences": (1, 2**24), "micro_batch_sequences": (0, 2**24),
          "tokens": (1, 2**53), "validation_tokens": (1, 2**53), "curve_points": (1, 10_000),
          "curve_tokens": (1, 2**53), "muon_steps": (1, 100), "lr_depth": (0, 2**20)}


class _FieldError(ConfigError):
    """A rule that one field breaks; `load` adds the line of the field."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe. Its fields are checked when it is built; ConfigError names field, rule and value.

    width_factor: the trained network is `architecture.scaled(width_factor)`: the same operators at smaller widths.
    depth_factor: the trained network is `architecture.shallower(depth_factor)`: every so many-th operator of each kind.
    least_head_dim: heads, states and windows shrink with the width, but not below this; fewer heads remain instead.
    vocab: size of the tokenizer that is trained if none is given.
    tokens: training tokens. A step takes `batch_sequences` x `sequence_tokens` of them; there is at least one step.
    micro_batch_sequences: sequences per backward pass, for gradient accumulation; 0: the whole batch.
    validation_tokens: size of the fixed validation slice, for the last point of the curve.
    curve_points: validations during the training, the last one included.
    curve_tokens: the part of the validation slice that the points before the last use.
    optimizer: `muon` gives the hidden matrices to Muon at `muon_lr`, with `muon_steps` Newton-Schulz iterations, and
        the other parameters to AdamW at `adamw_lr`; `adamw` gives everything to AdamW at `adamw_lr`.
    muon_lr, adamw_lr: peaks, reached after `warmup_fraction` of the steps. A cosine then falls to `final_lr_fraction`.
    lr_multipliers: factors on the rate of one family of parameters each: an operator's short name, that name with
        `.conv` for its short convolution, `moe.router`, `embedding` or `norm`. Other families have the factor 1.
    lr_depth: operators of the networks that `muon_lr` suits. Muon's rate for a network of N operators is multiplied by
        sqrt(lr_depth / N), since deeper networks want lower ones; 0: one rate for all depths.
    clip: largest gradient norm; 0: gradients are not clipped.
    embedding_std: standard deviation of embedding, meta tokens and head at the start.
    output_scale: factor on the drawn output projections of the operators; 0: every operator starts as the identity.
    conv_noise: share of the random filter in a short convolution's start; the rest passes the current token through. 1:
        as the model draws it.
    weight_norm: set every matrix to unit norm at the start and after each step (training/weight_norm.py); it needs
        rates of its own (experiments/weight_norm).
    dtype: `bfloat16` keeps weights and optimizer in float32 and computes matrix products in bfloat16; on CUDA the
        residual stream, too.
    backend: the library that computes the operators; `auto`: the best installed one that serves the device.
    tasks: settings of the synthetic tasks that differ from those of `TaskTraining`, such as {steps: 200}.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe.load("cpu")
        >>> recipe.proxy_of(fn.Architecture.parse("2048: d f")).hidden
        64
    """

    name: str = "custom"
    width_factor: int = 16
    depth_factor: int = 1
    least_head_dim: int = PROXY_HEAD_DIM
    vocab: int = 4096
    sequence_tokens: int = 256
    batch_sequences: int = 4
    micro_batch_sequences: int = 0
    tokens: int = 81_920
    validation_tokens: int = 20_480
    curve_points: int = 5
    curve_tokens: int = 4_096
    optimizer: str = "muon"
    muon_lr: float = 0.00125
    adamw_lr: float = 0.06
    lr_multipliers: Mapping[str, float] = field(default_factory=dict, hash=False)
    lr_depth: int = 0
    muon_momentum: float = 0.95
    muon_steps: int = 3
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.95
    weight_decay: float = 0.1
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.1
    clip: float = 1.0
    embedding_std: float = 0.2
    output_scale: float = 0.0
    conv_noise: float = 0.2
    weight_norm: bool = False
    dtype: str = "bfloat16"
    device: str = "cpu"
    backend: str = "auto"
    tasks: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            self._check_type(item.name)
        for name, (least, most) in BOUNDS.items():
            self._require(name, getattr(self, name) >= least, f"at least {least}")
            self._require(name, getattr(self, name) <= most, f"at most {most:,}")
        for name in ("validation_tokens", "curve_tokens"):
            self._require(name, getattr(self, name) >= self.sequence_tokens,
                          f"at least sequence_tokens ({self.sequence_tokens})")
        self._require("curve_tokens", self.curve_tokens <= self.validation_tokens,
                      f"at most validation_tokens ({self.validation_tokens})")
        self._require("micro_batch_sequences", self.batch_sequences % (self.micro_batch_sequences or 1) == 0,
                      f"a divisor of batch_sequences ({self.batch_sequences}) or 0")
        for name in ("muon_lr", "adamw_lr", "embedding_std"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in ("muon_momentum", "adamw_beta1", "adamw_beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("warmup_fraction", "final_lr_fraction", "conv_noise"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("weight_decay", "clip", "output_scale"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name, allowed in (("optimizer", OPTIMIZERS), ("dtype", DTYPES), ("device", DEVICES),
                              ("backend", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise _FieldError(name, one_of(f"recipe.{name}", getattr(self, name), allowed))
        for family, value in self.lr_multipliers.items():
            kind, _, part = family.partition(".") if isinstance(family, str) else ("", "", "")
            if family not in FAMILIES and (kind not in OPERATORS or (part and part not in OPERATORS[kind].own_rates)):
                raise _FieldError("lr_multipliers", f"recipe.lr_multipliers has no family {family!r}"
                                  f"{did_you_mean(family, FAMILIES)}; allowed: {', '.join(FAMILIES)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise _FieldError("lr_multipliers", f"recipe.lr_multipliers.{family} must be a number above 0;"
                                  f" got {value!r}")
        try:
            TaskTraining.from_dict(self.tasks)
        except ConfigError as error:
            raise _FieldError("tasks", str(error)) from None

    def _check_type(self, name: str) -> None:
        value, expected = getattr(self, name), _types()[name]
        if isinstance(value, bool) != (expected is bool) or not isinstance(value, expected):
            kind = {bool: "true or false", int: "a whole number", str: "text",
                    Mapping: "a mapping"}.get(expected, "a number")
            raise _FieldError(name, f"recipe.{name} must be {kind}; got {value!r}")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise _FieldError(name, f"recipe.{name} must be {rule}; got {getattr(self, name)!r}")

    # -- derived values ------------------------------------------------------------------------------------------

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
        """Training tokens after which the network is validated: the points of its curve, the last one at the end."""
        steps = {round(self.steps * (point + 1) / self.curve_points) for point in range(self.curve_points)}
        return tuple(step * self.batch_tokens for step in sorted(steps) if step)

    @property
    def task_training(self) -> TaskTraining:
        """The settings of the synthetic tasks."""
        return TaskTraining.from_dict(self.tasks)

    def for_tasks(self, *, tasks: int, length: int) -> Self:
        """The recipe that trains on synthetic tasks, with the rates and the number of steps of `task_training`.

        Args:
            tasks: number of tasks that are trained together; a batch has equally many sequences of each.
            length: tokens of a sequence.
        """
        settings = self.task_training
        batch = tasks * max(1, settings.batch_tokens // (tasks * length))
        return replace(self, muon_lr=settings.muon_lr, adamw_lr=settings.adamw_lr, lr_depth=0, sequence_tokens=length,
                       batch_sequences=batch, micro_batch_sequences=0, tokens=settings.steps * batch * length,
                       validation_tokens=length, curve_tokens=length)

    def multiplier(self, family: str) -> float:
        """The factor on the rate of a family; a convolution or router without one has the factor of its operator."""
        return float(self.lr_multipliers.get(family, self.lr_multipliers.get(family.partition(".")[0], 1.0)))

    def depth_multiplier(self, operators: int) -> float:
        """The factor on Muon's rate for a network of so many operators."""
        return math.sqrt(self.lr_depth / operators) if self.lr_depth else 1.0

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, from 0: linear warm-up, then a cosine to final_lr_fraction."""
        warmup = round(self.steps * self.warmup_fraction)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup + 1) / (self.steps - warmup + 1)
        return self.final_lr_fraction + (1 - self.final_lr_fraction) * (1 + math.cos(math.pi * done)) / 2

    def proxy_of(self, architecture: Architecture, vocab: int | None = None) -> Architecture:
        """The network that is trained in place of an architecture.

        Args:
            architecture: at full width.
            vocab: tokens of the tokenizer in use; None: `recipe.vocab`.

        Returns:
            The architecture with its widths divided by `width_factor`, its operators thinned out by `depth_factor`, and
            this vocabulary.

        Raises:
            ArchitectureError: if the factor does not divide the hidden size.
        """
        smaller = architecture.shallower(self.depth_factor).scaled(self.width_factor, self.least_head_dim)
        return replace(smaller, vocab=vocab or self.vocab)

    # -- files ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """YAML- and JSON-ready; `from_dict` gives the same object back."""
        found = {**dataclasses.asdict(self), "lr_multipliers": dict(self.lr_multipliers), "tasks": dict(self.tasks)}
        if self.depth_factor == 1:  # recipes of before there was this field keep their digests
            del found["depth_factor"]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ConfigError naming an unknown key, a wrong type or value."""
        known = _types()
        for key in data:
            if key not in known:
                raise _FieldError(key, f"recipe has no key {key!r}{did_you_mean(key, known)};"
                                  f" allowed: {', '.join(known)}")
        return cls(**data)

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """A shipped recipe by name, or a YAML file; raises ConfigError with file, line, rule and value."""
        if not isinstance(source, str | os.PathLike):
            raise ConfigError(f"a recipe must be a name or the path of a YAML file; got {shown(source)}")
        shipped = shipped_recipes()
        path = shipped.get(str(source), Path(source))
        if not path.is_file():
            raise ConfigError(f"recipe {str(source)!r} is neither a shipped recipe{did_you_mean(source, shipped)}"
                              f" nor a YAML file; shipped: {', '.join(shipped)}")
        data = read_yaml(path)
        check_keys(data, where="recipe", required={}, optional=_yaml_types())
        try:
            return cls.from_dict({"name": path.stem, **data})
        except _FieldError as error:
            entry = data.get(error.field)
            place = data.place(error.field)
            if isinstance(entry, LocatedDict):  # the line of the family inside lr_multipliers
                place = next((entry.place(key) for key in entry if repr(key) in str(error) or f".{key} " in str(error)),
                             place)
            raise ConfigError(f"{place}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write every field as YAML."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def _types() -> dict[str, Any]:
    by_annotation: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
    return {item.name: by_annotation.get(str(item.type), Mapping) for item in dataclasses.fields(Recipe)}


def _yaml_types() -> dict[str, type | tuple[type, ...]]:
    return {name: dict if kind is Mapping else kind for name, kind in _types().items()}


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with flashnas, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
