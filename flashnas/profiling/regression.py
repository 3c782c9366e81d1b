"""What each operator costs, from the times of whole networks: for programs that cannot time a part
of one.

A network's time is taken as the sum of its operators' times and of a rest that all networks of a
width share: embedding, head, and what the program does for each token. Weighted least squares with
coefficients of at least 0 finds them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError, SpaceError
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.operator_space import OperatorSpace

POOL = 40  # architectures that are drawn for each one that is chosen
HALVED = 3  # networks with narrower FFNs, where an FFN follows each mixer
COPIES = (1, 2, 4, 8)  # of an operator, where networks of the space do not tell its time
BOOTSTRAPS = 400
REST = "rest"  # the regressor of what all networks share
Row = dict[Any, float]  # regressor -> how often


@dataclass(frozen=True)
class Fitted:
    """Regressor -> microseconds (value, 10th and 90th percentile), and the relative errors of the
    networks."""

    values: dict[Any, tuple[float, float, float]]
    errors: tuple[float, ...]


def counts(architecture: Architecture, full: Sequence[OperatorSpec]) -> Row:
    """How often a network has each operator, by its notation with every option, and the rest once.
    An FFN that is narrower than the one in `full` counts by the share of its width."""
    hidden = architecture.hidden
    widths = {
        spec.resolved(hidden).intermediate: str(spec.resolved(hidden))
        for spec in full
        if isinstance(spec, FeedForward)
    }
    row: Row = {REST: 1.0}
    for spec in architecture.canonical().operators:
        name, share = str(spec.resolved(hidden)), 1.0
        if isinstance(spec, FeedForward) and spec.intermediate not in widths:
            whole = min(width for width in widths if width >= spec.intermediate)
            name, share = widths[whole], spec.intermediate / whole
        row[name] = row.get(name, 0.0) + share
    return row


def choose_networks(
    space: OperatorSpace[Any],
    hidden: int,
    rng: np.random.Generator,
    check: Callable[[Architecture], None],
) -> list[Architecture]:
    """Networks whose times determine those of the operators of a space, two for each unknown and
    two more, by a greedy D-optimal design over a random sample of the space. Where these do not
    tell the operators apart, since each mixer is followed by an FFN or since the space has few
    networks, others are added: with FFNs of half the width, and with further copies of an operator.

    check: raises ExportError where the program cannot run a network; others are chosen then. Raises
    ExportError if it can run none, and SpaceError if no choice tells the operators apart.
    """
    kinds = space.kinds_at(hidden)
    names = [REST, *(str(spec.resolved(hidden)) for spec in kinds)]
    count = 2 * len(names) + 2
    pool: dict[str, Architecture] = {}
    for _ in range(POOL * count):
        architecture = space.architecture(space.sample(rng), hidden)
        pool.setdefault(architecture.hash, architecture)
    networks = _design(_runnable(pool.values(), check), names, kinds, count)

    def enough() -> bool:
        x = matrix([counts(network, kinds) for network in networks], names)
        return len(networks) >= count and np.linalg.matrix_rank(x) == len(names)

    for others in (
        [with_half_ffns(network) for network in networks[:HALVED]],
        [with_copies(networks[0], spec, n) for spec in kinds for n in COPIES],
    ):
        if not enough():
            with contextlib.suppress(ExportError):
                networks += _runnable(others, check)
    if not enough():
        raise SpaceError(
            f"space {space.name!r}: the times of its {len(kinds)} operators at width {hidden} cannot"
            f" be told apart by the {len(networks)} networks that can be timed"
        )
    return networks


def _design(
    networks: Sequence[Architecture],
    names: Sequence[str],
    kinds: Sequence[OperatorSpec],
    count: int,
) -> list[Architecture]:
    """The `count` networks that determine the times of `names` best, or all if there are fewer."""
    x = matrix([counts(network, kinds) for network in networks], names)
    x /= x[:, 1:].sum(1, keepdims=True)  # relative errors count
    chosen: list[int] = []
    information = 1e-6 * np.eye(len(names))
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
    held, reason = [], None
    for network in networks:
        try:
            check(network)
            held.append(network)
        except ExportError as error:
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
    low, high = np.quantile(draws, (0.1, 0.9), axis=0)
    return Fitted(
        {
            name: (float(values[i]), float(min(low[i], values[i])), float(max(high[i], values[i])))
            for i, name in enumerate(names)
        },
        tuple(map(float, predicted - 1)),
    )
