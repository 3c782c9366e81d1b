"""The largest batch that fits the memory of a device."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.schema import Device
from flashnas.latency.workload import Workload, memory_bytes, memory_sizes

# Share of the memory that a batch may fill; 0.9 is the default of vLLM and TensorRT-LLM.
USABLE_SHARE = 0.9


def check_fits(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> None:
    """Raise BudgetError if the batch of the workload needs more than USABLE_SHARE of the memory."""
    if workload.batch == "max":
        return
    needed = memory_bytes(architecture, workload, workload.batch, dtype, cache_type=cache_type)
    if needed > device.memory_bytes * USABLE_SHARE:
        largest = largest_batch(architecture, workload, device, dtype, cache_type)
        raise BudgetError(
            f"memory_gb {needed / 1e9:.1f} of batch {workload.batch} of {workload.name} is more"
            f" than {USABLE_SHARE:.0%} of the {device.memory_bytes / 1e9:.1f} GB of {device.name};"
            f" the largest batch is {largest}"
        )


def largest_batch(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> int:
    """The largest batch that fills at most USABLE_SHARE of the memory, rounded down to two digits
    (487 -> 480), as batches are configured in practice; raises BudgetError if not even 1 fits."""
    usable = device.memory_bytes * USABLE_SHARE
    sizes = memory_sizes(architecture, workload, dtype, cache_type)
    low = sizes.most(usable)
    if not low:
        raise BudgetError(
            f"{architecture.notation[:60]} does not fit {USABLE_SHARE:.0%} of the memory of"
            f" {device.name} ({usable / 1e9:.1f} GB) with batch 1 of {workload.name}: it needs"
            f" {sizes.total(1) / 1e9:.1f} GB"
        )
    step = 10 ** max(len(str(low)) - 2, 0)
    return low // step * step
