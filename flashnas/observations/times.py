"""Observed times: networks that somebody has run in a program on a device. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from flashnas.architecture import Architecture
from flashnas.base.text import INTERVAL_90
from flashnas.latency.calibration import SOURCE_SPREAD
from flashnas.latency.workload import Workload
from flashnas.observations.observation import Observation

MIN_MS, MAX_MS = 1e-6, 1e9  # a nanosecond, eleven days
# standard deviation of ln(time) where none is stated: a median in another process
REPEAT_SD = SOURCE_SPREAD["measured"] / INTERVAL_90


@dataclass(frozen=True, kw_only=True)
class ObservedTime(Observation):
    """The time of a network under a workload.

    milliseconds: of latency_ms, ttft_ms and tpot_ms (latency/metrics.py) those that were observed.
    noise: standard deviation of the logarithm of a time. device: empty for that of the table.

    Example:
        >>> import flashnas as fn
        >>> from flashnas.latency.workload import load_workload
        >>> network = fn.Architecture.parse("2048: 12x(a f)")
        >>> time = fn.ObservedTime(network=network, workload=load_workload("decode-8k"),
        ...                        program="vllm 0.32", milliseconds={"latency_ms": 14_200.0})
        >>> time.milliseconds["latency_ms"]
        14200.0
    """

    network: Architecture
    workload: Workload
    program: str
    device: str = ""
    milliseconds: Mapping[str, float]

    @property
    def sd(self) -> float:
        """noise, or the usual one of a repeat."""
        return REPEAT_SD if self.noise is None else self.noise

    @property
    def facts(self) -> str:
        """All that a prediction depends on: the same for the same observation."""
        requests = dataclasses.replace(self.workload, name="").to_dict()
        times = sorted(self.milliseconds.items())
        return repr((self.network.hash, requests, self.program, times, self.sd))
