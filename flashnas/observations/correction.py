"""Predicted milliseconds, corrected by observed ones.

The logarithm of observed / predicted, of a network in one phase (prompt or generation) of a
workload, is Gaussian: a common factor, by which this program differs from what the table was fitted
to, plus a deviation of the network, plus what another repeat changes. Deviations of one phase are
alike as far as the networks are (`alike`): in the share of each kind of operator, of embedding,
head and host in the time, in width and in depth. Times of another workload inform by the same rule:
another context has other shares, and another phase has the common factor alone in common.

The variance is that of the 90 % interval of the estimates of the networks that were observed; a part
of it, COMMON, is of the factor. Each grows where the observations ask for more, because the interval
of a table says nothing of programs that it was not fitted to.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture.networks import Networks
from flashnas.base.documents import fingerprint
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.text import INTERVAL_90, did_you_mean, printable, warn_in_a_line
from flashnas.latency.metrics import (
    EMBEDDING,
    HEAD,
    HOST,
    Request,
)
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.workload import Workload
from flashnas.observations.read_times import read_times
from flashnas.observations.times import REPEAT_SD, ObservedTime
from flashnas.operators import OPERATORS

# chosen on published speeds of engines, and on tables of other devices
COMMON = 0.1
# differences at which the correlation of two deviations is exp(-1/2): of the share of an operator,
# and of ln(width) and ln(layers)
SHARE_SCALE, SIZE_SCALE = 0.2, 0.7
LEAST_SD = 1e-5  # of the logarithm of an observed time
ROUNDS = 8  # of the linearisation of a request in the factors of its phases
IN_PHASES = {"latency_ms": (1, 1), "ttft_ms": (1, 0), "tpot_ms": (0, 1)}


def corrected(model: LatencyModel, *paths: str | Path) -> LatencyModel:
    """The model, corrected by the times in files or folders (`read_times`). Times on another device
    than the table's, or with another type of weights, are left out; a warning counts them.

    Raises:
        ConfigError: with file, line, rule and value; also where no time is left.
    """
    place = ", ".join(map(printable, paths))
    device, dtype = model.table.device, model.workload.dtype
    names = {*map(str.lower, (model.table.name, device.name, device.label, ""))}
    # bfloat16 is as fast as float16
    alike_types = {"auto", model.dtype, model.dtype.removeprefix("b"), f"b{model.dtype}"}
    used = []
    others: Counter[str] = Counter()
    for time in read_times(*paths):
        workload = time.workload
        if workload.dtype in alike_types:
            workload = dataclasses.replace(workload, dtype=dtype)
        if time.device.lower() not in names:
            others[time.device] += 1
        elif workload.dtype != dtype:
            others[workload.dtype] += 1
        else:
            used.append(dataclasses.replace(time, workload=workload))
    left_out = ", ".join(f"{count} of {printable(name)}" for name, count in others.items())
    if not used:
        raise ConfigError(
            f"{place}: must have a time on {model.table.name} in {model.dtype}; got"
            f" {left_out}{did_you_mean(next(iter(others)), names)}"
        )
    if others:
        warn_in_a_line(f"{place}: left out, because not on {model.table.name}: {left_out}")
    return model.corrected_by(TimesCorrection(model, used))


class TimesCorrection:
    """What observed times say of those that a table predicts, under any workload.

    Args:
        model: of the table, without a correction.
        times: of one program on the table's device; at least one. Their order does not matter.

    Raises:
        ConfigError: the table cannot predict an observed time.
    """

    def __init__(self, model: LatencyModel, times: Sequence[ObservedTime]) -> None:
        self.times = sorted(times, key=lambda time: time.facts)
        self._networks = {time.network.hash for time in self.times}
        self._columns = {name: i for i, name in enumerate((EMBEDDING, HEAD, *OPERATORS, HOST))}
        self._ask(model)
        self._fit()
        mean, sd = self._common * self._pulled.sum(), self._common_sd
        factor = np.exp([mean, mean - INTERVAL_90 * sd, mean + INTERVAL_90 * sd])
        self.observed = {
            "program": self.times[0].program,
            "device": model.table.device.label or model.table.name,
            "times": len(self.times),
            "networks": sorted(self._networks),
            "ratio": np.exp([f(self._ratios) for f in (np.mean, np.min, np.max)]).tolist(),
            "factor": factor.tolist(),
            "digest": fingerprint([time.facts for time in self.times]),
        }

    # -- what was observed

    def _ask(self, table: LatencyModel) -> None:
        """Predict it. _points: coordinates, shape [times, 2 phases, coordinates]. Of each observed
        number: _shares, those of the phases of each network in it, shape [numbers, 2 x times],
        _ratios, ln(observed / predicted), and _noise."""
        points, shares, ratios, noise, widths = [], [], [], [], []
        for i, time in enumerate(self.times):
            model = table.at(time.workload)
            try:
                estimate = model.estimate(time.network)
            except FlashnasError as error:
                raise ConfigError(f"{time.place}: {error}") from None
            networks = Networks.of([time.network])
            request = model.request(networks, estimate.batch)
            milliseconds, coordinates = self._coordinates(model, networks, request)
            points.append(coordinates[0])
            widths.append(half_width(estimate.bounds["latency_ms"]))
            for name, observed in time.milliseconds.items():
                if not (predicted := estimate.metric(name)):
                    raise ConfigError(
                        f"{time.place}: {name} must be empty, because the workload has no such"
                        f" phase; got {observed:g}"
                    )
                share = np.zeros((len(self.times), 2))
                share[i] = milliseconds[0] * IN_PHASES[name]
                shares.append(share.ravel() / share.sum())
                ratios.append(np.log(observed / predicted))
                noise.append(max(time.sd, LEAST_SD))
        self._points = np.array(points)
        self._shares, self._ratios, self._noise = map(np.array, (shares, ratios, noise))
        self._sd = float(np.sqrt(np.mean(np.square(widths)))) / INTERVAL_90

    def _coordinates(
        self, model: LatencyModel, networks: Networks, request: Request
    ) -> tuple[np.ndarray, np.ndarray]:
        """Milliseconds by phase over the whole request, shape [N, 2]; and in each phase the shares
        of the operators, ln(width) and ln(layers), in units of their scales, [N, 2, coordinates].
        """
        steps = model.workload.generated_tokens
        total = np.stack([request.ttft_ms, request.tpot_ms * steps], axis=-1)
        pairs, embedding, head = model.parts_us(networks, request.batch)
        shares = np.zeros((len(networks), 2, len(self._columns)))
        shares[..., self._columns[EMBEDDING]] = embedding
        shares[..., self._columns[HEAD]] = head
        kinds = np.array([spec.kind for spec, _ in networks.pairs])
        for kind in np.unique(kinds):
            for phase, us in enumerate(pairs.T):
                shares[:, phase, self._columns[kind]] = networks.totals_of(us * (kinds == kind))
        shares /= np.maximum(total, 1e-300)[..., None] * 1000
        shares[..., -1] = 1 - shares.sum(axis=-1)  # host
        layers = np.array([len(operators) for operators in networks.compositions])
        sizes = np.stack([networks.hidden, layers[networks.composition]], axis=-1)
        logs = np.repeat(np.log(sizes)[:, None], 2, axis=1)
        return total, np.concatenate((shares / SHARE_SCALE, logs / SIZE_SCALE), axis=-1)

    # -- the posterior

    def _fit(self) -> None:
        """_common and _deviation: variances. _pulled: [numbers], what a correlation with each adds
        to a mean. _inverse: of the covariance of the numbers."""
        own = alike(self._points, self._points)
        shares, means = self._shares, np.zeros(len(own))
        for _ in range(ROUNDS):
            pull = shares * np.exp(means)
            total = pull.sum(axis=1, keepdims=True)
            self._pull = pull = pull / total
            between = pull @ own @ pull.T
            # as if a request were linear in the logarithms of its phases
            ratios = self._ratios - np.log(total[:, 0]) + pull @ means
            self._common, self._deviation = self._variances(between, ratios)
            covariance = self._common + self._deviation * between
            self._inverse = np.linalg.inv(covariance + np.diag(self._noise**2))
            self._pulled = self._inverse @ ratios
            means = self._common * self._pulled.sum() + self._deviation * (
                own @ (pull.T @ self._pulled)
            )
        left = 1 - self._common * self._inverse.sum()
        self._common_sd = float(np.sqrt(max(self._common * left, 0.0)))

    def _variances(self, own: np.ndarray, ratios: np.ndarray) -> tuple[float, float]:
        """Of the common factor and of the deviations: those of the interval, or as much as the
        ratios scatter around their mean, and the mean around 0."""
        deviation = (1 - COMMON) * self._sd**2
        noise = np.maximum(self._noise, REPEAT_SD)  # repeats are rarely as near as they say
        inverse = np.linalg.inv(deviation * own + np.diag(noise**2))
        of_mean = 1 / inverse.sum()
        mean = of_mean * (inverse @ ratios).sum()
        if len(self._networks) > 1:
            rest, degrees = ratios - mean, len(ratios) - 1
        else:  # one network does not tell them apart: half of its variance is of each
            rest, degrees = ratios / np.sqrt(2), 1
        more = max(1.0, float(rest @ inverse @ rest) / degrees)
        common = max(COMMON * self._sd**2, float(mean**2 - more * of_mean))
        return common, more * deviation

    # -- predictions

    def factors(self, model: LatencyModel, networks: Networks, request: Request) -> np.ndarray:
        """By which the phases of a request to each network are longer than by the table, [N, 2]."""
        _, points = self._coordinates(model, networks, request)
        return np.exp(self._covariances(points) @ self._pulled).reshape(-1, 2)

    def _covariances(self, points: np.ndarray) -> np.ndarray:
        """With the observed numbers, [2 N, numbers]."""
        return self._common + self._deviation * (alike(points, self._points) @ self._pull.T)

    def bounds(
        self, model: LatencyModel, networks: Networks, request: Request
    ) -> dict[str, tuple[Any, Any]]:
        """The interval of each metric that is a time or a rate."""
        milliseconds, points = self._coordinates(model, networks, request)
        covariances = self._covariances(points).reshape(len(networks), 2, -1)
        left = self._common + self._deviation * np.eye(2)
        left = left - covariances @ self._inverse @ covariances.transpose(0, 2, 1)
        rate = "tpot_ms" if request.workload.generated_tokens else "ttft_ms"
        table, bounds = request.bounds(), {}
        for name, values in request.figures().items():
            shares = milliseconds * request.factors * IN_PHASES.get(name, IN_PHASES[rate])
            shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
            variance = np.einsum("na,nab,nb->n", shares, left, shares)
            # wider where the table's own interval is, and never below what a repeat changes
            wider = np.maximum(1, half_width(table[name]) / INTERVAL_90 / self._sd)
            sd = np.maximum(wider * np.sqrt(np.maximum(variance, 0)), self._noise.min())
            bounds[name] = values * np.exp(-INTERVAL_90 * sd), values * np.exp(INTERVAL_90 * sd)
        return bounds

    def latencies_of(self, workload: Workload) -> list[tuple[str, float, int]]:
        """Of each time of a network under a workload: hash, latency_ms, and how many steps it lacks: a
        program that ends with the last token drawn takes one less after a prompt."""
        found = []
        for time in self.times:
            ms, steps = time.milliseconds, time.workload.generated_tokens
            less = workload.generated_tokens - steps
            others = {"name": workload.name, "generated_tokens": workload.generated_tokens}
            if "latency_ms" in ms:
                latency_ms = ms["latency_ms"]
            elif "tpot_ms" in ms and ("ttft_ms" in ms or not workload.prompt_tokens):
                latency_ms = ms.get("ttft_ms", 0.0) + steps * ms["tpot_ms"]
            else:
                continue
            same = {**vars(time.workload), **others} == vars(workload)
            if same and 0 <= less <= bool(workload.prompt_tokens):
                found.append((time.network.hash, latency_ms, less))
        return found


def half_width(bounds: Sequence[Any]) -> Any:
    """Of an interval, or of each [N], as a logarithm; 0 where there is no such time."""
    lower, upper = map(np.asarray, bounds)
    there = lower > 0
    return np.log(np.where(there, upper, 1.0) / np.where(there, lower, 1.0)) / 2


def alike(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlations of the deviations at coordinates [N, 2, C] and [M, 2, C], shape [2 N, 2 M]; 0
    between two phases."""
    squares = np.square(points).sum(-1)[:, None] + np.square(others).sum(-1)
    squares = squares - 2 * np.einsum("npc,mpc->nmp", points, others)
    within = np.exp(-np.maximum(squares, 0) / 2)
    return np.einsum("nmp,pq->npmq", within, np.eye(2)).reshape(2 * len(points), -1)
