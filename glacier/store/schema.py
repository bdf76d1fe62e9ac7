"""Schema 1 of the store: the only definition of its arrays, their chunks and its attributes."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from crc32c import crc32c

from glacier.classes import Class
from glacier.errors import GlacierError
from glacier.store.bands import Band

SCHEMA = 1
BLOCK = 32
"""Side of a histogram block, px; a tile's side is a multiple of it."""
SHARD_BYTES = 64 * 2**20
"""Most raw bytes of `image` in a shard of several tiles."""
SMALL_CHUNK = 65536
"""Tiles (or scenes) per chunk of the small arrays, so that a large store opens in few reads."""
HISTOGRAM_CHUNK = 1024
"""Tiles per chunk of `histogram`."""

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


def array_specs(meta: Meta, tiles: int, scenes: int, name_bytes: int) -> dict[str, ArraySpec]:
    """Every array of a store with `tiles` tiles from `scenes` scenes.

    `moments` holds, per tile and band, count, mean, squared deviations, min and max of the valid
    pixels in physical units, from which the statistics of any set of tiles follow exactly.
    `scene_name` is UTF-8 padded with zeros.
    """
    size, bands, blocks = meta.tile_size, len(meta.bands), meta.tile_size // BLOCK
    itemsize = {"uint8": 1, "int16": 2, "float32": 4}[meta.dtype]
    per_shard = tiles_per_shard(tiles, size, bands, itemsize)
    small = min(tiles, SMALL_CHUNK)
    few = min(scenes, SMALL_CHUNK)
    block_chunk = (min(tiles, HISTOGRAM_CHUNK), blocks, blocks, len(meta.classes))
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
        ArraySpec(
            "histogram",
            ("tile", "by", "bx", "class"),
            "uint16",
            (tiles, *block_chunk[1:]),
            block_chunk,
        ),
        ArraySpec("moments", ("tile", "band", "moment"), "float64", (tiles, bands, 5), (small, bands, 5)),
        ArraySpec("scene", ("tile",), "int32", (tiles,), (small,)),
        ArraySpec("origin", ("tile", "yx"), "int32", (tiles, 2), (small, 2)),
        ArraySpec("transform", ("tile", "affine"), "float64", (tiles, 6), (small, 6)),
        ArraySpec("fold", ("tile",), "int8", (tiles,), (small,)),
        ArraySpec("scene_name", ("scene_index", "byte"), "uint8", (scenes, name_bytes), (few, name_bytes)),
        ArraySpec("scene_crs", ("scene_index",), "int32", (scenes,), (few,)),
    ]
    return {spec.name: spec for spec in specs}
