"""llama.cpp: networks from files with random weights, in a process of its own, one sequence at a
time.

With one thread, times are those that the processor spent for the process: other programs change
them less. With several threads they are those of the clock, and the machine must be quiet.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError
from flashnas.base.settings import option
from flashnas.latency.workload import Workload
from flashnas.operators import OperatorSpec
from flashnas.profiling.llama_cpp.child import describe, time_requests
from flashnas.profiling.target import STEPS, Steps, Target, Timings

PIECE_TOKENS = 256  # attention is computed over the next multiple of this many tokens
MARGIN = 8  # tokens between the last step that is timed in a piece and the piece's end

# -> dtype of rows
WEIGHTS = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    **{name: name for name in ("q8_0", "q6_k", "q4_0", "q4_k")},
}
LIBRARIES = ("xllamacpp", "gguf")
CACHE_TYPE = "f16"  # of keys and values, as in llama.cpp by itself


@dataclass(frozen=True, kw_only=True)
class LlamaCpp(Target, where="llama_cpp"):
    """llama.cpp; its name is the mode of its rows. Its own default is attention in one pass, which
    can double the time of an attention layer on a CPU; here it is an option."""

    name = "llama.cpp"
    steps_at_once = STEPS

    weights: str = option("q8_0", "type of the weights", choices=WEIGHTS)
    flash_attention: bool = option(False, "compute attention in one pass")

    def __post_init__(self) -> None:
        super().__post_init__()
        lacking = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(
                f"llama.cpp is run through {' and '.join(LIBRARIES)}; {' and '.join(lacking)}"
                f" {'is' if len(lacking) == 1 else 'are'} not installed: pip install"
                " 'flashnas[llama-cpp]'"
            )

    @property
    def dtype_name(self) -> str:
        return WEIGHTS[self.weights]

    @property
    def mode_name(self) -> str:
        return self.name

    @property
    def stack(self) -> str:
        attention = "flash" if self.flash_attention else "plain"
        return (
            f"llama.cpp-xllamacpp-{version('xllamacpp')}-{self.threads}t-{self.weights}"
            f"-{attention}-attention-{CACHE_TYPE}-cache"
        )

    def describe_stack(self) -> dict[str, Any]:
        return {
            "framework": self.name,
            **vars(self),
            "cache_type": CACHE_TYPE,
            "time": "of the processor" if self.threads == 1 else "of the clock",
            "version": version("xllamacpp"),
            **_build(),
        }

    @classmethod
    def of_rows(cls, described: Mapping[str, Any], **_: Any) -> Self:
        return cls(**{field.name: described[field.name] for field in fields(cls)})

    def table_name(self) -> str:
        """Such as `cpu_epyc_llama_cpp_q8_0`, or `cpu_epyc_llama_cpp_q8_0_2t` with two threads."""
        parts = [super().table_name(), self.name.replace(".", "_"), self.dtype_name]
        return "_".join([*parts, f"{self.threads}t"] if self.threads > 1 else parts)

    def check_holds(self, architecture: Architecture) -> None:
        from flashnas.families.gguf.families import architecture_name
        from flashnas.families.gguf.file import check_rows

        architecture_name(architecture)
        check_rows(architecture, self.weights)

    def check_workload(self, workload: Workload) -> None:
        if workload.batch != 1:
            raise ConfigError(
                f"{self.name} is timed with one sequence at a time; workload {workload.name}"
                f" has batch {workload.batch}"
            )

    def times(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> Timings:
        from flashnas.families.gguf.file import write_random_file

        # the first step of each part follows at least one token
        contexts = [max(part[-1], len(part) + 1) for part in steps]
        try:
            with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
                file = Path(folder) / "model.gguf"
                write_random_file(file, network, self.weights)
                answer = time_requests(
                    file,
                    prompts=prompts,
                    contexts=contexts,
                    steps=len(steps[0]) if steps else 0,
                    vocab=network.vocab,
                    threads=self.threads,
                    flash_attention=self.flash_attention,
                    cache_type=CACHE_TYPE,
                )
        except DeviceError as error:
            raise DeviceError(f"{network}: {error}") from None
        clock = "cpu_ms" if self.threads == 1 else "wall_ms"
        prompts_ms, steps_ms = (
            [entry[clock] for entry in answer[part]] for part in ("prompts", "contexts")
        )
        return Timings(prompts_ms, steps_ms)

    def timed_steps(
        self, specs: Sequence[tuple[OperatorSpec, int]], first: int, last: int
    ) -> dict[int, Steps]:
        """Steps at the ends of pieces, each about twice the one before; a row is for the middle of
        its piece."""
        piece, last = (-(-count // PIECE_TOKENS) * PIECE_TOKENS for count in (first, last))
        steps = {}
        while True:
            end = max(piece - MARGIN, STEPS + 1) + 1
            steps[piece - PIECE_TOKENS // 2] = range(end - STEPS, end)
            if piece >= last:
                return steps
            piece = min(2 * piece, last)


@functools.cache
def _build() -> dict[str, str]:
    return describe()
