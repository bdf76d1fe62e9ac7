"""Where tiles lie on the earth, against rasterio's own corners and reprojection."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform

from glacier.errors import GlacierError
from glacier.store.footprints import centres
from tests.helpers import NORTH_UP, make_store, write_raster

SCENES = {
    "utm": ("EPSG:32645", NORTH_UP),
    "next": ("EPSG:32646", Affine(30, 0, 203500, 0, -30, 3100000)),
    "turned": ("EPSG:32645", Affine(30, 0, 700000, 0, -30, 3000000) @ Affine.rotation(30)),
    "polar": ("EPSG:3413", Affine(100, 0, -200000, 0, -100, -2000000)),
    "degrees": ("EPSG:4326", Affine(0.001, 0, -70, 0, -0.001, -33)),
}


def centres_by_rasterio(store, files) -> np.ndarray:
    """Longitude and latitude of the middle of each tile, from the scene's file."""
    half, found = store.meta.tile_size / 2, []
    for scene, (row, column) in zip(store.array("scene"), store.array("origin"), strict=True):
        with rasterio.open(files[store.scene_names[int(scene)]]) as file:
            x, y = file.xy(row + half, column + half, offset="ul")
            longitude, latitude = transform(file.crs, "EPSG:4326", [x], [y])
        found.append((longitude[0], latitude[0]))
    return np.array(found)


def scene(folder, name, crs, grid):
    pixels = np.ones((1, 96, 96), np.uint8)
    write_raster(folder / f"{name}_label.tif", pixels, crs=crs, transform=grid)
    return write_raster(folder / f"{name}.tif", pixels, crs=crs, transform=grid, names=("red",))


def test_centres_of_scenes_of_several_crss_are_rasterios(tmp_path):
    """The last tile of each row and column hangs over its scene's edge."""
    files = {name: scene(tmp_path / "in", name, *place) for name, place in SCENES.items()}
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, folds=2, classes="0=a,1=b")
    assert len(store.meta.crs) == 4
    assert len(store) == 5 * 4
    np.testing.assert_allclose(centres(store), centres_by_rasterio(store, files), atol=1e-9)


def test_a_scene_without_a_crs_has_no_centre(tmp_path):
    scene(tmp_path / "in", "here", *SCENES["utm"])
    scene(tmp_path / "in", "nowhere", None, NORTH_UP)
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, folds=2, classes="0=a,1=b")
    with pytest.raises(GlacierError, match="scene nowhere has no CRS, expected one for model.location"):
        centres(store)
