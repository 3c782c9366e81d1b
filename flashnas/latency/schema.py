"""What a latency table consists of: kinds of rows with their columns, and the device. The format's one definition.

A table is a folder: `device.yaml`, `meta.yaml` (checksums, stacks, origin, rules) and one `<kind>.parquet` per kind.
Times are microseconds, memory is bytes; nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.yaml import check_keys, read_yaml

FORMAT = 1
SOURCES = ("measured", "imported", "derived", "roofline")

_ATTENTION = ("heads", "kv_heads", "head_dim", "window", "batch")
RECURRENT = ("gated_delta_rule", "delta_rule", "gla", "ssd", "rwkv7", "kda")  # kernels that carry a matrix per head
_RECURRENT = ("heads", "key_dim", "value_dim", "batch")

# kind -> key columns. No two rows of a kind have the same key and the same VARIANT.
#   gemm           [m, k] x [k, n]; m = batch x tokens
#   *_decode       one step of all `batch` sequences; attention sees `context` tokens, itself included
#   *_prefill      `tokens` tokens of each of `batch` sequences, causal
#   attention_*    window 0: full attention
#   operator_*     a whole operator with its norm and residual: `operator` is str(spec.resolved(hidden)). `embedding`
#                  and `head` (final norm, product, choice of the token; a decode row answers both phases) have `vocab`,
#                  the others vocab 0. context 0: the time does not depend on the context.
KINDS: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "attention_decode": (*_ATTENTION, "context"),
    "attention_prefill": (*_ATTENTION, "tokens"),
    "conv_decode": ("channels", "conv_size", "batch"),
    "conv_prefill": ("channels", "conv_size", "batch", "tokens"),
    **{f"{name}_decode": _RECURRENT for name in RECURRENT},
    **{f"{name}_prefill": (*_RECURRENT, "tokens") for name in RECURRENT},
    "selective_scan_decode": ("channels", "state", "batch"),
    "selective_scan_prefill": ("channels", "state", "batch", "tokens"),
    "operator_decode": ("operator", "hidden", "vocab", "batch", "context"),
    "operator_prefill": ("operator", "hidden", "vocab", "batch", "tokens"),
}
TEXT_KEYS = ("operator",)
# One device runs the same call in several modes and dtypes; each is a row of its own. A row of another stack (other
# versions, driver or threads) is not: it is stale, and the newer one replaces it.
VARIANT = ("mode", "dtype")
MODES = ("eager", "compiled", "cuda_graph")
# Row columns after the key. p10_us, p90_us and repeats are null where the source does not tell.
VALUE_COLUMNS = ("latency_us", "p10_us", "p90_us", "repeats", "dtype", "stack", "mode", "source")
UNITS = {"latency_us": "microseconds (median)", "p10_us": "microseconds", "p90_us": "microseconds",
         "memory_bytes": "bytes", "bandwidth_bytes_s": "bytes/s", "peak_flops": "FLOP/s"}


@dataclass(frozen=True, kw_only=True)
class Device:
    """Facts about a device. `platform`: cpu or cuda. `launch_us`: shortest time of a small kernel (0 unknown).

    `bandwidth_share`: share of the bandwidth that pointwise kernels reach. `cite`: where the facts are from.
    """

    name: str
    platform: str
    peak_flops: float
    bandwidth_bytes_s: float
    memory_bytes: int
    launch_us: float = 0.0
    bandwidth_share: float = 0.8
    label: str = ""
    cite: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def load(cls, path: Path) -> Device:
        """Read device.yaml; raises TableError with file, line and rule."""
        number = (int, float)
        try:
            data = read_yaml(path)
            check_keys(data, where="device", required={
                "name": str, "platform": str, "peak_flops": number, "bandwidth_bytes_s": number, "memory_bytes": int,
            }, optional={"launch_us": number, "bandwidth_share": number, "label": str, "cite": str})
        except ConfigError as error:
            raise TableError(str(error)) from None
        for key in ("peak_flops", "bandwidth_bytes_s", "memory_bytes"):
            if data[key] <= 0:
                raise TableError(f"{data.place(key)}: device.{key} must be positive; got {data[key]!r}")
        if data["platform"] not in ("cpu", "cuda"):
            raise TableError(f"{data.place('platform')}: device.platform must be one of cpu, cuda;"
                             f" got {data['platform']!r}")
        return cls(**data)
