"""What the format of another program can hold, as data, and the check of a network against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.operators import OperatorSpec


@dataclass(frozen=True)
class Demands:
    """What a format demands of one kind of operator.

    fixed: options that have one value only. shared: options that are equal in all operators of the
    kind. nonzero: options that must not be 0. full_width: heads x head_dim is the width of the
    network.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    nonzero: tuple[str, ...] = ()
    full_width: bool = False


@dataclass(frozen=True)
class Format:
    """The architectures that a program can run under one name.

    demands: rules by kind of operator. pairs: each token mixer has one feed-forward network behind
    it. needs: kinds of which there must be one. max_meta_tokens: None: any number. programs: those
    that run what the exporter writes, without flashnas; export: its name in `--to`.
    """

    name: str
    demands: Mapping[str, Demands]
    needs: tuple[str, ...]
    programs: tuple[str, ...]
    export: str
    pairs: bool = False
    max_meta_tokens: int | None = None

    def problems(self, architecture: Architecture) -> list[str]:
        """The rules that an architecture breaks, one line each."""
        operators, hidden, meta = (
            architecture.operators,
            architecture.hidden,
            architecture.meta_tokens,
        )
        lines = [
            line
            for rule in (self._kinds, self._fixed, self._shared)
            for line in rule(operators, hidden)
        ]
        if self.pairs:
            lines += self._unpaired(operators)
        lines += [
            f"no operator {kind!r}; it needs at least one"
            for kind in self.needs
            if not any(spec.kind == kind for spec in operators)
        ]
        if self.max_meta_tokens is not None and meta > self.max_meta_tokens:
            lines.append(f"{meta} meta tokens; it has at most {self.max_meta_tokens}")
        return lines

    def _kinds(self, operators: tuple[OperatorSpec, ...], hidden: int) -> Iterator[str]:
        for place, spec in enumerate(operators):
            if spec.kind not in self.demands:
                yield f"operator {place} is {spec.kind!r}; it has {', '.join(self.demands)}"

    def _fixed(self, operators: tuple[OperatorSpec, ...], hidden: int) -> Iterator[str]:
        for place, spec in enumerate(operators):
            full, demands = spec.resolved(hidden), self.demands.get(spec.kind, Demands())
            for name, value in demands.fixed.items():
                if getattr(full, name) != value:
                    yield (
                        f"operator {place}, {spec.kind!r}, has"
                        f" {name}={_shown(getattr(full, name))}; it has {_shown(value)}"
                    )
            for name in demands.nonzero:
                if not getattr(full, name):
                    yield (
                        f"operator {place}, {spec.kind!r}, has"
                        f" {name}={_shown(getattr(full, name))}; it needs another value"
                    )
            heads, size = (getattr(full, name, 0) for name in ("heads", "head_dim"))
            if demands.full_width and heads * size != hidden:
                yield (
                    f"operator {place}, {spec.kind!r}, has heads x head_dim = {heads} x {size}; it"
                    f" needs the width, {hidden}"
                )

    def _shared(self, operators: tuple[OperatorSpec, ...], hidden: int) -> Iterator[str]:
        first: dict[str, OperatorSpec] = {}
        for place, spec in enumerate(operators):
            full = spec.resolved(hidden)
            earlier = first.setdefault(spec.kind, full)
            for name in self.demands.get(spec.kind, Demands()).shared:
                ours, theirs = getattr(full, name), getattr(earlier, name)
                if ours != theirs:
                    yield (
                        f"operator {place}, {spec.kind!r}, has {name}={_shown(ours)} and an earlier"
                        f" one {_shown(theirs)}; one value holds for all {spec.kind!r}"
                    )
                    break

    @staticmethod
    def _unpaired(operators: tuple[OperatorSpec, ...]) -> Iterator[str]:
        after_mixer = False
        for place, spec in enumerate(operators):
            if spec.mixes_tokens and after_mixer:
                yield f"operator {place}, {spec.kind!r}, follows a token mixer; each needs an 'f' behind it"
            if not spec.mixes_tokens and not after_mixer:
                yield f"operator {place}, {spec.kind!r}, does not follow a token mixer"
            after_mixer = spec.mixes_tokens
        if after_mixer:
            yield (
                f"operator {len(operators) - 1}, {operators[-1].kind!r}, is the last one; each"
                " token mixer needs an 'f' behind it"
            )


def choose(architecture: Architecture, formats: Iterable[Format], target: str) -> Format:
    """The first format that holds the architecture; else ExportError with the nearest one and the
    first rule broken."""
    nearest, refusal = nearest_format(architecture, formats, target)
    if refusal:
        raise ExportError(refusal)
    return nearest


def nearest_format(
    architecture: Architecture, formats: Iterable[Format], target: str
) -> tuple[Format, str]:
    """The format with the fewest broken rules, and what `choose` says of it; "" where it holds the
    architecture."""
    nearest, problems = min(
        ((each, each.problems(architecture)) for each in formats), key=lambda pair: len(pair[1])
    )
    if not problems:
        return nearest, ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return nearest, f"{target} cannot hold this network as {nearest.name}: {problems[0]}{more}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
