"""The processes that train one network together, as `torchrun` starts them; one process without it.

Every process computes its share of each batch. It holds the whole network, and torch's
DistributedDataParallel averages the gradients; or (`sharded`) a part of each weight, gradient and optimizer
state, and torch's fully_shard (FSDP2) gathers the weights of one block at a time. Every process computes all
of Muon's Newton-Schulz iterations; at the sizes that flashnas trains, this costs less than sending the
results.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flashnas.base.errors import ConfigError, FlashnasError, RunError
from flashnas.network.model import HybridLM
from flashnas.operators.backends.core import choose_backend
from flashnas.training.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]  # tokens [B, T], targets [B, T] -> mean loss in nats per token
T = TypeVar("T")

# for which a process waits for the others, as while the first prepares the corpus
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """One process of a training. rank: from 0. local: its number on this machine, and that of its GPU.
    sharded: each process holds a part of each weight."""

    rank: int = 0
    size: int = 1
    local: int = 0
    sharded: bool = False

    @property
    def first(self) -> bool:
        """True for rank 0, the only process that writes and prints."""
        return self.rank == 0

    def check(self, recipe: Recipe) -> None:
        """Raises ConfigError unless every process gets the same number of sequences of each batch, and where
        there is nothing to shard."""
        if self.sharded and self.size == 1:
            raise ConfigError("--shard needs several processes, as torchrun --nproc-per-node=N starts them;"
                              " got 1")
        if recipe.batch_sequences % self.size:
            raise ConfigError(f"recipe.batch_sequences must be a multiple of the {self.size} processes;"
                              f" got {recipe.batch_sequences}")
        each, micro = recipe.batch_sequences // self.size, recipe.micro_batch_sequences
        if 0 < micro < each and each % micro:
            raise ConfigError(f"recipe.micro_batch_sequences must divide the {each} sequences of each of the"
                              f" {self.size} processes; got {micro}")

    def device(self, kind: str) -> torch.device:
        """The device of this process; the current CUDA device is set to it."""
        if kind != "cuda" or self.size == 1:
            return torch.device(kind)
        if self.local >= torch.cuda.device_count():
            raise ConfigError(f"{self.local + 1} processes on this machine need as many CUDA devices;"
                              f" torch finds {torch.cuda.device_count()}")
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def share(self, rows_BT: Tensor) -> Tensor:
        """This process's part of a batch [B, T]: consecutive rows; rank 0 has the first ones."""
        return rows_BT if self.size == 1 else rows_BT.tensor_split(self.size)[self.rank]

    def distribute(self, network: HybridLM, device: torch.device) -> tuple[Loss, nn.Module | None]:
        """Move `network` to the device: its loss with gradients averaged over the processes, and the module
        that averages them, or None. Sharded gradients are averaged with every part of a batch, which saves
        memory for all of them."""
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.type, (self.size,))
            for part in network.modules():
                if hasattr(part, "weights_move"):
                    part.weights_move = False  # type: ignore[assignment]
            if device.type == "cpu":  # what Numba reads by address has memory that cannot be freed
                choose_backend(network, "torch")
            # nothing changes what a block returns in place
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
            loss = _Loss(network)
            for module in (*network.blocks, loss):  # no device holds more than one block as a whole
                fully_shard(module, mesh=mesh).set_force_sum_reduction_for_comms(True)  # gloo cannot average
            return loss, loss
        network.to(device)
        if self.size == 1:
            return network.loss, None
        replica = DistributedDataParallel(
            _Loss(network), device_ids=[device.index] if device.type == "cuda" else None,
            # idle experts
            find_unused_parameters=any(spec.kind == "moe" for spec in network.architecture.operators))
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
        """Run `action` on every process and return its result. If it fails on some with a FlashnasError or
        OSError, the lowest of these ranks raises the error and the other processes exit silently, so that the
        message is printed once."""
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
        """`run_on_all`, but the other processes start when rank 0 has finished and has filled the cache."""
        if self.size == 1:
            return action()
        early = self.run_on_all(lambda: action() if self.first else None)
        late = self.run_on_all(lambda: None if self.first else action())
        return early if self.first else late  # type: ignore[return-value]


class _Loss(nn.Module):
    """`HybridLM.loss` as the forward of a module, since DistributedDataParallel wraps forward."""

    def __init__(self, network: HybridLM) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.network.loss(tokens_BT, targets_BT)


# -- sharded tensors: DTensors, whose module takes half a second to import -----------------------------------


def divided(tensor: Tensor) -> bool:
    """True for a tensor of which each process holds a part."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Any) -> Any:
    """All of a tensor; every process calls it."""
    return tensor.full_tensor() if divided(tensor) else tensor


def held(tensor: Any) -> Any:
    """What this process holds of a tensor."""
    return tensor.to_local() if divided(tensor) else tensor


def part_of(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor, divided as `like` is, on its device; the reverse of `whole`."""
    if not divided(like) or tensor.shape != like.shape:
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def stacked(parts_NRC: Tensor, like: Any) -> Any:
    """Matrices of which each process holds the rows that it holds of the matrix `like`, as one tensor."""
    from torch.distributed.tensor import DTensor, Shard

    rows, columns = like.shape
    return DTensor.from_local(parts_NRC, like.device_mesh, [Shard(1)], stride=(rows * columns, columns, 1),
                              shape=torch.Size((len(parts_NRC), rows, columns)))


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors, those that are divided on the CPU; nothing without `keep`. Every process calls it."""
    full = ((name, tensor, whole(tensor)) for name, tensor in tensors.items())
    return {name: all_of.cpu() if divided(tensor) else all_of for name, tensor, all_of in full if keep}


# -- processes -----------------------------------------------------------------------------------------------


def accumulating(replica: nn.Module | None, last: bool) -> contextlib.AbstractContextManager[None]:
    """A context for forward and backward of one part of a batch; gradients are averaged with the last part
    only."""
    if isinstance(replica, DistributedDataParallel) and not last:
        return replica.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def processes(threads: int | None = None, sharded: bool = False) -> Iterator[Ranks]:
    """Join the processes that torchrun started, by gloo on CPUs and NCCL on GPUs.

    Args:
        threads: torch threads of each process; None: torch's own choice.
        sharded: they divide the weights among them.

    Raises:
        RunError: on rank 0, if another process has ended. The other processes then exit silently.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ.get("WORLD_SIZE",
                                                                                        "1") == "1":
        yield Ranks(sharded=sharded)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]), sharded)
    try:
        yield ranks
    except RuntimeError as error:
        if not _lost(error):
            raise
        if not ranks.first:
            raise SystemExit(2) from None
        raise RunError("another process of this training has ended; continue from the last checkpoint with"
                       " --resume") from None
    finally:
        dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """True for the errors of a lost connection; gloo has no class for them."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text
