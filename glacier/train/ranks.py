"""The processes of one training, and sums over them. Alone, every sum is its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glacier.errors import UsageError
from glacier.machine import cores


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its fellows."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """Sum over ranks."""
        total = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def add_soft(self, values: Tensor) -> Tensor:
        """Sum over ranks whose gradient flows to this rank's part.

        DDP averages gradients over ranks: a loss made of such sums is to be multiplied by `world`.
        """
        return values + (self.add(values) - values.detach()) if self.world > 1 else values

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, its gradients averaged over ranks."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def agree(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0: batch norm's running statistics differ by rank."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def any(self, mine: bool) -> bool:
        """Whether it holds on any rank. Decided on CPUs, so that no GPU has to be waited for."""
        if self.world == 1:
            return mine
        flag = torch.tensor([int(mine)])
        dist.all_reduce(flag)
        return bool(flag.item())

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started; one alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(
            f"{neighbours} processes on {torch.cuda.device_count()} GPU(s); expected one per GPU, "
            f"as with --nproc_per_node {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, cores() // neighbours))
    if world == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield Ranks(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()
