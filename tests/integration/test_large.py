"""A whole Sentinel-2 granule: memory stays bounded."""

import sys

import numpy as np
import pytest
import rasterio

from benchmarks.large import ingest_command, make_scene, watched
from glacier.store.reader import Store

SIDE, BANDS = 10980, 7

PROGRAM = """
import sys
from pathlib import Path
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.layouts import find_scenes

source = Path(sys.argv[1])
ingest(source, find_scenes(source), Path(sys.argv[2]), Options(classes="0=a,1=b"), workers=1)
"""


def write_granule(folder):
    """10980 x 10980 px in strips, as exporters like to write: one file of seven bands, one label."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "crs": "EPSG:32645",
               "transform": rasterio.Affine(10, 0, 400000, 0, -10, 3100020)}  # fmt: skip
    folder.mkdir()
    with (
        rasterio.open(folder / "g.tif", "w", count=BANDS, dtype="uint16", nodata=0, **profile) as image,
        rasterio.open(folder / "g_label.tif", "w", count=1, dtype="uint8", **profile) as label,
    ):
        for row in range(0, SIDE, 610):
            window = rasterio.windows.Window(0, row, SIDE, 610)
            noise = rng.integers(1, 4000, (BANDS, 610, SIDE), np.uint16)
            image.write(noise, window=window)
            label.write(noise[:1] % 2, window=window)


@pytest.mark.slow
def test_a_granule_is_ingested_under_1_5_gib_per_worker(tmp_path):
    write_granule(tmp_path / "in")
    _, _, peak = watched([sys.executable, "-c", PROGRAM, str(tmp_path / "in"), str(tmp_path / "g.zarr")])
    print(f"peak memory {peak:.0f} MiB")
    assert 50 < peak < 1536
    store = Store(tmp_path / "g.zarr")
    assert len(store) == 22 * 22
    with rasterio.open(tmp_path / "in" / "g.tif") as file:
        for tile in (0, 100, 483):
            row, column = store.array("origin")[tile].tolist()
            part = file.read(window=rasterio.windows.Window(column, row, 512, 512))
            part = np.moveaxis(part, 0, -1)
            values = np.stack(
                [b.unpack(store.image(tile)[..., i]) for i, b in enumerate(store.meta.bands)], -1
            )
            np.testing.assert_array_equal(values[: part.shape[0], : part.shape[1]], part)


@pytest.mark.slow
def test_15_bands_of_float32_are_ingested_under_1_gib_per_worker(tmp_path):
    """3.4 GB by the command, on two workers; a tile here and there is what rasterio reads."""
    make_scene(tmp_path / "in")
    seconds, _, peak = watched(ingest_command(tmp_path / "in", tmp_path / "s.zarr"))
    print(f"{seconds:.1f} s, peak memory {peak:.0f} MiB")
    assert 50 < peak < 1024
    store = Store(tmp_path / "s.zarr")
    assert len(store) == 16 * 14
    with rasterio.open(tmp_path / "in" / "s.tif") as file:
        for tile in (0, 100, 223):
            row, column = store.array("origin")[tile].tolist()
            part = file.read(window=rasterio.windows.Window(column, row, 512, 512))
            for b, band in enumerate(store.meta.bands):
                values = band.unpack(store.image(tile)[: part.shape[1], : part.shape[2], b])
                np.testing.assert_allclose(values, part[b], rtol=0, atol=band.bound * 1.001)
