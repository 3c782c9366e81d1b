"""What each operator costs, from the times of whole networks: for programs that cannot time a part
of one.

A network's time is taken as the sum of its operators' times and of a rest that all networks share:
embedding, head, and what the program does for each token. The time of a kind of operator is a part
in proportion to its parameters (what is read and multiplied), plus a constant, plus a part in
proportion to the root of its parameters (what moves along the width); of a kind with one or two
sizes, only the first or the first two of these. Weighted least squares with coefficients of at
least 0 finds them. Up to WIDTHS_ALONE widths, each is fitted by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import DeviceMemoryError, ExportError, SpaceError
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.operator_space import OperatorSpace

POOL = 40  # architectures that are drawn for each one that is chosen
COPIES = (1, 2, 4, 8)  # of an operator, where networks of the space do not tell its time
BOOTSTRAPS = 400
WIDTHS_ALONE = 3
# of the number of parameters, in millions
POWERS = (1.0, 0.0, 0.5)
REST = "rest"  # the name of what all networks share
Row = dict[Any, float]  # regressor -> how often
Times = tuple[float, float, float]  # microseconds: median, 10th and 90th percentile


class Terms:
    """Which regressors the times of operators and networks of some widths consist of: a kind of
    operator and a power of its parameters.

    left_out: regressors that networks cannot tell from others.
    """

    def __init__(self, space: OperatorSpace[Any], widths: Sequence[int]) -> None:
        self.space, self.widths, self.left_out = space, tuple(widths), set[Any]()
        self._specs: dict[tuple[str, int], OperatorSpec] = {}
        sizes: dict[str, set[int]] = {REST: {space.model.vocab * width for width in widths}}
        for width in widths:
            for spec in space.kinds_at(width):
                self._specs[str(spec.resolved(width)), width] = spec
                sizes.setdefault(_kind(spec), set()).add(spec.params(width))
        # as many coefficients as there are sizes
        self._powers = {kind: POWERS[: len(params)] for kind, params in sizes.items()}

    @property
    def names(self) -> list[Any]:
        pairs = [(kind, power) for kind, powers in self._powers.items() for power in powers]
        return [pair for pair in pairs if pair not in self.left_out]

    def of(self, name: str, width: int) -> Row:
        """Of an operator in notation with every option, or of REST."""
        kind, params = REST, self.space.model.vocab * width
        if name != REST:
            # an FFN that is narrower than those of the space is none of its operators
            spec = self._specs.get((name, width)) or parse_operators(name)[0]
            kind, params = _kind(spec), spec.params(width)
        terms = {(kind, power): (params / 1e6) ** power for power in self._powers[kind]}
        return {term: value for term, value in terms.items() if term not in self.left_out}

    def of_network(self, network: Architecture) -> Row:
        """Of all its operators, and of REST."""
        row: Row = {}
        specs = network.canonical().operators
        for name in (REST, *(str(spec.resolved(network.hidden)) for spec in specs)):
            for term, value in self.of(name, network.hidden).items():
                row[term] = row.get(term, 0.0) + value
        return row

    def matrix(self, networks: Iterable[Architecture]) -> np.ndarray:
        """The regressors of each network in the order of `names`, shape [networks, names]."""
        return matrix([self.of_network(network) for network in networks], self.names)

    def separable(self, networks: Sequence[Architecture]) -> bool:
        """Whether the times of these networks determine all coefficients."""
        return int(np.linalg.matrix_rank(self.matrix(networks))) == len(self.names)


def _kind(spec: OperatorSpec) -> str:
    """What has the same coefficients at all widths: FFNs of any width, else the same options."""
    return spec.kind if isinstance(spec, FeedForward) else str(spec)


class Fitted:
    """Coefficients of regressors, in microseconds, with those of bootstrapped residuals.

    errors: relative, of the networks that were fitted.
    """

    def __init__(
        self, names: Sequence[Any], values: np.ndarray, draws: np.ndarray, errors: np.ndarray
    ) -> None:
        self._index = {name: i for i, name in enumerate(names)}
        self._values, self._draws = values, draws
        self.errors = tuple(map(float, errors))

    def of(self, row: Row) -> Times:
        """The time of what consists of these regressors."""
        row = {name: count for name, count in row.items() if name in self._index}
        where, counts = [self._index[name] for name in row], np.array([*row.values()])
        value = float(self._values[where] @ counts) if where else 0.0
        draws = self._draws[:, where] @ counts if where else np.zeros(1)
        low, high = np.quantile(draws, (0.1, 0.9))
        return value, min(float(low), value), max(float(high), value)


def choose_networks(
    terms: Terms, rng: np.random.Generator, check: Callable[[Architecture], None]
) -> list[Architecture]:
    """Networks whose times determine those of the operators of a space, two for each unknown and
    two more, by a greedy D-optimal design over a random sample of the space. Where the sample does
    not tell the operators apart, since each mixer is followed by an FFN, it gets networks with FFNs
    of half the width; where the space has few networks, some with further copies of an operator are
    added.

    check: raises ExportError or DeviceMemoryError where the program cannot run a network; others
    are chosen then. Raises that error if it can run none, and SpaceError if no choice tells the
    operators apart.
    """
    space, pool = terms.space, dict[str, Architecture]()
    for _ in range(POOL * _count(terms)):
        genotype = space.sample(rng)
        if len(terms.widths) > 1:
            sizes = space.architectures(genotype)
        else:  # at one width of a family there may be few networks of the sizes asked for
            sizes = [space.architecture(genotype, terms.widths[0])]
        network = sizes[rng.integers(len(sizes))]
        pool.setdefault(network.hash, network)
    held = _runnable(pool.values(), check)
    if not terms.separable(held):  # since an FFN is behind each mixer
        with contextlib.suppress(ExportError, DeviceMemoryError):
            held += _runnable(map(with_half_ffns, held[::2]), check)
        if not terms.separable(held):  # one constant for both
            terms.left_out |= {(FeedForward.kind, 0.0)}
    networks = _design(held, terms, _count(terms))

    def enough() -> bool:
        return len(networks) >= _count(terms) and terms.separable(networks)

    if not enough():  # the space has few networks
        first = networks[0]
        copies = [
            with_copies(first, spec, n) for spec in space.kinds_at(first.hidden) for n in COPIES
        ]
        with contextlib.suppress(ExportError, DeviceMemoryError):
            networks = list(dict.fromkeys([*networks, *_runnable(copies, check)]))
    if not enough():
        raise SpaceError(
            f"space {space.name!r}: the times of its operators at width"
            f" {', '.join(map(str, terms.widths))} cannot be told apart by the {len(networks)}"
            " networks that can be timed"
        )
    return networks


def _count(terms: Terms) -> int:
    return 2 * len(terms.names) + 2


def _design(networks: Sequence[Architecture], terms: Terms, count: int) -> list[Architecture]:
    """The `count` networks that determine the coefficients best, or all if there are fewer."""
    x = terms.matrix(networks)
    rest = len(terms.of(REST, terms.widths[0]))
    x /= x[:, rest:].sum(1, keepdims=True)  # relative errors count
    x /= np.maximum(np.linalg.norm(x, axis=0), 1e-12)  # 0: of an operator that none has
    chosen: list[int] = []
    information = 1e-6 * np.eye(x.shape[1])
    while len(chosen) < min(count, len(networks)):
        gain = np.einsum("ij,jk,ik->i", x, np.linalg.inv(information), x)
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        information += np.outer(x[best], x[best])
    return [networks[i] for i in chosen]


def _runnable(
    networks: Iterable[Architecture], check: Callable[[Architecture], None]
) -> list[Architecture]:
    """Those that the program can run; raises what `check` raises if it can run none."""
    held = []
    reason: ExportError | DeviceMemoryError | None = None
    for network in networks:
        try:
            check(network)
            held.append(network)
        except (ExportError, DeviceMemoryError) as error:
            reason = reason or error
    if reason is not None and not held:
        raise reason
    return held


def with_copies(architecture: Architecture, spec: OperatorSpec, copies: int) -> Architecture:
    """The network with further copies of an operator at its end."""
    operators = (*architecture.operators, *copies * (spec.resolved(architecture.hidden),))
    return dataclasses.replace(architecture, operators=operators)


def with_half_ffns(architecture: Architecture) -> Architecture:
    """The network with FFNs of about half their width, in whole blocks of the types of weights."""

    def narrow(width: int) -> int:
        block = 256 if width > 256 and width % 256 == 0 else 32
        return max(block, width // (2 * block) * block)

    return dataclasses.replace(
        architecture,
        operators=tuple(
            dataclasses.replace(spec, intermediate=narrow(spec.intermediate))
            if isinstance(spec, FeedForward)
            else spec
            for spec in architecture.canonical().operators
        ),
    )


def matrix(rows: Sequence[Row], names: Sequence[Any]) -> np.ndarray:
    """The regressors of each row in the order of `names`, shape [rows, names]."""
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def fit(rows: Sequence[Row], measured_us: Sequence[float], rng: np.random.Generator) -> Fitted:
    """Coefficients of at least 0 with the least squared relative errors; percentiles by a bootstrap
    of the residuals. rows: the regressors of each measured network."""
    from scipy.optimize import nnls  # slow to import; estimates do not need it

    names = list(dict.fromkeys(name for row in rows for name in row))
    y = np.asarray(measured_us, float)
    x = matrix(rows, names) / y[:, None]
    values = nnls(x, np.ones(len(y)))[0]
    predicted = x @ values  # relative to the measured times
    spread = np.sqrt(len(y) / max(len(y) - len(names), 1))
    draws = [
        nnls(x, predicted + spread * rng.choice(1 - predicted, len(y)))[0]
        for _ in range(BOOTSTRAPS)
    ]
    return Fitted(names, values, np.array(draws), predicted - 1)
