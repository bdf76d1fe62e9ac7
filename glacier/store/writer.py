"""Writing a store: shards first, each by one worker, once; the root last, as the commit.

Until the root `zarr.json` is in place nothing opens the folder as a store. Small per-tile values
wait in `unfinished/`, a file per shard whose presence says that the shard is written. Chunks are written
directly; zarr-python, which takes long to import and which workers do without, describes the arrays.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.store.folder import UNFINISHED
from glacier.store.objects import Storage
from glacier.store.schema import ITEMSIZE, ArraySpec, Codec, Meta, array_specs, tiles_per_shard
from glacier.store.shard_file import LEVEL, ShardFile, encode, is_whole

ROOT = "zarr.json"
NOTE = f"{UNFINISHED}/source.json"
"""What an unfinished store is made from; it is there before anything else is."""


PIXELS = ("image", "label")
"""The sharded arrays."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile as it goes into a store."""

    image: NDArray[Any]
    """(S, S, B) raw"""
    label: NDArray[np.uint8]
    """(S, S)"""
    small: dict[str, NDArray[Any]]
    """What is kept for the commit."""


class StoreWriter:
    """A store under construction, in a folder or at an address, or one to which tiles are added.

    Safe to hand to other processes.
    """

    def __init__(
        self,
        folder: Storage,
        meta: Meta,
        tiles: int,
        scenes: int,
        *,
        first: int = 0,
        per_shard: int = 0,
        note: dict[str, Any] | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: where it stands.
            meta: what it will say of itself.
            tiles: how many it will hold.
            scenes: likewise.
            first: how many of the tiles it holds already.
            per_shard: tiles in a shard; 0 for as many as suit the number of tiles.
            note: what stands in the folder's `NOTE` as long as this writer may write.
        """
        self.folder = folder
        self.meta = meta
        self.tiles = tiles
        self.first = first
        self.note = note
        self.per_shard = per_shard or tiles_per_shard(
            tiles, meta.tile_size, len(meta.bands), ITEMSIZE[meta.dtype]
        )
        self.specs = array_specs(meta, tiles, scenes, self.per_shard)

    @property
    def shards(self) -> dict[int, range]:
        """The tiles that each shard, by its number, is to take."""
        step = self.per_shard
        numbers = range(self.first // step, -(-self.tiles // step))
        return {n: range(max(n * step, self.first), min((n + 1) * step, self.tiles)) for n in numbers}

    def finished(self) -> set[int]:
        """Shards already written; those whose files are not all there, and whole, count as not."""
        kept = [key for key in self.folder.files(UNFINISHED) if key.endswith(".npz")]
        whole = {key for key in kept if is_zipfile(io.BytesIO(self.folder.get(key) or b""))}
        return {
            shard
            for shard, tiles in self.shards.items()
            if _kept(shard) in whole
            and all(
                is_whole(self.folder, self._key(name, shard), self.per_shard, tiles.stop % self.per_shard)
                for name in PIXELS
            )
        }

    def write_shard(self, shard: int, tiles: Iterable[Tile]) -> None:
        """Write one shard, tile by tile, and keep what is small of each for the commit.

        Files are put in place when whole; an error leaves none. A shard that holds tiles already keeps
        them where they are, so that who has read its index may go on.

        Raises:
            GlacierError: the shard that holds tiles already is missing or damaged; or the folder is not,
                or no longer, this writer's.
        """
        self._hold_note()
        small = []
        with ExitStack() as stack:
            image, label = (
                self._begin(name, shard, stack.enter_context(self.folder.writing(self._key(name, shard))))
                for name in PIXELS
            )
            for tile in tiles:
                image.append(tile.image)
                label.append(tile.label)
                small.append(tile.small)
            image.finish()
            label.finish()
            self._hold_note()
        kept = io.BytesIO()
        # NumPy 2.0 would take allow_pickle for one more array
        np.savez(kept, **{k: np.stack([s[k] for s in small]) for k in small[0]})  # type: ignore[arg-type]
        self.folder.put(_kept(shard), kept.getvalue())

    def _hold_note(self) -> None:
        """See to it that the folder is this writer's: workers may outlive an ingest, or be elsewhere."""
        if read_note(self.folder) != self.note:
            raise GlacierError(
                f"{self.folder}: is not, or no longer, where this ingest writes; the workers of a cluster "
                "must share the folder, and no other ingest may take it"
            )

    def _begin(self, name: str, shard: int, file: BinaryIO) -> ShardFile:
        """A shard's new file, with the tiles in it that the shard holds already."""
        begun = ShardFile(file, self.specs[name].dtype, self.per_shard, self.meta.codec)
        key, held = self._key(name, shard), self.shards[shard].start % self.per_shard
        if held:
            try:
                begun.begin_with(self.folder.get(key) or b"", held)
            except ValueError as error:
                raise GlacierError(
                    f"{self.folder}: {key} cannot be added to ({error}); make the store again"
                ) from error
        return begun

    def _key(self, name: str, number: int) -> str:
        """The file of an array's shard or chunk, counted along the first axis; the others have one."""
        return "/".join((name, "c", str(number), *"0" * (len(self.specs[name].dims) - 1)))

    def kept(self) -> Iterator[dict[str, NDArray[Any]]]:
        """What `write_shard` kept, in the order of the shards.

        Raises:
            GlacierError: some of it is gone.
        """
        for shard in self.shards:
            data = self.folder.get(_kept(shard))
            if data is None:
                raise GlacierError(
                    f"{self.folder}: another ingest wrote here meanwhile ({_kept(shard)} is gone); give "
                    "the command again when it has ended"
                )
            with np.load(io.BytesIO(data)) as file:
                yield dict(file)

    def commit(self, meta: Meta, arrays: dict[str, NDArray[Any]], tag: str | None = None) -> None:
        """Write the small arrays, then put the root in place: from here on it is a store.

        Chunks that the store holds already are written again as supersets, valid under either root.

        Args:
            meta: what it says of itself.
            arrays: all but `image` and `label`.
            tag: of the root that this one takes the place of, at an address; None for none.

        Raises:
            GlacierError: another ingest put a root there meanwhile.
        """
        for name, values in arrays.items():
            self._write_small(self.specs[name], values)
        documents = self.documents()
        for name, document in documents.items():
            self.folder.put(f"{name}/{ROOT}", json.dumps(document, indent=2).encode())
        self.folder.put_over(ROOT, _root_document(documents, meta).encode(), tag)
        self.folder.delete(UNFINISHED)

    def documents(self) -> dict[str, dict[str, Any]]:
        """Each array's `zarr.json`."""
        return {name: _document(spec, self.meta.codec) for name, spec in self.specs.items()}

    def _write_small(self, spec: ArraySpec, values: NDArray[Any]) -> None:
        """Write an array chunk by chunk, the last one padded with zeros; all-zero ones like any other."""
        assert values.shape == spec.shape, f"{spec.name} is {values.shape}, expected {spec.shape}"
        rows = spec.chunk[0]
        first = self.first // rows if spec.dims[0] == "tile" else 0
        for number in range(first, -(-len(values) // rows)):
            part = values[number * rows : (number + 1) * rows]
            chunk = np.zeros(spec.chunk, spec.dtype)
            chunk[: len(part)] = part
            self.folder.put(
                self._key(spec.name, number), b"".join(encode(chunk, spec.dtype, self.meta.codec))
            )


def read_note(folder: Storage) -> dict[str, Any] | None:
    """What an unfinished ingest in `folder` says of itself; None if there is none."""
    try:
        note: dict[str, Any] = json.loads(folder.get(NOTE) or b"")
    except ValueError:
        return None
    return note


def _kept(shard: int) -> str:
    return f"{UNFINISHED}/{shard}.npz"


def _document(spec: ArraySpec, codec: Codec) -> dict[str, Any]:
    """An array's `zarr.json`: bytes, blosc, crc32c, since lz4 decodes a flipped bit without complaint."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    squeeze = BloscCodec(cname=codec, clevel=LEVEL, shuffle="shuffle", typesize=ITEMSIZE[spec.dtype])
    zarr.create_array(
        MemoryStore(files),
        shape=spec.shape,
        chunks=spec.chunk,
        shards=spec.shard,
        dtype=spec.dtype,
        fill_value=0,
        compressors=[squeeze, Crc32cCodec()],
        dimension_names=spec.dims,
    )
    document: dict[str, Any] = json.loads(files[ROOT].to_bytes())
    return document


def _root_document(arrays: dict[str, dict[str, Any]], meta: Meta) -> str:
    """The root `zarr.json`: attributes, and every array's metadata consolidated as zarr-python does."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": meta.to_attributes(),
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        },
        indent=2,
        allow_nan=False,
    )
