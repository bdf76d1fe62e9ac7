"""Other loaders doing the same job on the same tiles, each in its best form that we know of.

The job: every tile once per epoch in shuffled order, flipped at random in both directions,
`(x - mean) / std` per band, exactly 0 where there is no data; batches of float32 images (N, C, H, W)
and uint8 class indices (N, H, W). All share `Job`, which does everything after reading.
"""

import gc
import io
import itertools
import json
import math
import mmap
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

if TYPE_CHECKING:
    from benchmarks.tiles import Tiles

Batch = tuple[Tensor, Tensor]
"""(N, C, H, W) float32 and (N, H, W) uint8."""
Sample = tuple[NDArray[Any], NDArray[np.uint8]]
"""Raw image (C, H, W) in any memory order, class indices (H, W)."""

MISSING = "missing (pip install .[peers])"
UNMEASURED = {"insitubatch": "not measured (needs Python 3.12)"}
"""Loaders of the kind that are no peer here, and why."""
PREFETCH = 2
"""Batches each worker works ahead."""
CLASS_STEP = 85
"""Class i is the value i * 85 in label rasters."""
SHARDS = 4
"""Tar files per worker."""
CHUNK_BYTES = "64MB"


class Peer(Protocol):
    """One loader."""

    name: str
    settings: str
    """How it is set up, in one line."""

    def epoch(self) -> Iterator[Batch]:
        """Every tile once; a batch is good until the next is taken."""

    def close(self) -> None:
        """End its workers."""


class Job:
    """Raw samples -> a batch: the same normalising and flipping for all. Safe to pickle."""

    again = False
    """Whether the memory of a batch that was used is used again, whoever may still hold it."""

    def __init__(self, mean: NDArray[Any], std: NDArray[Any], nodata: float) -> None:
        self.scale = np.asarray(1 / std, np.float32)
        self.shift = np.asarray(-mean / std, np.float32)
        self.nodata = np.float32(nodata)

    @classmethod
    def of_tiles(cls, tiles: "Tiles") -> "Job":
        """For digital numbers as they stand in the GeoTIFFs."""
        return cls(tiles.mean, tiles.std, tiles.nodata)

    @classmethod
    def of_store(cls, tiles: "Tiles", store: Path) -> "Job":
        """For a glacier store's codes, `physical = raw * scale + offset`."""
        bands = json.loads((store / "zarr.json").read_bytes())["attributes"]["bands"]
        scale, offset = (np.array([band[key] for band in bands]) for key in ("scale", "offset"))
        return cls((tiles.mean - offset) / scale, tiles.std / scale, bands[0]["nodata"])

    def __call__(self, samples: "Samples", memory: Batch | None = None) -> Batch:
        """A batch of all `samples`, read one after the other, in `memory` if it is large enough."""
        for place, sample in enumerate(samples):
            if place == 0:
                image, label = memory = _fit(memory, (len(samples), *sample[0].shape))
                images, labels = image.numpy(), label.numpy()
                missing = np.empty(sample[1].shape, np.bool_)
            self.normalise_and_flip(sample, images[place], labels[place], missing)
        return image, label

    def normalise_and_flip(
        self,
        sample: Sample,
        image: NDArray[np.float32],
        label: NDArray[np.uint8],
        missing: NDArray[np.bool_],
    ) -> None:
        """Write one sample into its place in a batch, a band at a time to stay in cache.

        Args:
            sample: raw image and class indices.
            image: (C, H, W), written.
            label: (H, W), written.
            missing: (H, W), scratch.
        """
        down, right = (-1 if random.getrandbits(1) else 1 for _ in range(2))
        for band, out in enumerate(image):
            out[...] = sample[0][band, ::down, ::right]
            np.equal(out, self.nodata, out=missing)
            out *= self.scale[band]
            out += self.shift[band]
            if missing.any():
                out[missing] = 0.0
        label[...] = sample[1][::down, ::right]


class InWorker:
    """`Job` as a worker's `collate_fn`: in shared memory, as `default_collate` does it.

    With `again` the same pieces serve again and again: a worker has `PREFETCH` batches on their way and
    one in use, and where workers share the tiles out unevenly up to two more.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.turn = job, 0
        self.memory: list[Batch | None] = [None] * (PREFETCH + 3)

    def __call__(self, samples: "Samples") -> Batch:
        """A batch; with `again` good until `PREFETCH` more are made."""
        if not self.job.again:
            return self.job(samples)
        self.turn = (self.turn + 1) % len(self.memory)
        batch = self.memory[self.turn] = self.job(samples, self.memory[self.turn])
        return batch


def _fit(memory: Batch | None, shape: tuple[int, ...]) -> Batch:
    """Image and label of this shape (N, C, H, W), out of `memory` or new."""
    if memory and len(memory[0]) >= shape[0]:
        return memory[0][: shape[0]], memory[1][: shape[0]]
    return _new(shape, torch.float32), _new((shape[0], *shape[2:]), torch.uint8)


def _new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Fresh memory: NumPy's, on large pages; in a worker shared at once, as `default_collate` does."""
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
    whole: Any = torch.empty(0, dtype=dtype).untyped_storage()
    storage = whole._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


# --- raw samples ----------------------------------------------------------------------------------


class Samples(Protocol):
    """The raw samples of one batch, each good until the next is taken."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


class Picked:
    """Some samples of a dataset, read as they are taken."""

    def __init__(self, source: "Source", tiles: Sequence[int]) -> None:
        self.source, self.tiles = source, tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[Sample]:
        return (self.source[tile] for tile in self.tiles)


class Source(Dataset[Sample]):
    """Tiles by number; whole batches are read lazily, so that a sample's memory is used again."""

    def __getitems__(self, tiles: Sequence[int]) -> Picked:
        """What a `DataLoader` asks for: the samples of a batch."""
        return Picked(self, tiles)


class Rasters(Source):
    """GeoTIFFs, opened for each sample and read through a memory map into the same memory."""

    def __init__(self, tiles: "Tiles") -> None:
        self.files = list(zip(map(str, tiles.images), map(str, tiles.labels), strict=True))
        self.image = np.empty((len(tiles.mean), tiles.size, tiles.size), np.uint16)
        self.label = np.empty((tiles.size, tiles.size), np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.files[index]
        with rasterio.Env(GTIFF_VIRTUAL_MEM_IO="YES", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            with rasterio.open(image) as file:
                file.read(out=self.image)
            with rasterio.open(label) as file:
                file.read(1, out=self.label)
        self.label //= CLASS_STEP
        return self.image, self.label


class Arrays(Source):
    """Two npy files of all tiles, (T, C, H, W) and (T, H, W), mapped into memory."""

    def __init__(self, tiles: "Tiles", folder: Path) -> None:
        self.folder, self.count = folder, len(tiles)
        folder.mkdir(parents=True)
        source, size, bands = Rasters(tiles), tiles.size, len(tiles.mean)
        create = np.lib.format.open_memmap
        image = create(folder / "image.npy", "w+", np.uint16, (len(tiles), bands, size, size))
        label = create(folder / "label.npy", "w+", np.uint8, (len(tiles), size, size))
        for i in range(len(tiles)):
            image[i], label[i] = source[i]
        image.flush()
        label.flush()
        self.open()

    def open(self) -> None:
        """Map the files."""
        self.image = np.load(self.folder / "image.npy", mmap_mode="r")
        self.label = np.load(self.folder / "label.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "count": self.count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.open()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.image[index], self.label[index]


class ZarrTiles(Source):
    """A glacier store by zarr-python, one access per tile and array."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.open()

    def open(self) -> None:
        """Open the store."""
        group = zarr.open_group(self.store, mode="r")
        self.image, self.label = (_array(group, name) for name in ("image", "label"))

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.open()

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def __getitem__(self, index: int) -> Sample:
        image, label = np.asarray(self.image[index]), np.asarray(self.label[index])
        return image.transpose(2, 0, 1), label.astype(np.uint8, copy=False)


def _array(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is no array")
    return array


class GeoTiles(Source):
    """torchgeo's join of an image and a label dataset, by extent; whole numbers are kept as such."""

    def __init__(self, tiles: "Tiles") -> None:
        self.files = [list(map(str, files)) for files in (tiles.images, tiles.labels)]
        self.open()

    def open(self) -> None:
        """Index the files."""
        from torchgeo.datasets import RasterDataset

        class Integers(RasterDataset):
            dtype = torch.int32

        class Bytes(RasterDataset):
            dtype = torch.uint8
            is_image = False

        self.joined = Integers(self.files[0]) & Bytes(self.files[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.open()

    def __getitem__(self, extent: Any) -> Sample:
        found = self.joined[extent]
        return found["image"].numpy(), found["mask"].numpy() // CLASS_STEP


def from_npy(data: bytes) -> NDArray[Any]:
    """The array in an npy file's bytes, not copied."""
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


def from_tar(record: dict[str, Any]) -> Sample:
    """A WebDataset record's sample."""
    return from_npy(record["image.npy"]), from_npy(record["label.npy"])


class FromTensors(InWorker):
    """The same for LitData's tensors."""

    def __call__(self, records: Any) -> Batch:
        """A batch of (image, label) tensors."""
        return super().__call__([(image.numpy(), label.numpy()) for image, label in records])


class ToTensors:
    """A sample of `source` as LitData stores it."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, tile: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and label (H, W)."""
        image, label = self.source[tile]
        return torch.from_numpy(image), torch.from_numpy(label)


# --- peers ----------------------------------------------------------------------------------------


class Torch:
    """A `DataLoader` whose workers make whole batches."""

    name = ""
    how = ""
    again = False

    def __init__(
        self,
        dataset: Any,
        collate: Callable[..., Batch] | None,
        batch: int | None,
        workers: int,
        *,
        loader: Callable[..., Any] = DataLoader,
        **options: Any,
    ) -> None:
        """A fork server starts the workers, since the caller may have threads."""
        self.settings = (
            f"{self.how}; {loader.__name__}, {workers} persistent workers, prefetch {PREFETCH}, batches in "
            + ("shared memory used again" if self.again else "shared memory")
        )
        if isinstance(collate, InWorker):
            collate.job.again = self.again
        self.loader = loader(
            dataset, batch_size=batch, collate_fn=collate, num_workers=workers, persistent_workers=True,
            prefetch_factor=PREFETCH, multiprocessing_context="forkserver", **options,
        )  # fmt: skip

    def epoch(self) -> Iterator[Batch]:
        """Every tile once; a batch is good until the next is taken."""
        yield from iter(self.loader)

    def close(self) -> None:
        """End the workers, now and not while something else is measured."""
        del self.loader
        gc.collect()


class Rasterio(Torch):
    """GeoTIFFs read by rasterio."""

    name = "DataLoader + rasterio"
    how = "uncompressed GeoTIFFs, a strip per band, memory-mapped by GDAL"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        super().__init__(Rasters(tiles), InWorker(Job.of_tiles(tiles)), batch, workers, shuffle=True)


class ZarrPython(Torch):
    """The store read by zarr-python."""

    name = "DataLoader + zarr-python"
    how = "glacier's store"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        super().__init__(
            ZarrTiles(store), InWorker(Job.of_store(tiles, store)), batch, workers, shuffle=True
        )


class Memmap(Torch):
    """An npy memmap."""

    name = "DataLoader + npy memmap"
    how = "one uint16 array (T, C, H, W), mapped"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        super().__init__(
            Arrays(tiles, work / "npy"), InWorker(Job.of_tiles(tiles)), batch, workers, shuffle=True
        )


class TorchGeo(Torch):
    """GeoTIFFs read by torchgeo."""

    name = "torchgeo"
    how = "RasterDataset & RasterDataset, PreChippedGeoSampler"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        from torchgeo.samplers import PreChippedGeoSampler

        dataset = GeoTiles(tiles)
        sampler = PreChippedGeoSampler(dataset.joined, shuffle=True)
        super().__init__(dataset, InWorker(Job.of_tiles(tiles)), batch, workers, sampler=sampler)


class WebDataset(Torch):
    """Tar files by webdataset."""

    name = "WebDataset"
    how = f"{SHARDS} tar files of npy per worker, shuffle buffer of 2 batches"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        import webdataset

        folder, source, shards = work / "tar", Rasters(tiles), SHARDS * workers
        folder.mkdir(parents=True)
        files = [str(folder / f"{shard:04d}.tar") for shard in range(min(shards, len(tiles)))]
        for shard, file in enumerate(files):
            with webdataset.TarWriter(file) as tar:
                for tile in range(shard, len(tiles), len(files)):
                    image, label = source[tile]
                    tar.write({"__key__": f"{tile:06d}", "image.npy": image, "label.npy": label})
        dataset = webdataset.WebDataset(files, shardshuffle=len(files), empty_check=False)
        dataset = dataset.shuffle(2 * batch).map(from_tar)
        dataset = dataset.batched(batch, collation_fn=InWorker(Job.of_tiles(tiles)))
        super().__init__(dataset, None, None, workers)


class LitData(Torch):
    """Chunks by LitData."""

    name = "LitData"
    how = f"chunks of {CHUNK_BYTES}"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        import litdata

        folder = work / "litdata"
        litdata.optimize(
            ToTensors(Rasters(tiles)), list(range(len(tiles))), str(folder), chunk_bytes=CHUNK_BYTES,
            num_workers=1, start_method="forkserver", verbose=False,
        )  # fmt: skip
        dataset, collate = (
            litdata.StreamingDataset(str(folder), shuffle=True),
            FromTensors(Job.of_tiles(tiles)),
        )
        super().__init__(dataset, collate, batch, workers, loader=litdata.StreamingDataLoader)


class Threads:
    """A peer in this process: a batch per task."""

    name = ""
    again = False

    def __init__(self, job: Job, tiles: int, batch: int, workers: int) -> None:
        self.job, self.tiles, self.batch, self.workers = job, tiles, batch, workers
        job.again = self.again
        self.ahead = (PREFETCH + 1) * workers
        self.memory: SimpleQueue[Batch | None] = SimpleQueue()

    def read(self, tiles: Sequence[int]) -> "Samples":
        """The samples of a batch."""
        raise NotImplementedError

    def run(self, steps: list[list[int]]) -> Iterator[Batch]:
        """`load` of each step."""
        raise NotImplementedError

    def load(self, tiles: Sequence[int]) -> Batch:
        """One batch."""
        return self.job(self.read(tiles), self.memory.get() if self.again else None)

    def epoch(self) -> Iterator[Batch]:
        """Every tile once; a batch is good until the next is taken."""
        order = random.sample(range(self.tiles), self.tiles)
        if self.memory.qsize() != self.ahead + 1:
            self.memory = SimpleQueue()
            for _ in range(self.ahead + 1):
                self.memory.put(None)
        for ready in self.run([order[i : i + self.batch] for i in range(0, self.tiles, self.batch)]):
            yield ready
            if self.again:
                self.memory.put(ready)

    def close(self) -> None:
        """End the threads."""


class Tensorstore(Threads):
    """The store read by tensorstore."""

    name = "tensorstore"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        self.reader = TensorstoreReader(store, workers, again=True)
        super().__init__(Job.of_store(tiles, store), len(tiles), batch, workers)
        self.pool = ThreadPoolExecutor(workers)
        self.settings = (
            f"glacier's store, memory-mapped, a batch's reads at once; {workers} threads, {self.ahead} "
            "batches ahead"
        )

    def read(self, tiles: Sequence[int]) -> "Samples":
        """The samples of a batch."""
        return self.reader.samples(tiles)

    def run(self, steps: list[list[int]]) -> Iterator[Batch]:
        """`load` of each step."""
        todo = iter(steps)
        waiting = deque(self.pool.submit(self.load, step) for step in itertools.islice(todo, self.ahead))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(self.pool.submit(self.load, step) for step in itertools.islice(todo, 1))
            yield ready

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(cancel_futures=True)


class Spdl(Threads):
    """An npy memmap through SPDL's pipeline."""

    name = "SPDL"

    def __init__(self, tiles: "Tiles", store: Path, work: Path, batch: int, workers: int) -> None:
        from spdl.pipeline import PipelineBuilder

        self.source = Arrays(tiles, work / "npy")
        super().__init__(Job.of_tiles(tiles), len(tiles), batch, workers)
        self.todo: SimpleQueue[list[int] | None] = SimpleQueue()
        builder: Any = PipelineBuilder()
        piped = builder.add_source(iter(self.todo.get, None)).pipe(self.load, concurrency=workers)
        self.pipeline = piped.add_sink(PREFETCH * workers).build(num_threads=workers, max_failures=0)
        self.pipeline.start()
        self.settings = (
            f"one uint16 array (T, C, H, W), mapped; PipelineBuilder, a batch per task, {workers} threads, "
            f"buffer {PREFETCH * workers}, one pipeline for all epochs"
        )

    def read(self, tiles: Sequence[int]) -> "Samples":
        """The samples of a batch."""
        return Picked(self.source, tiles)

    def run(self, steps: list[list[int]]) -> Iterator[Batch]:
        """`load` of each step."""
        for step in steps:
            self.todo.put(step)
        return (self.pipeline.get_item() for _ in steps)

    def close(self) -> None:
        """End the threads."""
        self.todo.put(None)
        self.pipeline.stop()


class MemmapAgain(Memmap):
    """An npy memmap, and by hand what glacier does to memory."""

    name = "DataLoader + npy memmap, reusing"
    again = True


class RasterioAgain(Rasterio):
    """GeoTIFFs read by rasterio, and by hand what glacier does to memory."""

    name = "DataLoader + rasterio, reusing"
    again = True


class LitDataAgain(LitData):
    """Chunks by LitData, and by hand what glacier does to memory."""

    name = "LitData, reusing"
    again = True


class SpdlAgain(Spdl):
    """SPDL, and by hand what glacier does to memory."""

    name = "SPDL, reusing"
    again = True


PEERS: tuple[Callable[["Tiles", Path, Path, int, int], Peer], ...] = (
    Rasterio, ZarrPython, Memmap, TorchGeo, LitData, WebDataset, Tensorstore, Spdl,
    RasterioAgain, MemmapAgain, LitDataAgain, SpdlAgain,
)  # fmt: skip


def touch(batch: Batch) -> None:
    """Look at a value on each page of a batch: what a worker process made is not yet mapped here."""
    for part in batch:
        part.view(torch.uint8).flatten()[:: mmap.PAGESIZE].sum()


def open_peer(
    kind: Callable[["Tiles", Path, Path, int, int], Peer],
    tiles: "Tiles",
    store: Path,
    work: Path,
    *,
    batch: int = 8,
    workers: int,
) -> Peer | str:
    """A peer, its copy of the tiles made; or why there is none.

    Args:
        kind: one of `PEERS`.
        tiles: what to deliver.
        store: their glacier store.
        work: a folder of its own, for its copy.
        batch: samples per batch.
        workers: processes or threads.
    """
    try:
        return kind(tiles, store, work, batch, workers)
    except ImportError:
        return MISSING


# --- reading only ---------------------------------------------------------------------------------


class TensorstoreReader:
    """A glacier store by tensorstore: all reads of a call at once; with `again` into memory used again."""

    name = "tensorstore"

    def __init__(self, store: Path, threads: int, *, again: bool = False) -> None:
        import tensorstore

        context = tensorstore.Context(
            {"data_copy_concurrency": {"limit": threads}, "file_io_mode": {"mode": "memmap"}}
        )
        self.arrays = [
            tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store / name}/"}},
                context=context, open=True, read=True,
            ).result()
            for name in ("image", "label")
        ]  # fmt: skip
        self.wrap, self.again = tensorstore.array, again
        self.memory = threading.local()

    def read(self, tiles: Sequence[int]) -> None:
        """Image and label of `tiles` into memory."""
        for _ in self.samples(tiles):
            pass

    def samples(self, tiles: Sequence[int]) -> "Reads":
        """The same, to be taken one by one before this thread asks for others."""
        if not self.again:
            return Reads([[array[int(tile)].read() for array in self.arrays] for tile in tiles])
        slots = self.memory.__dict__.setdefault("slots", [])
        while len(slots) < len(tiles):
            pixels = [np.zeros(array.shape[1:], array.dtype.numpy_dtype) for array in self.arrays]
            slots.append([(values, self.wrap(values)) for values in pixels])
        return Reads([
            [Filled(target.write(array[int(tile)]), values)
             for array, (values, target) in zip(self.arrays, slot, strict=True)]
            for tile, slot in zip(tiles, slots, strict=False)
        ])  # fmt: skip


class Filled:
    """A read into memory that was there."""

    def __init__(self, future: Any, values: NDArray[Any]) -> None:
        self.future, self.values = future, values

    def result(self) -> NDArray[Any]:
        """Wait for it."""
        self.future.result()
        return self.values


class Reads:
    """Reads under way."""

    def __init__(self, tiles: list[list[Any]]) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[Sample]:
        for image, label in self.tiles:
            yield image.result().transpose(2, 0, 1), label.result()


class ZarrReader:
    """A glacier store by zarr-python: one access per tile and array."""

    name = "zarr-python"

    def __init__(self, store: Path) -> None:
        self.tiles = ZarrTiles(store)

    def read(self, tiles: Sequence[int]) -> None:
        """Image and label of `tiles` into memory."""
        for tile in tiles:
            self.tiles[int(tile)]


# --- is it the same job? --------------------------------------------------------------------------


def check(peer: Peer, tiles: "Tiles") -> None:
    """One epoch holds every tile once, under one of four flips, as rasterio and NumPy have it.

    Raises:
        ValueError: it does not.
    """
    expected = dict(enumerate(map(_expected, tiles.images, tiles.labels, itertools.repeat(tiles))))
    for image, label in peer.epoch():
        if image.dtype != torch.float32 or label.dtype != torch.uint8:
            raise ValueError(f"{peer.name}: {image.dtype} and {label.dtype}, expected float32 and uint8")
        for x, y in zip(image.numpy(), label.numpy(), strict=True):
            found = next((tile for tile, known in expected.items() if _same(known, (x, y))), None)
            if found is None:
                raise ValueError(f"{peer.name}: a sample that is no tile, or one twice")
            del expected[found]
    if expected:
        raise ValueError(f"{peer.name}: {len(expected)} of {len(tiles)} tiles did not come")


def _expected(image: Path, label: Path, tiles: "Tiles") -> Sample:
    with rasterio.open(image) as file:
        raw = file.read().astype(np.float64)
    with rasterio.open(label) as file:
        classes = file.read(1) // CLASS_STEP
    standard = (raw - tiles.mean[:, None, None]) / tiles.std[:, None, None]
    return np.where(raw == tiles.nodata, 0.0, standard), classes


def _same(expected: Sample, found: Sample) -> bool:
    """Equal under one of the flips, image and label alike; zeros where expected, and exact."""
    x, y = found
    for down, right in itertools.product((1, -1), repeat=2):
        image, label = expected[0][:, ::down, ::right], expected[1][::down, ::right]
        if np.array_equal(label, y) and np.allclose(image, x, atol=1e-3) and not x[image == 0].any():
            return True
    return False
