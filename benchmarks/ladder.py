"""The rungs: from decompression alone to a training step, each doing more than the one before it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numcodecs import blosc

from benchmarks.peers import touch
from glacier.config import Config, shipped
from glacier.machine import cores
from glacier.pipeline.augment import D4, NOTHING, matrices
from glacier.pipeline.batcher import Batch
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import Loader
from glacier.pipeline.order import Samples
from glacier.pipeline.split import split
from glacier.pipeline.split import statistics as tile_statistics
from glacier.store.reader import Store
from glacier.store.shards import CHECKSUM, Shards, decode
from glacier.train.ranks import Ranks
from glacier.train.trainer import Trainer

Run = Callable[[], int]
"""Does its work once; how many tiles it took."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One row of the ladder."""

    run: Run
    does: str
    slow: bool = False
    """Takes so long that few rounds must do."""


class NoStep(Trainer):
    """A training that learns nothing: its loop alone."""

    def step(self, group: list[Batch], epoch: int) -> torch.Tensor:
        """Nothing."""
        self.steps += 1
        return torch.zeros((), dtype=torch.float64)


class Flips(Loader):
    """A loader that mirrors and never turns: half of d4, and what the peers do."""

    def order(self) -> Samples:
        """The epoch's samples, with keys that draw one of the four mirrorings."""
        order = super().order()
        keys = np.zeros(64, order.dtype)
        keys["key"] = np.arange(64)
        drawn = matrices(keys, D4, self.plan.windows.patch)
        mirrors = keys["key"][(drawn[:, 0, 1] == 0)]  # type: ignore[index]
        order["key"] = mirrors[order["key"] % len(mirrors)]
        return order


class Ladder:
    """The rungs over whole tiles of one store."""

    def __init__(self, store: Store, batch: int, steps: int) -> None:
        """Make ready; a run takes `steps` batches of `batch` tiles."""
        self.store, self.batch, self.steps = store, batch, steps
        self.size = store.meta.tile_size
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self.tiles = split(store, 0).train
        self.order = self._loader(augment=NOTHING).order()
        bands, dtype = len(store.meta.bands), store.meta.dtype
        self.buffers = [Buffer.empty(batch, self.size, bands, dtype) for _ in range(3)]

    def rungs(self) -> dict[str, Rung]:
        """By name, in order."""
        inputs = Inputs(self.store.meta.bands, tile_statistics(self.store, self.tiles))
        made = {
            "decode": Rung(self._decode(blosc.decompress), "decompression alone, from memory: the limit"),
            "checksum": Rung(self._decode(None), "the same with every check"),
            "reader": Rung(self._read, "windows out of the store into memory"),
            "source": Rung(self._each(self._loader(augment=NOTHING)), "raw batches, not moved"),
            "loader": Rung(self._each(self._loader()), "raw batches, d4"),
            "inputs": Rung(
                self._each(self._loader(inputs=inputs)), "d4, standardised float32: what training takes"
            ),
            "mirrored": Rung(
                self._each(self._loader(Flips, inputs=inputs)), "flips alone, standardised: the peers' job"
            ),
        }
        if not all(isinstance(array, Shards) for array in self._arrays()):
            del made["decode"], made["checksum"]
        if self.device.type == "cpu":
            made["dali"] = Rung(self._each(self._loader(backend="dali")), "raw batches, d4 by DALI's graph")
        made["no-op train"] = Rung(
            self._train(NoStep, self.steps), "the training loop around a step of nothing"
        )
        made["train"] = Rung(self._train(Trainer, 1), "the demo's network takes a step", slow=True)
        return made

    def _arrays(self) -> list[Any]:
        return [self.store._image, self.store._label]

    def _decode(self, call: Callable[..., Any] | None) -> Run:
        """Chunks decoded by as many threads as the reader has, with checks (None) or by `call` alone."""

        def one(i: int) -> None:
            out = self._place(i)
            for array, into in zip(self._arrays(), (out.image, out.label), strict=True):
                chunk = array.chunk(int(self.order["tile"][i]))
                decode(chunk, into) if call is None else call(chunk[:-CHECKSUM], into)

        def run() -> int:
            with ThreadPoolExecutor(cores()) as pool:
                list(pool.map(one, range(len(self.order))))
            return len(self.order)

        return run

    def _read(self) -> int:
        """One sample per call and thread, as the loader reads."""

        def one(i: int) -> None:
            self.store.read_into(self.order[i : i + 1], self._place(i))

        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(one, range(len(self.order))))
        return len(self.order)

    def _place(self, i: int) -> Buffer:
        """Where the i-th sample goes: three batches of memory, in turn, as the loader has."""
        return self.buffers[i // self.batch % len(self.buffers)].part(i % self.batch)

    def _loader(self, kind: type[Loader] = Loader, **options: Any) -> Loader:
        return kind(
            self.store, tiles=self.tiles, patch=self.size, batch=self.batch,
            samples_per_epoch=self.steps * self.batch, device=self.device, **options,
        )  # fmt: skip

    def _each(self, loader: Loader) -> Run:
        def run() -> int:
            done = 0
            for batch in loader:
                if self.device.type == "cpu":
                    touch((batch.image.permute(0, 2, 3, 1), batch.label))
                done += len(batch.samples)
            self._wait()
            return done

        return run

    def _train(self, kind: type[Trainer], steps: int) -> Run:
        samples = steps * self.batch
        settings = [
            f"data.patch={self.size}",
            f"train.batch={self.batch}",
            f"train.samples_per_epoch={samples}",
        ]
        trainer = kind(Config.load(shipped("demo"), settings), self.store, Ranks(0, 1, self.device))

        def run() -> int:
            taken = sum(1 for _ in trainer.train(lambda: None)) * self.batch
            trainer.close_epoch()
            self._wait()
            return taken

        return run

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
