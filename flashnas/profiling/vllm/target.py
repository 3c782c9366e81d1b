"""vLLM: networks from a config.json with random weights, in the interpreter that has vLLM.

Any device that vLLM runs on can be timed so; what flashnas is installed with does not matter. Times are
those of the engine's clock.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.documents import convert
from flashnas.base.errors import ConfigError, DeviceError, ExportError
from flashnas.base.foreign import parse_json
from flashnas.base.settings import option
from flashnas.base.text import shown, warn_in_a_line
from flashnas.families.family import needed_family
from flashnas.latency.memory import USABLE_SHARE
from flashnas.latency.schema import Device
from flashnas.latency.validation import DISTURBED, spread
from flashnas.operators import OperatorSpec
from flashnas.profiling.target import STEPS, Steps, Target, Timings
from flashnas.profiling.vllm.session import ANSWER, Described, TimedRepeats, describe, running

VARIABLE = "FLASHNAS_VLLM_PYTHON"
TOKENS_AT_ONCE = 8192  # of vLLM's server
OWN = ("model", "load_format", "max_model_len", "max_num_seqs", "seed")  # not the user's
# the arguments that a table may name: others name classes, whose code runs
OF_TABLES = ("gpu_memory_utilization", "max_num_batched_tokens", "block_size", "enforce_eager")


@dataclass(frozen=True, kw_only=True)
class Vllm(Target, where="vllm"):
    """vLLM; its name is the mode of its rows. Raises ConfigError if the interpreter has no vLLM."""

    name = "vllm"
    steps_at_once = STEPS

    vllm_python: str = option("", "interpreter in which vLLM is installed")
    engine_option: tuple[str, ...] = option((), "NAME=VALUE of vllm.LLM")
    dtype: str = option("auto", "of weights and caches", choices=("auto", "float32", "bfloat16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.engine_option:
            name, value = _argument(text)
            if not name.isidentifier() or name in OWN or value is None:
                self.wrong(
                    "engine_option",
                    f"must be NAME=VALUE, an argument of vllm.LLM other than {', '.join(OWN)}, with"
                    f' its value in JSON, such as quantization="fp8"; got {shown(text)}',
                )
        self._described()

    # -- what it states

    def _described(self) -> Described:
        return describe(interpreter(self.vllm_python))

    @property
    def device(self) -> str:  # type: ignore[override]
        return self._described().device

    # On a CPU a start is short, and other programs disturb whole minutes; on a GPU it takes longer
    # than repeats.
    @property
    def rounds(self) -> int:  # type: ignore[override]
        return 3 if self.device == "cpu" else 1

    @property
    def repeats(self) -> int:
        """Of each prompt and each range of steps in one start, after one that does not count."""
        return 1 if self.device == "cpu" else 3

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of vllm.LLM."""
        given = dict(map(_argument, self.engine_option))
        return {"max_num_batched_tokens": TOKENS_AT_ONCE, "dtype": self.dtype_name, **given}

    @property
    def dtype_name(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.device == "cpu" else "bfloat16"

    @property
    def mode_name(self) -> str:
        return self.name

    @property
    def stack(self) -> str:
        threads = (f"{self.threads}t",) if self.device == "cpu" else ()
        given = (text.replace("=", "-") for text in sorted(self.engine_option))
        return "-".join(("vllm", self._described().version, *threads, *given))

    def describe_stack(self) -> dict[str, Any]:
        described = self._described()
        return {
            "framework": self.name,
            "version": described.version,
            "torch": described.torch,
            "threads": self.threads,
            "engine_option": list(self.engine_option),
        }

    @classmethod
    def of_rows(
        cls,
        described: Mapping[str, Any],
        *,
        dtype: str,
        vllm_python: str | None,
        **_: Any,
    ) -> Self:
        target = cls(
            dtype=dtype,
            threads=described["threads"],
            engine_option=described["engine_option"],
            vllm_python=vllm_python or "",
        )
        for name, _ in map(_argument, target.engine_option):
            if name not in OF_TABLES:
                raise ConfigError(
                    f"engine_option of a table may set {', '.join(OF_TABLES)}; got {shown(name)}"
                )
        return target

    # -- the device, which the interpreter of flashnas need not see

    def label(self) -> str:
        return self._described().label or super().label()

    def free_bytes(self) -> int:
        if self.device == "cpu":
            return super().free_bytes()
        return int(self._described().memory_bytes * USABLE_SHARE)

    def describe_device(self, name: str) -> Device:
        facts = self._described()
        return Device(
            name=name,
            platform=self.device,
            label=self.label(),
            peak_flops=facts.peak_flops,
            bandwidth_bytes_s=facts.bandwidth_bytes_s,
            memory_bytes=facts.memory_bytes,
            cite=f"measured by flashnas profile in vllm {facts.version}",
        )

    def table_name(self) -> str:
        """Such as `cuda_h100_80gb_hbm3_vllm`."""
        return f"{super().table_name()}_{self.name}"

    # -- timing

    def check_holds(self, network: Architecture) -> None:
        family = needed_family(network, "vLLM")
        program = family.loading(network).get(self.name)
        if program is None:
            raise ExportError(f"vLLM does not load {family.title}: {network.notation}")
        types = None if self.device != "cpu" else program.on_cpu
        if types is not None and self.dtype_name not in types:
            able = f"--dtype {' or '.join(types)}" if types else "a GPU"
            raise ExportError(
                f"{family.title} in vLLM needs {able}; got {self.dtype_name} on a CPU"
            )

    def times(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> Timings:
        family = needed_family(network, "vLLM")
        config = {**family.configuration(network), "torch_dtype": self.dtype_name}
        with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
            Path(folder, "config.json").write_text(json.dumps(config))
            session = running(interpreter(self.vllm_python), self.device, self.threads)
            question = {
                "folder": folder,
                "options": self.options,
                "vocab": network.vocab,
                "batch": batch,
                "prompts": list(prompts),
                # the first step of each follows at least one token
                "steps": [[max(part[0], 2), max(part[-1], 2)] for part in steps],
                "repeats": self.repeats,
            }
            answer = convert(session.ask(question), TimedRepeats, error=DeviceError, name=ANSWER)
        if (len(answer.prompts), len(answer.steps)) != (len(prompts), len(steps)):
            raise DeviceError("vLLM answered other times than those that were asked for")
        prompts_ms, steps_ms = (
            [float(np.median(repeats)) for repeats in part]
            for part in (answer.prompts, answer.steps)
        )
        if max(map(spread, (*answer.prompts, *answer.steps)), default=0.0) > DISTURBED:
            warn_in_a_line(
                f"repeats of a time in one start of vLLM differ by more than {DISTURBED:.0%}; measure in"
                " another folder when nothing else runs"
            )
        return Timings(prompts_ms, steps_ms)

    def timed_steps(
        self, specs: Sequence[tuple[OperatorSpec, int]], first: int, last: int
    ) -> dict[int, Steps]:
        """STEPS around each context, all of which follow a token."""
        contexts = super().timed_steps(specs, first, last)
        starts = {context: max(context - STEPS // 2, 2) for context in contexts}
        return {context: range(start, start + STEPS) for context, start in starts.items()}


def interpreter(given: str) -> str:
    """The interpreter that has vLLM: the given one, that of the environment variable, or this one.
    Raises ConfigError if there is none."""
    if python := given or os.environ.get(VARIABLE, ""):
        return python
    if importlib.util.find_spec("vllm"):
        return sys.executable
    raise ConfigError(
        "--vllm-python PATH must name the interpreter in which vLLM is installed, such as"
        f" ~/vllm/bin/python; so may the environment variable {VARIABLE}"
    )


def _argument(text: str) -> tuple[str, Any]:
    """Name and value of an engine option; None for a value that is not JSON."""
    name, _, value = text.partition("=")
    try:
        return name, parse_json(value, name, ConfigError, parse_constant=int)  # NaN is none
    except ConfigError:
        return name, None
