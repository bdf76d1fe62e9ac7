"""Schema 1 of the store: the only definition of its arrays, their chunks and its attributes."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from crc32c import crc32c

from glacier.classes import Class
from glacier.errors import GlacierError
from glacier.store.bands import Band

SCHEMA = 1
BLOCK = 32
"""Side of a histogram block, px; a tile's side is a multiple of it."""
TEST = -1
"""Fold of tiles that are set aside: neither trained on nor validated on."""
SHARD_BYTES = 64 * 2**20
"""Most raw bytes of `image` in a shard of several tiles."""
SMALL_BYTES = 2 * 2**20
"""Most raw bytes in a chunk of a small array of several rows, decoded in a millisecond or two."""
SMALL_ROWS = 16384
"""Most tiles (or scenes) in a chunk of a small array."""
NAME_BYTES = 255
"""Longest scene name, as UTF-8."""

ITEMSIZE = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "float32": 4, "float64": 8}
"""Bytes per item of the dtypes in use."""

Codec = Literal["lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape, chunks and meaning of one array."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a store says of itself, besides its tiles."""

    tile_size: int
    """px"""
    dtype: str
    """uint8, int16 or float32: raw dtype of `image`."""
    bands: tuple[Band, ...]
    classes: tuple[Class, ...]
    crs: tuple[str, ...]
    """Well-known texts; `scene_crs` holds an index per scene, -1 for none."""
    folds: int
    codec: Codec
    created_by: str
    source: dict[str, Any]
    """What it was made from: a digest of the source files, and the options given."""

    @property
    def band_names(self) -> list[str]:
        """In the order of the image's last axis."""
        return [band.name for band in self.bands]

    @property
    def class_names(self) -> list[str]:
        """By class index."""
        return [cls.name for cls in self.classes]

    def to_attributes(self) -> dict[str, Any]:
        """The root group's attributes in a complete store."""
        attributes = {
            "schema": SCHEMA,
            "complete": True,
            "tile_size": self.tile_size,
            "dtype": self.dtype,
            "bands": [band.to_json() for band in self.bands],
            "classes": [asdict(cls) for cls in self.classes],
            "crs": list(self.crs),
            "folds": self.folds,
            "codec": self.codec,
            "created_by": self.created_by,
            "source": self.source,
        }
        return {**attributes, "checksum": checksum(attributes)}

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any], path: object) -> Self:
        """Read the root group's attributes.

        Raises:
            GlacierError: not a glacier store, another schema, or an incomplete store.
        """
        found = attributes.get("schema")
        if found != SCHEMA:
            what = "not a glacier store" if found is None else f"schema {found}"
            raise GlacierError(
                f"{path}: {what}, expected a store of schema {SCHEMA}; make one with `glacier ingest`"
            )
        if attributes.get("complete") is not True:
            raise incomplete(path)
        try:
            if not isinstance(attributes["folds"], int) or not isinstance(attributes["tile_size"], int):
                raise TypeError("folds and tile_size are to be whole numbers")
            return cls(
                tile_size=attributes["tile_size"],
                dtype=attributes["dtype"],
                bands=tuple(Band.from_json(b, attributes["dtype"]) for b in attributes["bands"]),
                classes=tuple(Class(**c) for c in attributes["classes"]),
                crs=tuple(attributes["crs"]),
                folds=attributes["folds"],
                codec=attributes["codec"],
                created_by=attributes["created_by"],
                source=attributes["source"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GlacierError(f"{path}: attributes are damaged ({error}); make the store again") from error


def checksum(attributes: dict[str, Any]) -> int:
    """crc32c of the root group's attributes, whatever `checksum` they hold themselves."""
    rest = {key: value for key, value in attributes.items() if key != "checksum"}
    return int(crc32c(json.dumps(rest, sort_keys=True).encode()))


def incomplete(path: object) -> GlacierError:
    """The error of a store whose ingest has not ended."""
    return GlacierError(
        f"{path}: the store is incomplete, its ingest did not finish; give the same `glacier ingest` "
        "command again to finish it"
    )


def tiles_per_shard(tiles: int, tile_size: int, bands: int, itemsize: int) -> int:
    """How many tiles share a shard: at most `SHARD_BYTES`, and at least some 16 shards to share out."""
    fit = SHARD_BYTES // (tile_size * tile_size * bands * itemsize)
    return max(1, min(fit, -(-tiles // 16)))


def array_specs(meta: Meta, tiles: int, scenes: int, per_shard: int) -> dict[str, ArraySpec]:
    """Every array of a store with `tiles` tiles from `scenes` scenes, `per_shard` tiles to a shard.

    `moments` holds, per tile and band, count, mean, squared deviations, min and max of the valid
    pixels in physical units, from which the statistics of any set of tiles follow exactly.
    `scene_name` is UTF-8 padded with zeros. The chunks of small arrays do not depend on how many tiles
    there are: with more tiles they are the same chunks, the last one fuller.
    """
    size, bands, blocks = meta.tile_size, len(meta.bands), meta.tile_size // BLOCK
    yx = ("tile", "y", "x")
    specs = [
        ArraySpec(
            "image",
            (*yx, "band"),
            meta.dtype,
            (tiles, size, size, bands),
            (1, size, size, bands),
            (per_shard, size, size, bands),
        ),
        ArraySpec("label", yx, "uint8", (tiles, size, size), (1, size, size), (per_shard, size, size)),
        _small(
            "histogram", ("tile", "by", "bx", "class"), "uint16", (tiles, blocks, blocks, len(meta.classes))
        ),
        _small("moments", ("tile", "band", "moment"), "float64", (tiles, bands, 5)),
        _small("scene", ("tile",), "int32", (tiles,)),
        _small("origin", ("tile", "yx"), "int32", (tiles, 2)),
        _small("transform", ("tile", "affine"), "float64", (tiles, 6)),
        _small("fold", ("tile",), "int8", (tiles,)),
        _small("scene_name", ("scene_index", "byte"), "uint8", (scenes, NAME_BYTES + 1)),
        _small("scene_crs", ("scene_index",), "int32", (scenes,)),
    ]
    return {spec.name: spec for spec in specs}


def _small(name: str, dims: tuple[str, ...], dtype: str, shape: tuple[int, ...]) -> ArraySpec:
    """An array of some bytes per tile or scene, in chunks of many."""
    row = math.prod(shape[1:]) * ITEMSIZE[dtype]
    rows = max(1, min(SMALL_ROWS, SMALL_BYTES // row))
    return ArraySpec(name, dims, dtype, shape, (rows, *shape[1:]))
