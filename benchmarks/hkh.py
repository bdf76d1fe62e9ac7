"""The HKH release's archive as a stream, against unpacking it to disk.

    python benchmarks/hkh.py                      20 GB of patches, made while they are read
    python benchmarks/hkh.py --gb 2 --json FILE
    python benchmarks/hkh.py --make 2 > x.tar.gz  the stream alone

Patches are synthetic, 512 px, with the release's gaps; each is another, so that none is a copy. What they
were compressed from is kept, so that making the stream costs next to nothing beside reading it.
"""

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.host import family, machine, memory
from glacier.scenes.hkh import GEOJSON
from glacier.synth.write import write_synthetic

SIZE = 512
FRESH = 2**16
"""Bytes at the beginning of each patch that are compressed anew, with a number of its own among them."""
RELEASE = {"packed": 73.9e9, "unpacked": 182.4e9, "patches": 117.2e9 + 8.9e9, "pairs": 7643}
"""Bytes, and pairs with copies; the rest are scenes and masks, which are passed over."""
console = Console(stderr=True)


def patches(folder: Path) -> list[tuple[bytes, bytes]]:
    """Files of nine patches of one scene: image and mask."""
    write_synthetic(folder, layout="hkh", seed=1, count=1, size=SIZE)
    slices = folder / "glacier_data" / "slices"
    return [
        (image.read_bytes(), Path(str(image).replace("_img_", "_mask_")).read_bytes())
        for image in sorted(slices.glob("*_img_*.npy"))
    ]


def stream(made: list[tuple[bytes, bytes]], total: float) -> Iterator[bytes]:
    """A tar.gz of about `total` bytes unpacked, image after mask, as gzip members one after the other."""
    rest = [gzip.compress(image[FRESH:], 6) for image, _ in made]
    written = number = 0
    while written < total:
        image, mask = made[number % len(made)]
        head = bytearray(image[:FRESH])
        head[256:264] = np.float64(number).tobytes()
        for kind, first, later in (("mask", mask, b""), ("img", bytes(head), rest[number % len(made)])):
            about = tarfile.TarInfo(
                f"glacier_data/slices/slice_{number // 1000}_{kind}_{number % 1000:03d}.npy"
            )
            about.size = len(mask) if kind == "mask" else len(image)
            yield (
                gzip.compress(about.tobuf() + first, 6) + later + gzip.compress(bytes(-about.size % 512), 6)
            )
            written += about.size
        number += 1
    document = b'{"crs": {"properties": {"name": "EPSG:32643"}}, "features": []}'
    about = tarfile.TarInfo(f"glacier_data/slices/{GEOJSON}")
    about.size = len(document)
    yield gzip.compress(about.tobuf() + document + bytes(-about.size % 512) + bytes(10240), 6)


def peak_mib(process: subprocess.Popen[Any], feed: Iterator[bytes]) -> float:
    """Write `feed` to a process; the most that it and its workers held together at any time, MiB."""
    assert process.stdin is not None
    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, sum(memory(each, "VmRSS") for each in family(process.pid)) / 2**10)

    thread = threading.Thread(target=watch)
    thread.start()
    for data in feed:
        process.stdin.write(data)
    process.stdin.close()
    code = process.wait()
    ended.set()
    thread.join()
    assert code == 0
    return peak


def run(command: list[str], feed: Iterator[bytes], folder: Path) -> dict[str, float]:
    """Seconds and memory of a command that reads the stream."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder)
    peak = peak_mib(process, feed)
    return {"s": time.perf_counter() - start, "peak_mib": peak}


def gunzips(data: bytes) -> dict[str, float]:
    """MB/s of output, by what decompresses `data` in one thread."""
    from isal import igzip

    def read(file: BinaryIO) -> int:
        return sum(len(part) for part in iter(lambda: file.read(2**20), b""))

    rates = {}
    for name, opened in (("zlib", gzip.GzipFile), ("isal", igzip.IGzipFile)):
        start = time.perf_counter()
        size = read(opened(fileobj=io.BytesIO(data)))
        rates[f"{name} {zlib.ZLIB_RUNTIME_VERSION if name == 'zlib' else ''}".strip()] = (
            size / 1e6 / (time.perf_counter() - start)
        )
    return rates


@click.command()
@click.option("--gb", default=20.0, show_default=True, help="Bytes of patches in the stream, 1e9.")
@click.option("--tar-gb", default=4.0, show_default=True, help="As much of it as is unpacked to disk.")
@click.option("--workers", default=2, show_default=True)
@click.option("--make", type=float, help="Only write a stream of so many GB to standard output.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(gb: float, tar_gb: float, workers: int, make: float | None, target: Path | None) -> None:
    """Measure both, and how fast alone the stream is decompressed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = patches(folder / "made")
        if make is not None:
            for data in stream(made, make * 1e9):
                sys.stdout.buffer.write(data)
            return
        sample = b"".join(stream(made, 0.6e9))
        ratio = 0.6e9 / len(sample)
        rates = gunzips(sample)
        command = [sys.executable, "-m", "glacier", "ingest", "-", "--workers", str(workers)]
        ingested = run(command, stream(made, gb * 1e9), folder)
        store = sum(f.stat().st_size for f in (folder / "hkh.zarr").rglob("*") if f.is_file())
        shutil.rmtree(folder / "hkh.zarr")
        (folder / "unpacked").mkdir()
        untarred = run(["tar", "-xzf", "-"], stream(made, tar_gb * 1e9), folder / "unpacked")
    rows = {
        "glacier ingest -": {"gb": gb, "mb_per_s": gb * 1e3 / ingested["s"], **ingested},
        "tar -xzf to disk": {"gb": tar_gb, "mb_per_s": tar_gb * 1e3 / untarred["s"], **untarred},
    }
    table = Table(title=f"tar.gz, compressed {ratio:.2f} : 1", title_justify="left", box=SIMPLE_HEAD)
    for head in ("", "GB", "s", "MB/s unpacked", "peak MiB"):
        table.add_column(head, justify="right" if head else "left")
    for name, row in rows.items():
        numbers = (f"{row['gb']:g}", f"{row['s']:.0f}", f"{row['mb_per_s']:.0f}", f"{row['peak_mib']:.0f}")
        table.add_row(name, *numbers)
    for name, rate in rates.items():
        table.add_row(f"decompress alone, {name}", "0.6", "", f"{rate:.0f}", "")
    console.print(table)
    seconds = RELEASE["patches"] / 1e6 / rows["glacier ingest -"]["mb_per_s"]
    seconds += (RELEASE["unpacked"] - RELEASE["patches"]) / 1e6 / rates["isal"]
    size = store / gb / 1e9 * RELEASE["patches"] / 1e9 * 7095 / RELEASE["pairs"]
    console.print(f"the release, at these rates: {seconds / 60:.0f} min, a store of {size:.1f} GB")
    if target:
        result = {"machine": machine(("isal", "numpy", "rasterio")), "ratio": ratio, "rows": rows,
                  "decompress_mb_per_s": rates, "store_bytes": store,
                  "release": {"minutes": seconds / 60, "store_gb": size}}  # fmt: skip
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
