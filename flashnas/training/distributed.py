"""The processes that train one network together, as `torchrun` starts them; one process without it.

Every process holds the whole network and computes its share of each batch; torch's
DistributedDataParallel averages the gradients. Every process computes all of Muon's Newton-Schulz
iterations; at the sizes that flashnas trains, this costs less than sending the results.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flashnas.base.errors import ConfigError, FlashnasError, RunError
from flashnas.network.model import HybridLM
from flashnas.training.recipe import Recipe

# tokens [B, T], targets [B, T] -> mean loss in nats per token
Loss = Callable[[Tensor, Tensor], Tensor]
LossOf = Callable[[HybridLM, Tensor, Tensor], Tensor]  # the same, of a network
T = TypeVar("T")

# for which a process waits for the others, as while the first prepares the corpus
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """One process of a training. rank: from 0. local: its number on this machine, and that of its
    GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True for rank 0, the only process that writes and prints."""
        return self.rank == 0

    def check(self, recipe: Recipe) -> None:
        """Raises ConfigError unless every process gets the same number of sequences of each
        batch.
        """
        if recipe.batch_sequences % self.size:
            raise ConfigError(
                f"recipe.batch_sequences must be a multiple of the {self.size} processes;"
                f" got {recipe.batch_sequences}"
            )
        per_process, micro = recipe.batch_sequences // self.size, recipe.micro_batch_sequences
        if 0 < micro < per_process and per_process % micro:
            raise ConfigError(
                f"recipe.micro_batch_sequences must divide the {per_process} sequences of each of the"
                f" {self.size} processes; got {micro}"
            )

    def device(self, kind: str) -> torch.device:
        """The device of this process; the current CUDA device is set to it."""
        if kind != "cuda" or self.size == 1:
            return torch.device(kind)
        if self.local >= torch.cuda.device_count():
            raise ConfigError(
                f"{self.local + 1} processes on this machine need as many CUDA devices;"
                f" torch finds {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def share(self, rows_BT: Tensor) -> Tensor:
        """This process's part of a batch [B, T]: consecutive rows; rank 0 has the first ones."""
        return rows_BT if self.size == 1 else rows_BT.tensor_split(self.size)[self.rank]

    def distribute(
        self, network: HybridLM, device: torch.device, loss: LossOf
    ) -> tuple[Loss, DistributedDataParallel | None]:
        """Move `network` to the device: its loss with gradients averaged over the processes, and
        the module that averages them, or None."""
        network.to(device)
        if self.size == 1:
            return functools.partial(loss, network), None
        replica = DistributedDataParallel(
            _Loss(network, loss),
            device_ids=[device.index] if device.type == "cuda" else None,
            # idle experts
            find_unused_parameters=any(block.mixer.routes for block in network.blocks),
        )
        return replica, replica

    def total(self, *values: float) -> list[float]:
        """The sum of each value over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def broadcast_text(self, text: str) -> str:
        """The text of rank 0, on every process."""
        if self.size == 1:
            return text
        texts = [text]
        dist.broadcast_object_list(texts, src=0, device=torch.device("cpu"))
        return texts[0]

    def run_on_all(self, action: Callable[[], T]) -> T:
        """Run `action` on every process and return its result. If it fails on some with a
        FlashnasError or OSError, the lowest of these ranks raises the error and the other processes
        exit silently, so that the message is printed once."""
        if self.size == 1:
            return action()
        result, error = None, None
        try:
            result = action()
        except (FlashnasError, OSError) as caught:
            error = caught
        failed = torch.tensor([self.size if error is None else self.rank])
        dist.all_reduce(failed, dist.ReduceOp.MIN)
        if int(failed) == self.size:
            return result  # type: ignore[return-value]
        if error is not None and int(failed) == self.rank:
            raise error
        raise SystemExit(2)

    def first_then_rest(self, action: Callable[[], T]) -> T:
        """`run_on_all`, but the other processes start when rank 0 has finished and has filled the
        cache.
        """
        if self.size == 1:
            return action()
        early = self.run_on_all(lambda: action() if self.first else None)
        late = self.run_on_all(lambda: None if self.first else action())
        return early if self.first else late  # type: ignore[return-value]


class _Loss(nn.Module):
    """A loss as the forward of a module, since DistributedDataParallel wraps forward."""

    def __init__(self, network: HybridLM, loss: LossOf) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.loss(self.network, tokens_BT, targets_BT)


# -- processes -------------------------------------------------------------------------------------


def accumulating(
    replica: DistributedDataParallel | None, last: bool
) -> contextlib.AbstractContextManager[None]:
    """A context for forward and backward of one part of a batch; gradients are averaged with the
    last part only."""
    if replica is None or last:
        return contextlib.nullcontext()
    return replica.no_sync()


@contextlib.contextmanager
def processes(threads: int | None = None) -> Iterator[Ranks]:
    """Join the processes that torchrun started, by gloo on CPUs and NCCL on GPUs.

    Args:
        threads: torch threads of each process; None: torch's own choice.

    Raises:
        RunError: on rank 0, if another process has ended. The other processes then exit silently.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if (
        not dist.is_available()
        or not dist.is_torchelastic_launched()
        or os.environ.get("WORLD_SIZE", "1") == "1"
    ):
        yield Ranks()
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT
    )
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    try:
        yield ranks
    except RuntimeError as error:
        if not _lost(error):
            raise
        if not ranks.first:
            raise SystemExit(2) from None
        raise RunError(
            "another process of this training has ended; continue from the last checkpoint with"
            " --resume"
        ) from None
    finally:
        dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """True for the errors of a lost connection; gloo has no class for them."""
    text = str(error)
    return (
        isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text
    )
