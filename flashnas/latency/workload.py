"""Workload: the requests that a device serves, and the types of numbers that it serves them in."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from flashnas.base.documents import LocatedDict, convert, read_yaml
from flashnas.base.errors import WorkloadError
from flashnas.base.text import did_you_mean, number_of, one_of

# of an activation and of what caches hold; fp8 and the quantized types, as llama.cpp names them,
# hold weights only
DTYPE_BYTES = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "fp8": 2,
    "q8_0": 2,
    "q6_k": 2,
    "q4_0": 2,
    "q4_k": 2,
}
# of a weight: a block of 32 or 256 has scales beside its weights
WEIGHT_BYTES: dict[str, float] = {
    **DTYPE_BYTES,
    "fp8": 1,
    "q8_0": 34 / 32,
    "q6_k": 210 / 256,
    "q4_0": 18 / 32,
    "q4_k": 144 / 256,
}
# of keys and values
CACHE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "q8_0": 34 / 32}
AUTO = "auto"
KV_DTYPES = (AUTO, "bfloat16", "float16", "float32", "fp8", "q8_0")
STATE_DTYPES = (AUTO, "float32", "bfloat16", "float16")
# A type that only the matrices of the operators have, as in serving engines; embedding, head,
# norms, convolutions, attention and recurrences stay in the other one.
MATRICES_ONLY = {"fp8": "bfloat16"}
# of everything but the matrices of the operators, where it is not the type of the matrices
OTHER_WEIGHTS = {**MATRICES_ONLY, "q4_0": "q8_0", "q4_k": "q6_k"}
ENGINE, PAPER = "engine", "paper"
CALIBRATIONS = (ENGINE, PAPER)  # latency/calibration.py
CALIBRATION_HELP = (
    "whose whole models the latency is of: engine (vLLM, SGLang, TensorRT-LLM) or paper (PyTorch in"
    " one CUDA graph, arXiv 2511.18890); no effect on a table that flashnas profiled"
)
MODE_GONE = "a table has rows of one mode"
WEIGHTS_GONE = "a workload states it, as in --workload decode-8k,dtype=fp8"
DTYPES = (AUTO, *DTYPE_BYTES)
# of a sequence; far above any context, and small enough for arithmetic and memory
MAX_TOKENS = 10**8
MAX_BATCH = 10**6
WORKLOAD_HELP = (
    "named workload, with changes such as decode-8k,dtype=fp8; YAML file; or"
    " batch=..,prompt=..,generated=.."
)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request: `prompt_tokens` of each of `batch` sequences are read at once, then
    `generated_tokens` one by one.

    Args:
        batch: "max": as many as fit the device's memory.
        dtype: of weights and activations (of weights alone: fp8, q8_0, q6_k, q4_0, q4_k);
            "auto": the table's.
        kv_dtype: of keys and values in memory (bfloat16, float16, float32, fp8, q8_0); "auto": that of
            activations. state_dtype: of recurrent states there (float32, bfloat16, float16); "auto":
            float32. Both bound what fits; the milliseconds stay those of the table's rows.
        turn2_tokens: new ones of a second turn, which follows the request.

    Raises:
        WorkloadError: names the field, the rule and the value.

    Example:
        >>> import flashnas as fn
        >>> fn.Workload(batch=4, prompt_tokens=512, generated_tokens=256).context
        768
    """

    name: str = "custom"
    batch: int | Literal["max"] = 1
    prompt_tokens: int = 0
    generated_tokens: int = 0
    dtype: str = AUTO
    kv_dtype: str = AUTO
    state_dtype: str = AUTO
    turn2_tokens: int = 128

    def __post_init__(self) -> None:
        for name, least, most, words in (
            ("batch", 1, MAX_BATCH, ", or max"),
            ("prompt_tokens", 0, MAX_TOKENS, ""),
            ("generated_tokens", 0, MAX_TOKENS, ""),
            ("turn2_tokens", 1, MAX_TOKENS, ""),
        ):
            if (value := getattr(self, name)) == "max" and words:
                continue
            if type(value) is not int or value < least:
                raise WorkloadError(
                    f"workload.{name} must be a whole number of at least {least}{words}; got"
                    f" {value!r}"
                )
            if value > most:
                raise WorkloadError(f"workload.{name} must be at most {most:,}; got {value!r}")
        for name, types in (
            ("dtype", DTYPES),
            ("kv_dtype", KV_DTYPES),
            ("state_dtype", STATE_DTYPES),
        ):
            if (value := getattr(self, name)) not in types:
                raise WorkloadError(one_of(f"workload.{name}", value, types))
        if not self.prompt_tokens and not self.generated_tokens:
            raise WorkloadError("workload: prompt_tokens and generated_tokens must not both be 0")

    @property
    def context(self) -> int:
        """Tokens of one sequence at the end of the request, meta tokens not counted."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def caches(self) -> dict[str, str]:
        """The types of caches that are asked for."""
        names = ("kv_dtype", "state_dtype")
        return {name: value for name in names if (value := getattr(self, name)) != AUTO}

    def to_dict(self) -> dict[str, Any]:
        """Its fields; those of a server where they are not the usual ones."""
        usual = {
            name: getattr(Workload, name) for name in ("kv_dtype", "state_dtype", "turn2_tokens")
        }
        return {name: value for name, value in vars(self).items() if value != usual.get(name)}


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(name="decode-8k", generated_tokens=8192),
        Workload(name="decode-1k", generated_tokens=1024),
        Workload(name="prefill-2k", prompt_tokens=2048),
        Workload(name="chat", prompt_tokens=512, generated_tokens=256),
        # "throughput at 32k tokens of input and the largest batch that fits": decode steps right
        # after a 32k prompt. 256 of them move the context by 0.8 %: throughput_tok_s is the rate at
        # 32k.
        Workload(name="throughput-32k", batch="max", prompt_tokens=32768, generated_tokens=256),
    )
}


def load_workload(source: str | Workload) -> Workload:
    """By name, from `batch=1,prompt=0,generated=1024`, from a name with changes such as
    `decode-8k,dtype=fp8` or from a YAML file; raises WorkloadError."""
    if isinstance(source, Workload):
        return source
    if source in WORKLOADS:
        return WORKLOADS[source]
    if Path(source).suffix in (".yaml", ".yml"):
        return _from_yaml(read_yaml(source))
    if "=" in source:
        return _of_text(source)
    raise WorkloadError(
        f"workload {source!r} does not exist{did_you_mean(source, WORKLOADS)}; named ones:"
        f" {', '.join(WORKLOADS)}; or write batch=1,prompt=0,generated=1024, or give a YAML file"
    )


def timed_workload(source: str) -> Workload:
    """One that a program is timed under, which has types of caches of its own; raises WorkloadError."""
    workload = load_workload(source)
    for name, value in workload.caches.items():
        raise WorkloadError(
            f"workload.{name} counts memory alone, and a program is timed with its own caches: leave it"
            f" out; got {value!r}"
        )
    return workload


def _from_yaml(data: LocatedDict) -> Workload:
    workload = convert(data, Workload, error=WorkloadError, name="workload", closed=True)
    return workload if "name" in data else replace(workload, name=Path(data.path).stem)


_SHORT = {
    field.name.removesuffix("_tokens"): field.name
    for field in fields(Workload)
    if field.name != "name"
}
_KEYS = {**_SHORT, **{field: field for field in _SHORT.values()}}


def _of_text(text: str) -> Workload:
    """WorkloadError for a text that does not read as `load_workload` says."""
    fields: dict[str, Any] = {}
    first, *others = text.split(",")
    named = WORKLOADS.get(first)
    for part in others if named else (first, *others):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise WorkloadError(f"workload: parts must read key=value; got {part.strip()!r}")
        if key not in _KEYS:
            raise WorkloadError(
                f"workload has no key {key!r}{did_you_mean(key, _KEYS)};"
                f" allowed: {', '.join(_SHORT)}"
            )
        field = _KEYS[key]
        if field in fields:
            raise WorkloadError(f"workload: duplicate key {key!r}")
        count = number_of(value)  # NaN for 0, for less and for words
        plain = re.fullmatch(r"-?[0-9]+", value)
        fields[field] = int(value if plain else count) if plain or count.is_integer() else value
    name = text.replace(" ", "")
    return replace(named, name=name, **fields) if named else Workload(name=name, **fields)
