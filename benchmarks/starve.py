"""Would GPUs wait? Ranks that take batches from the loader and, in the model's place, sleep."""

import multiprocessing
import resource
import time
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from glacier.errors import GlacierError
from glacier.machine import cores
from glacier.pipeline.feed import BEGUN, DEPTH
from glacier.pipeline.loader import Loader
from glacier.pipeline.split import split
from glacier.store.reader import Store

FILLING = BEGUN + DEPTH + 1
"""First steps, in which memory is touched for the first time and batches in work fill up."""


@dataclass(frozen=True, slots=True)
class RankWait:
    """What one rank saw once its pipeline was full, and before."""

    filling: float
    """Waited in the first steps, s."""
    wait: float
    """Share of its time in which it waited for a batch."""
    worst: float
    """Longest wait for one, s."""
    cores: float
    """CPU seconds per second."""
    peak_gib: float


@dataclass(frozen=True, slots=True)
class Starved:
    """What all ranks saw."""

    title: str
    ranks: list[RankWait]
    tiles_per_s: float
    asked: float
    """Tiles/s that steps of this length would take if none waited."""

    @property
    def wait(self) -> float:
        """Of the rank that waited longest."""
        return max(rank.wait for rank in self.ranks)

    @property
    def share(self) -> float:
        """Of all cores, what loading took."""
        return sum(rank.cores for rank in self.ranks) / cores()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self) | {"wait": self.wait, "cpu_share": self.share}


def starve(store: Store, step: float, ranks: int, batch: int, steps: int) -> Starved:
    """Run `ranks` processes through `steps` steps of `step` seconds and `batch` tiles over all of them.

    As in DDP no rank starts a step before all have its batch. The first `FILLING` are counted apart.

    Raises:
        GlacierError: a rank failed.
    """
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(ranks), context.Queue()
    processes = [
        context.Process(
            target=_rank,
            args=(Path(store.path), step, rank, ranks, batch, steps, barrier, answers),
            daemon=True,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found: dict[int, tuple[RankWait, float] | str] = {}
    for _ in processes:
        rank, answer = answers.get()
        found[rank] = answer
    for process in processes:
        process.join()
    failed = [answer for answer in found.values() if isinstance(answer, str)]
    if failed:
        raise GlacierError(failed[0])
    rows = [found[rank] for rank in range(ranks)]
    meta = store.meta
    return Starved(
        title=(
            f"{store.name}: batches of {batch} tiles of {meta.tile_size} px × {len(meta.bands)} bands, "
            f"{steps - FILLING} steps of {step * 1e3:g} ms, {ranks} ranks"
        ),
        ranks=[row[0] for row in rows],  # type: ignore[misc]
        tiles_per_s=(steps - FILLING) * batch / max(row[1] for row in rows),  # type: ignore[type-var,operator]
        asked=batch / step if step else float("inf"),
    )


def _rank(
    path: Path, step: float, rank: int, ranks: int, batch: int, steps: int, barrier: Barrier, answers: Any
) -> None:
    try:
        with Store(path) as store:
            answers.put((rank, _consume(store, step, rank, ranks, batch, steps, barrier)))
    except Exception as error:
        barrier.abort()
        answers.put((rank, str(error)))


def _consume(
    store: Store, step: float, rank: int, ranks: int, batch: int, steps: int, barrier: Barrier
) -> tuple[RankWait, float]:
    loader = Loader(
        store, tiles=split(store, 0).train, patch=store.meta.tile_size, batch=batch,
        samples_per_epoch=steps * batch, rank=rank, world=ranks,
    )  # fmt: skip
    start = processor = last = worst = filling = 0.0
    barrier.wait()
    for number, _ in enumerate(loader):
        worst = max(worst, loader.waited - last) if number >= FILLING else 0.0
        last = loader.waited
        barrier.wait()
        if number == FILLING - 1:
            start, processor, filling = time.perf_counter(), time.process_time(), loader.waited
        time.sleep(step)
    whole = time.perf_counter() - start - step
    used = time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return RankWait(filling, (loader.waited - filling) / whole, worst, used / whole, peak), whole
