"""The processes of one training, on one machine or several: sums over them, and what they tell each other.

Alone, every sum is its own.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glacier.errors import GlacierError, UsageError
from glacier.machine import cores

LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""Of these, one is in what gloo raises once another rank has gone."""


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

    def gather(self, text: str) -> list[str]:
        """Every rank's `text`, by rank."""
        if self.world == 1:
            return [text]
        mine = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        length = torch.tensor([len(mine)])
        lengths = [torch.empty_like(length) for _ in range(self.world)]
        dist.all_gather(lengths, length)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        every = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(every, padded)
        return [part.numpy().tobytes().rstrip(b"\0").decode() for part in every]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong on one rank within goes wrong on all, so that none waits for one that has ended.

        Ranks must not wait for each other within.

        Raises:
            GlacierError: on a rank where nothing is wrong, what is on the first where something is.
        """
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        said = self.gather("" if mine is None else json.dumps([str(mine), isinstance(mine, UsageError)]))
        if mine is not None:
            raise mine
        for rank, words in enumerate(said):
            if words:
                message, usage = json.loads(words)
                raise (UsageError if usage else GlacierError)(f"rank {rank}: {message}")

    def from_main(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives on rank 0, on every rank: others need not see rank 0's files.

        Args:
            make: gives plain values and tensors on the CPU, by name; called on rank 0 alone.

        Raises:
            GlacierError: `make` does.
        """
        if self.world == 1:
            return make()
        content = io.BytesIO()
        with self.together():
            if self.main:
                torch.save(make(), content)
        length = torch.tensor([content.tell()])
        dist.broadcast(length, 0)
        if not self.main:
            content.seek(int(length) - 1)
            content.write(b"\0")  # as long as rank 0's, to be received into
        dist.broadcast(torch.frombuffer(content.getbuffer(), dtype=torch.uint8), 0)
        content.seek(0)
        record: dict[str, Any] = torch.load(content, weights_only=True)
        return record


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started; one alone without it.

    Raises:
        UsageError: more processes than GPUs on this machine.
        GlacierError: another rank has ended, or cannot be met.
    """
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
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None
        )
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise GlacierError(
            f"rank {os.environ.get('RANK')} of {world} cannot meet the others at {where}: "
            f"{str(error).splitlines()[0]}; expected a free port of rank 0's machine, open to all"
        ) from error
    try:
        yield Ranks(dist.get_rank(), world, device)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)):
            raise
        raise GlacierError(
            f"rank {os.environ.get('RANK')} of {world} has lost another, whose own output says why; "
            "give the command again once that is mended, a training with --resume"
        ) from error
    finally:
        dist.destroy_process_group()
