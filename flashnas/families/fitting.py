"""What the format of another program can hold, as data, and the check of a network against it:
which programs run it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.operators import OperatorSpec


@dataclass(frozen=True)
class Demands:
    """What a format demands of one kind of operator.

    fixed: options that have one value only, or one of a list. shared: options that are equal in all
    operators of the kind. like: another kind, whose shared options have the same values. nonzero:
    options that must not be 0. full_width: heads x head_dim is the width of the network.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    shared: Sequence[str] = ()
    like: str = ""
    nonzero: Sequence[str] = ()
    full_width: bool = False

    def problems(self, full: Any, has: str, hidden: int) -> Iterator[str]:
        """What one operator, with every option explicit, breaks of these but for `shared`."""
        for name, value in self.fixed.items():
            allowed = value if isinstance(value, list) else [value]
            if getattr(full, name) not in allowed:
                words = " or ".join(map(_shown, allowed))
                yield f"{has} {name}={_shown(getattr(full, name))}; it has {words}"
        for name in self.nonzero:
            if not getattr(full, name):
                yield f"{has} {name}={_shown(getattr(full, name))}; it needs another value"
        if self.full_width and full.heads * full.head_dim != hidden:
            yield (
                f"{has} heads x head_dim = {full.heads} x {full.head_dim}; it needs the width,"
                f" {hidden}"
            )


@dataclass(frozen=True)
class Format:
    """The architectures that a program can run under one name.

    demands: rules by kind of operator. pairs: each token mixer has one feed-forward network behind
    it. needs: kinds of which there must be one. apart: kinds of which there may be one only.
    """

    name: str
    demands: Mapping[str, Demands]
    needs: tuple[str, ...]
    pairs: bool = False
    apart: tuple[str, ...] = ()

    def holds(self, architecture: Architecture) -> bool:
        """Whether the network breaks no rule."""
        kinds = {spec.kind for spec in architecture.operators}
        return kinds <= self.demands.keys() and not self.problems(architecture)

    def problems(self, architecture: Architecture) -> list[str]:
        """The rules that an architecture breaks, one line each."""
        operators = architecture.operators
        foreign, fixed, shared = list[str](), list[str](), list[str]()
        first: dict[tuple[str, str], Any] = {}
        resolved = {spec: spec.resolved(architecture.hidden) for spec in set(operators)}
        for n, spec in enumerate(operators):
            if (demands := self.demands.get(spec.kind)) is None:
                foreign.append(f"operator {n} is {spec.kind!r}; it has {', '.join(self.demands)}")
                continue
            full = resolved[spec]
            has = f"operator {n}, {spec.kind!r}, has"
            fixed += demands.problems(full, has, architecture.hidden)
            for name in demands.shared:
                both = demands.like and name in self.demands[demands.like].shared
                ours, kind = getattr(full, name), demands.like if both else spec.kind
                if ours != (theirs := first.setdefault((kind, name), ours)):
                    alike = f"{kind!r} and {spec.kind!r}" if both else repr(kind)
                    shared.append(
                        f"{has} {name}={_shown(ours)} and an earlier one {_shown(theirs)}; one"
                        f" value holds for all {alike}"
                    )
                    break
        lines = [*foreign, *fixed, *shared]
        if self.pairs:
            lines += self._unpaired(operators)
        kinds = {spec.kind for spec in operators}
        lines += [
            f"no operator {kind!r}; it needs at least one"
            for kind in self.needs
            if kind not in kinds
        ]
        if len(found := [kind for kind in self.apart if kind in kinds]) > 1:
            lines.append(f"operators {' and '.join(map(repr, found))}; it has one of them")
        if architecture.meta_tokens:
            lines.append(f"{architecture.meta_tokens} meta tokens; it has none")
        return lines

    def _unpaired(self, operators: tuple[OperatorSpec, ...]) -> Iterator[str]:
        after_mixer = False
        for n, spec in enumerate(operators):
            if spec.mixes_tokens and after_mixer:
                yield f"operator {n}, {spec.kind!r}, follows a token mixer; each needs an 'f' behind it"
            if not spec.mixes_tokens and not after_mixer:
                yield f"operator {n}, {spec.kind!r}, does not follow a token mixer"
            after_mixer = spec.mixes_tokens
        if after_mixer:
            yield (
                f"operator {len(operators) - 1}, {operators[-1].kind!r}, is the last one; each"
                " token mixer needs an 'f' behind it"
            )


def choose(architecture: Architecture, formats: Mapping[str, Format], target: str) -> str:
    """The name of the first format that holds the architecture; else ExportError with the closest one,
    rather one that has all its operators, and the first rule broken."""
    kinds = {spec.kind for spec in architecture.operators}
    broken = {name: form.problems(architecture) for name, form in formats.items()}
    closest = min(
        formats,
        key=lambda name: (len(broken[name]), not kinds <= formats[name].demands.keys()),
    )
    if not (problems := broken[closest]):
        return closest
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise ExportError(
        f"{target} cannot hold this network as {formats[closest].name}: {problems[0]}{more}"
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
