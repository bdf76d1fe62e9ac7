"""The HKH release -> store, from its folders or from its archive as a stream."""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from glacier.console import Track, silence
from glacier.errors import GlacierError
from glacier.ingest.gather import Release, gather
from glacier.ingest.parked import Chosen, Parked, Row, groups, park
from glacier.ingest.place import Place, choose_place
from glacier.ingest.plan import Options
from glacier.ingest.work import executor
from glacier.ingest.write import CHANGED, Report, build, nothing_to_do
from glacier.lock import locked
from glacier.machine import cores
from glacier.scenes.archive import LARGEST, PIECE, identify, is_archive, members
from glacier.scenes.bands import parse_selection
from glacier.scenes.hkh import (
    GEOJSON,
    SIZE,
    Patch,
    patch_files,
    read_patch_name,
    release_root,
    select_channels,
)
from glacier.store.folder import UNFINISHED, Folder

HKH = Options(classes="0=background,85=glacier,170=debris,255=lake", nodata="any")
"""What the release needs: the competition's classes, so that networks move from one to the other, though
it has no lake; and where a band lacks data its masks say background, whatever lies there."""
RELEASED = 7643
"""Patches in the release, copies included."""
PACKED_PATCH, PLAIN_PATCH = 73.9e9 / RELEASED, 182.4e9 / RELEASED
"""Bytes of its archive per patch, compressed and not."""


def ingest_release(
    source: str,
    out: Path | str,
    options: Options,
    *,
    workers: int | str = 1,
    overwrite: bool = False,
    track: Track = silence,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Report, Release | None]:
    """Write a store of all patches of the HKH release, each once.

    Args:
        source: its folder, its archive, an address of that, or `-` for the archive on standard input.
        out: the store's folder; text is an address.
        options: how to cut, pack and label.
        workers: processes, or the address of a Dask scheduler; of processes as many threads pack an
            archive, beside one that decompresses.
        overwrite: build beside what stands at `out`, and put it in its place once complete.
        track: shows progress.
        say: called with what the user should know before anything is read.

    Raises:
        GlacierError: bad input (what was packed stays, to go on from), or `out` holds something else.
    """
    out = out.resolve() if isinstance(out, Path) else out
    options = replace(options, classes=options.classes or HKH.classes)
    reading = _Archive(source) if is_archive(source) else _Folder(Path(source).resolve())
    record = {"files": reading.files, "digest": reading.digest, "options": asdict(options)}
    with locked(out):
        place = choose_place(out, record, overwrite)
        if place is None:
            return nothing_to_do(out), None
        place.begin()
        chosen = select_channels(parse_selection(options.bands))
        parked = Parked(_aside(place, reading.digest), chosen, options.dtype == "float32")
        parked.open(anew=source == "-")
        if not parked.is_all_read():
            say(_estimate(reading.patches, parked))
            parked.all_read(reading.read(parked, workers, track))
        release = gather(parked)
        if options.published and 0 not in release.fold.values():
            raise GlacierError(
                f"{source}: no patch of splits/dev in it, expected some for --folds published"
            )
        fold = release.fold if options.published else None
        report = build(place, release.scenes, options, workers, track, fold)
        shutil.rmtree(parked.folder, ignore_errors=True)
    return report, release


def _aside(place: Place, digest: str) -> Path:
    """Where patches are parked: in the unfinished store, or in this folder where that is at an address."""
    if isinstance(place.build, Folder):
        return place.build.path / UNFINISHED / "patches"
    return Path(f".{str(place.out).rpartition('/')[2]}.{digest[:8]}.patches")


def _estimate(patches: int | None, parked: Parked) -> str:
    """What the store takes at most, and as much again while it is made."""
    pixel = 1 + sum(
        len(group) * (1 if kind == "digital" else 4)
        for kind, group in groups(parked.chosen, parked.whole).items()
    )
    most = (RELEASED if patches is None else patches) * SIZE**2 * pixel / 1e9
    free = shutil.disk_usage(parked.folder).free / 1e9
    of = "the whole release" if patches is None else f"about {patches} patches"
    return (
        f"{of}: at most {most:.1f} GB for the store, and as much beside it until it is complete; "
        f"{free:.1f} GB are free"
    )


class _Folder:
    """The unpacked release."""

    def __init__(self, source: Path) -> None:
        root = release_root(source)
        self._files = patch_files(root, source) if root else []
        if root is None or not self._files:
            raise GlacierError(
                f"{source}: no patches of the HKH release in it; expected slices/ or splits/ with "
                "slice_S_img_NNN.npy"
            )
        self.root = root
        self._geojson = root / "slices" / GEOJSON
        self._listing = {str(f.relative_to(root)): _state(f) for f in self._all()}
        self.files = len(self._listing)
        self.digest = _digest(list(self._listing.items()))
        self.patches = len(self._files) // 2

    def _all(self) -> list[Path]:
        return [*self._files, *([self._geojson] if self._geojson.exists() else [])]

    def read(self, parked: Parked, workers: int | str, track: Track) -> bytes | None:
        """Park every patch; the footprints."""
        named = ((file, read_patch_name(str(file))) for file in self._files)
        wanted = [(file, patch) for file, patch in named if patch and not parked.has(patch)]
        given = parked.folder, parked.chosen, parked.whole
        with executor(workers) as pool, track("pack", len(wanted)) as done:
            futures = [
                pool.submit(
                    _park_file, *given, file, patch, self._listing[str(file.relative_to(self.root))]
                )
                for file, patch in wanted
            ]
            for future in as_completed(futures):
                parked.add(future.result())
                done()
        return self._geojson.read_bytes() if self._geojson.exists() else None


def _state(file: Path) -> tuple[int, int]:
    """Size in bytes, and time of change."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _park_file(
    folder: Path, chosen: Chosen, whole: bool, file: Path, patch: Patch, state: tuple[int, int]
) -> Row:
    if state[0] > LARGEST:
        raise GlacierError(f"{file}: {state[0]} bytes, expected a patch of at most {LARGEST}")
    data = file.read_bytes()
    if _state(file) != state:
        raise GlacierError(f"{file}: {CHANGED}")
    return park(folder, str(file), patch, data, chosen, whole)


class _Archive:
    """The release as one archive."""

    files = 1

    def __init__(self, source: str) -> None:
        self._source = source
        self._size, version = identify(source)
        self.digest = _digest([source.rpartition("/")[2], self._size, version])
        per_patch = PLAIN_PATCH if source.endswith(".tar") else PACKED_PATCH
        self.patches = None if self._size is None else round(self._size / per_patch)

    def read(self, parked: Parked, workers: int | str, track: Track) -> bytes | None:
        """Park every patch, in whatever order they come; the footprints.

        What was parked from a file or address that is still the same is passed over.
        """
        footprints = None
        threads = workers if isinstance(workers, int) else cores()
        waiting: deque[Future[Row]] = deque()
        mebibytes = None if self._size is None else self._size // PIECE
        with track("read MiB", mebibytes) as done, ThreadPoolExecutor(threads) as pool:
            for name, read in members(self._source, done):
                if name.endswith(f"slices/{GEOJSON}"):
                    footprints = read()
                patch = read_patch_name(name)
                if patch is None or parked.has(patch):
                    continue
                if len(waiting) > threads:
                    parked.add(waiting.popleft().result())
                data = read()
                waiting.append(
                    pool.submit(park, parked.folder, name, patch, data, parked.chosen, parked.whole)
                )
            while waiting:
                parked.add(waiting.popleft().result())
        return footprints


def _digest(listing: Any) -> str:
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
