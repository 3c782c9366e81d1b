"""What the format of another program can hold, as data.

An architecture that fits is left as it is. Any other is changed where it breaks a rule, so that an error can name the
place, the rule and the nearest architecture that fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError, OperatorError
from flashnas.operators import OperatorSpec, operator_class


@dataclass(frozen=True)
class Demands:
    """What a format demands of one kind of operator.

    fixed: options that have one value only. shared: options that are equal in all operators of the kind. nonzero:
    options that must not be 0, with the value that a repair takes.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    nonzero: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """The nearest architecture that a format holds, and what was changed, one line each; empty if it fits as it is."""

    architecture: Architecture
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """The architectures that a program can run under one name.

    Args:
        name: as the program has it.
        recurrent, attention, feed_forward: the kinds of operators that it has, one for each purpose.
        demands: rules by kind.
        pairs: each token mixer has one feed-forward network behind it.
        needs: the purposes of which a network needs at least one operator.
        most_meta_tokens: None: any number.
    """

    name: str
    demands: Mapping[str, Demands]
    recurrent: str = "m2"
    attention: str = "a"
    feed_forward: str = "f"
    pairs: bool = False
    needs: tuple[str, ...] = ("recurrent", "attention")
    most_meta_tokens: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.recurrent, self.attention, self.feed_forward

    def fit(self, architecture: Architecture) -> Fit:
        """The nearest architecture that fits and what was changed for it."""
        problems: list[str] = []
        hidden, meta = architecture.hidden, architecture.meta_tokens
        operators = self._of_its_kinds(architecture, problems)
        operators = [self._with_fixed(place, spec, hidden, problems) for place, spec in enumerate(operators)]
        operators = self._alike(operators, hidden, problems)
        if self.pairs:
            operators = self._paired(operators, problems)
        operators = self._complete(operators, hidden, problems)
        if self.most_meta_tokens is not None and meta > self.most_meta_tokens:
            problems.append(f"{meta} meta tokens; it has at most {self.most_meta_tokens}")
            meta = self.most_meta_tokens
        if not problems:
            return Fit(architecture, ())
        return Fit(dataclasses.replace(architecture, operators=tuple(operators), meta_tokens=meta), tuple(problems))

    # -- rules -----------------------------------------------------------------------------------------------------

    def _of_its_kinds(self, architecture: Architecture, problems: list[str]) -> list[OperatorSpec]:
        operators = list(architecture.operators)
        for place, spec in enumerate(operators):
            if spec.kind in self.kinds:
                continue
            problems.append(f"operator {place} is {spec.kind!r}; it has {', '.join(self.kinds)}")
            attends = spec.family == "attention"
            kind = self.feed_forward if not spec.mixes_tokens else self.attention if attends else self.recurrent
            operators[place] = self._usual(kind, operators, architecture.hidden)
        return operators

    def _usual(self, kind: str, operators: Iterable[OperatorSpec], hidden: int) -> OperatorSpec:
        """An operator of a kind as the network has it elsewhere, or with heads that divide its width."""
        for spec in operators:
            if spec.kind == kind:
                return spec
        demands = self.demands.get(kind, Demands())
        options = {**demands.nonzero, **demands.fixed}
        default = operator_class(kind)()
        if dim := getattr(default, "head_dim", 0):
            options["head_dim"] = next(size for size in (dim, 64, 32, 16, 8, 4, 2, 1) if hidden % size == 0)
        return dataclasses.replace(default, **options)

    def _with_fixed(self, place: int, spec: OperatorSpec, hidden: int, problems: list[str]) -> OperatorSpec:
        full, demands = spec.resolved(hidden), self.demands.get(spec.kind, Demands())
        changes: dict[str, Any] = {}
        for name, value in demands.fixed.items():
            if getattr(full, name) != value:
                problems.append(f"operator {place}, {spec.kind!r}, has {name}={_shown(getattr(full, name))}; it has"
                                f" {_shown(value)}")
                changes[name] = value
        for name, value in demands.nonzero.items():
            if not getattr(full, name):
                problems.append(f"operator {place}, {spec.kind!r}, has {name}={_shown(getattr(full, name))}; it needs"
                                " another value")
                changes[name] = value
        return _changed(spec, changes, hidden, self._usual(spec.kind, (), hidden)) if changes else spec

    def _alike(self, operators: list[OperatorSpec], hidden: int, problems: list[str]) -> list[OperatorSpec]:
        first: dict[str, OperatorSpec] = {}
        for place, spec in enumerate(operators):
            model, full = first.setdefault(spec.kind, spec), spec.resolved(hidden)
            shared = self.demands.get(spec.kind, Demands()).shared
            for name in shared:
                ours, needed = getattr(full, name), getattr(model.resolved(hidden), name)
                if ours != needed:
                    problems.append(f"operator {place}, {spec.kind!r}, has {name}={_shown(ours)} and an earlier one"
                                    f" {_shown(needed)}; one value holds for all {spec.kind!r}")
                    operators[place] = _changed(
                        spec, {name: getattr(model, name) for name in shared}, hidden, model)
                    break
        return operators

    def _paired(self, operators: list[OperatorSpec], problems: list[str]) -> list[OperatorSpec]:
        paired: list[OperatorSpec] = []
        usual = next((spec for spec in operators if not spec.mixes_tokens), operator_class(self.feed_forward)(
            **self.demands.get(self.feed_forward, Demands()).fixed))
        for place, spec in enumerate(operators):
            after_mixer = bool(paired) and paired[-1].mixes_tokens
            if spec.mixes_tokens and after_mixer:
                problems.append(f"operator {place}, {spec.kind!r}, follows a token mixer; each needs an 'f' behind it")
                paired.append(usual)
            if not spec.mixes_tokens and not after_mixer:
                problems.append(f"operator {place}, {spec.kind!r}, does not follow a token mixer")
                continue
            paired.append(spec)
        if paired and paired[-1].mixes_tokens:
            problems.append(f"operator {len(operators) - 1}, {operators[-1].kind!r}, is the last one; each token mixer"
                            " needs an 'f' behind it")
            paired.append(usual)
        return paired

    def _complete(self, operators: list[OperatorSpec], hidden: int, problems: list[str]) -> list[OperatorSpec]:
        """At least one operator of every purpose: one is put at the end."""
        for purpose in self.needs:
            kind = getattr(self, purpose)
            if not any(spec.kind == kind for spec in operators):
                problems.append(f"no operator {kind!r}; it needs at least one")
                operators = [*operators, self._usual(kind, operators, hidden)]
                if self.pairs:
                    operators.append(self._usual(self.feed_forward, operators, hidden))
        return operators


def choose(architecture: Architecture, formats: Iterable[Format], target: str) -> Format:
    """The first format that holds the architecture.

    Raises:
        ExportError: none does. The line names the format that needs the fewest changes, the first rule that is broken,
            and the nearest architecture.
    """
    fits = [(each, each.fit(architecture)) for each in formats]
    nearest, fit = min(fits, key=lambda pair: len(pair[1].problems))
    if not fit.problems:
        return nearest
    more = f" (and {len(fit.problems) - 1} more)" if len(fit.problems) > 1 else ""
    raise ExportError(f"{target} cannot hold this network as {nearest.name}: {fit.problems[0]}{more}; the nearest"
                      f" architecture that fits: {fit.architecture}")


def _changed(spec: OperatorSpec, changes: Mapping[str, Any], hidden: int, otherwise: OperatorSpec) -> OperatorSpec:
    """The operator with other options; `otherwise` where its remaining ones do not go with them."""
    changed = dataclasses.replace(spec, **changes)
    try:
        changed.params(hidden)
    except OperatorError:
        return otherwise
    return changed


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
