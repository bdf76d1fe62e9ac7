"""Whether a store is right: every chunk decoded, and what is kept beside the pixels made again."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.console import Track, silence
from glacier.errors import GlacierError, UnreachableError
from glacier.store.compiled import compiled_count
from glacier.store.measures import block_histogram, moments
from glacier.store.reader import Store
from glacier.store.schema import array_specs
from glacier.store.writer import PIXELS
from glacier.verify_tables import CLOSE, Arrays, Reasons, strange_places, strange_tables


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a store."""

    what: str
    """The array, or `attributes`."""
    reason: str
    tiles: tuple[int, ...] = ()
    """Neighbours in the store's order; none where it is the whole store's."""
    scenes: tuple[str, ...] = ()
    """Theirs, each once; none where they cannot be told."""

    def __str__(self) -> str:
        if not self.tiles:
            return f"{self.what}: {self.reason}"
        first, last = self.tiles[0], self.tiles[-1]
        place = f"tile {first}" if first == last else f"tiles {first} to {last}"
        names = f" (scene{'s' * (len(self.scenes) > 1)} {', '.join(self.scenes)})" if self.scenes else ""
        return f"{place}{names}: {self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `glacier verify` found."""

    tiles: int
    faults: tuple[Fault, ...]
    quick: bool
    seconds: float

    @property
    def bad_tiles(self) -> int:
        """How many tiles have a fault of their own."""
        return len({tile for fault in self.faults for tile in fault.tiles})

    def to_json(self) -> dict[str, Any]:
        """One object; scripts may rely on its keys."""
        return {**asdict(self), "bad_tiles": self.bad_tiles, "right": not self.faults}

    def __str__(self) -> str:
        how = "found, not decoded" if self.quick else "decoded and compared"
        speed = (
            f"{self.tiles:,} tiles {how} in {self.seconds:.1f} s, {self.tiles / self.seconds:,.0f} tiles/s"
        )
        if not self.faults:
            return f"{speed}; all is right"
        others = sum(not fault.tiles for fault in self.faults)
        beside = f" and {others} faults of the whole store" if others else ""
        return f"{speed}; {self.bad_tiles} bad tiles{beside}; make the store again"


def verify(store: Store, *, quick: bool = False, track: Track = silence) -> Verdict:
    """Look at every tile of a store opened with `whole=False`.

    Args:
        store: to be verified.
        quick: decode no pixel; look at the shards' indexes and at what says where tiles lie.
        track: shows progress.

    Raises:
        UnreachableError: the store lies on a server that does not answer.
    """
    start = time.perf_counter()
    arrays, faults = _arrays(store, quick)
    look: Callable[[int], Reasons] = (
        (lambda tile: _found(store, tile)) if quick else (lambda tile: _compared(store, arrays, tile))
    )
    with track("verify", len(store)) as done, ThreadPoolExecutor(store.threads) as pool:

        def look_at(tile: int) -> Reasons:
            reasons = look(tile)
            done()
            return reasons

        reasons = list(pool.map(look_at, range(len(store))))
    for tile, what, reason in strange_places(store, arrays):
        reasons[tile].append((what, reason))
    faults += [Fault(what, reason) for what, reason in strange_tables(store, arrays)]
    faults += _in_runs(reasons, _scene_of(arrays, len(store)))
    return Verdict(len(store), tuple(faults), quick, time.perf_counter() - start)


def _found(store: Store, tile: int) -> Reasons:
    """Where a tile's chunks are missing, or lie beyond their shard."""
    reasons = []
    for name in PIXELS:
        try:
            store.find(name, tile)
        except GlacierError as error:
            reasons.append((name, _reason(error)))
    return reasons


def _compared(store: Store, arrays: Arrays, tile: int) -> Reasons:
    """What decoding a tile, and measuring it again, brings to light."""
    reasons: Reasons = []
    try:
        reasons += _label_faults(store, store.label(tile), arrays.get("histogram"), tile)
    except GlacierError as error:
        reasons.append(("label", _reason(error)))
    try:
        image = store.image(tile)
    except GlacierError as error:
        return [("image", _reason(error)), *reasons]
    if "moments" in arrays:
        with np.errstate(invalid="ignore"):  # infinite pixels are told below
            mine = moments(image, store.meta.bands, compiled_count())
            alike = _alike(mine, arrays["moments"][tile])
        if not alike.all():
            names = ", ".join(np.array(store.meta.band_names)[~alike])
            reasons.append(("image", f"moments are not the stored ones in {names}"))
    return reasons


def _reason(error: GlacierError) -> str:
    """What was wrong with a tile.

    Raises:
        UnreachableError: nothing, so far as one can tell.
    """
    if isinstance(error, UnreachableError):
        raise error
    return str(error.__cause__)


def _label_faults(
    store: Store, label: NDArray[np.uint8], stored: NDArray[np.uint16] | None, tile: int
) -> Reasons:
    classes = len(store.meta.classes)
    histogram = block_histogram(label, classes)
    if int(histogram.sum()) + np.count_nonzero(label == IGNORE) != label.size:
        strange = label[(label >= classes) & (label != IGNORE)][0]
        return [("label", f"holds class {strange}, expected 0 to {classes - 1} or {IGNORE}")]
    if stored is not None and not np.array_equal(histogram, stored[tile]):
        return [("label", "its histogram is not the stored one")]
    return []


def _alike(mine: NDArray[np.float64], stored: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of moments (band, 5) are the same: count and extremes exactly, all of them finite."""
    largest = np.abs(mine[:, 3:]).max(axis=1)
    exact = (mine[:, [0, 3, 4]] == stored[:, [0, 3, 4]]).all(axis=1)
    mean = np.isclose(mine[:, 1], stored[:, 1], rtol=CLOSE, atol=CLOSE * largest)
    spread = np.isclose(mine[:, 2], stored[:, 2], rtol=CLOSE, atol=CLOSE * largest**2)
    return np.asarray(exact & mean & spread & np.isfinite(mine).all(axis=1))


def _arrays(store: Store, quick: bool) -> tuple[Arrays, list[Fault]]:
    """The small arrays that can be read, and what is wrong with the others."""
    arrays: Arrays = {}
    faults: list[Fault] = []
    scenes = store.shape("scene_name")[0]
    for name, spec in array_specs(store.meta, len(store), scenes, 1).items():
        if name in PIXELS:
            continue
        try:
            if quick and name in ("histogram", "moments"):
                store.nothing_missing(name)
                continue
            found = store.array(name)
        except UnreachableError:
            raise
        except GlacierError as error:
            faults.append(Fault(name, str(error).removeprefix(f"{store.path}: ")))
            continue
        if (found.shape, found.dtype.name) == (spec.shape, spec.dtype):
            arrays[name] = found
        else:
            wrong = f"{found.dtype.name} {found.shape}, expected {spec.dtype} {spec.shape}"
            faults.append(Fault(name, wrong))
    return arrays, faults


def _scene_of(arrays: Arrays, tiles: int) -> list[str]:
    """The name of each tile's scene; empty where that cannot be told."""
    if "scene" not in arrays or "scene_name" not in arrays:
        return [""] * tiles
    names = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in arrays["scene_name"]]
    return [names[i] if 0 <= i < len(names) else "" for i in arrays["scene"].tolist()]


def _in_runs(reasons: Sequence[Reasons], scenes: Sequence[str]) -> Iterator[Fault]:
    """Faults of tiles, neighbours with the same one taken together, as all of a damaged shard have."""
    places: dict[tuple[str, str], list[int]] = {}
    for tile, found in enumerate(reasons):
        for one in dict.fromkeys(found):
            places.setdefault(one, []).append(tile)
    runs = []
    for (what, reason), tiles in places.items():
        for _, run in groupby(enumerate(tiles), lambda pair: pair[1] - pair[0]):
            together = tuple(tile for _, tile in run)
            names = tuple(dict.fromkeys(scenes[tile] for tile in together if scenes[tile]))
            runs.append(Fault(what, reason, together, names))
    yield from sorted(runs, key=lambda fault: fault.tiles[0])
