import numpy as np
import pytest
import shapely
from affine import Affine

from glacier.ingest.folds import assign_folds, extend_folds
from glacier.scenes.scene import Grid, Scene, Window
from glacier.store.footprints import touching
from tests.helpers import NORTH_UP, make_store, write_scene


def scene(name="s", crs="EPSG:32645", transform=NORTH_UP, size=640):
    from rasterio.crs import CRS

    return Scene(
        name, Grid(size, size, transform, CRS.from_user_input(crs).to_wkt() if crs else ""), (), None
    )


def tiles_of(made, size=64):
    steps = range(0, made.grid.height, size)
    return [(made, Window(row, column, size, size)) for row in steps for column in steps]


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
def test_folds_are_equal_in_size(folds):
    counts = np.bincount(assign_folds(tiles_of(scene()), folds), minlength=folds)
    assert counts.max() - counts.min() <= 1


def test_folds_are_compact():
    """Far fewer tiles have a neighbour of another fold than if folds were dealt at random."""
    fold = assign_folds(tiles_of(scene()), 5).reshape(10, 10)
    border = (fold[1:] != fold[:-1]).sum() + (fold[:, 1:] != fold[:, :-1]).sum()
    assert border < 0.3 * 180


def test_scenes_far_apart_lie_in_folds_of_their_own():
    far = [scene(str(i), transform=Affine.translation(i * 1e6, 0) @ NORTH_UP, size=128) for i in range(4)]
    fold = assign_folds([tile for s in far for tile in tiles_of(s)], 4).reshape(4, -1)
    assert all(len(set(row)) == 1 for row in fold.tolist())
    assert len(set(fold[:, 0].tolist())) == 4


def test_one_place_in_two_utm_zones_is_one_place():
    """A tile west of the zones' border and its twin in the next zone's coordinates share a fold."""
    west = scene("w", "EPSG:32645", Affine(30, 0, 790000, 0, -30, 3100000), 128)
    east = scene("e", "EPSG:32646", Affine(30, 0, 203500, 0, -30, 3100000), 128)
    far = scene("f", "EPSG:32646", Affine(30, 0, 600000, 0, -30, 3100000), 256)
    fold = assign_folds(tiles_of(west) + tiles_of(east) + tiles_of(far), 3)
    assert not set(fold[:8].tolist()) & set(fold[-8:].tolist())


def test_scenes_without_a_crs_lie_in_a_row():
    fold = assign_folds([t for i in range(4) for t in tiles_of(scene(str(i), "", size=128))], 4)
    assert fold.tolist() == sorted(fold.tolist())
    assert np.bincount(fold).tolist() == [4, 4, 4, 4]


def test_touching_finds_neighbours_and_corners_only(tmp_path):
    source = write_scene(tmp_path / "in", "s", size=32 * 5)
    store = make_store(source, tmp_path / "s.zarr", tile_size=32, classes="0=a,1=b")
    near = touching(store, np.array([6])).reshape(5, 5)
    assert near[:3, :3].all()
    assert near.sum() == 9


def test_scenes_without_a_crs_never_touch(tmp_path):
    for i in range(2):
        folder = write_scene(tmp_path / "in" / str(i), f"s{i}", seed=i)
        from tests.helpers import write_raster

        write_raster(
            folder / f"s{i}.tif", np.ones((2, 64, 64), np.uint16), crs=None, nodata=0, names=("red", "nir")
        )
        write_raster(folder / f"s{i}_label.tif", np.ones((64, 64), np.uint8), crs=None)
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", folds=2)
    assert touching(store, np.array([0])).tolist() == [True, False]


def test_new_tiles_take_the_nearest_fold_they_touch_and_blocks_of_others_go_where_few_are():
    """Old tiles in a column at x = 0, of folds 0, 0, 1 and set aside (-1); new ones beside and far off."""
    old = shapely.box(0, [0, 1, 2, 3], 1, [1, 2, 3, 4])
    new = shapely.box([1, 1, 1, 0.4, 9, 9, 9], [0, 2.2, 3, 1.1, 0, 1, 9], [2, 2, 2, 1.4, 10, 10, 10],
                      [1, 3.2, 4, 2.1, 1, 2, 10])  # fmt: skip
    tiles = tiles_of(scene(size=64 * 3))[:7]
    fold = extend_folds(old, np.array([0, 0, 1, -1], np.int8), new, tiles, 2)
    assert fold[:4].tolist() == [0, 1, -1, 0]
    assert sorted(np.bincount(fold[4:], minlength=2).tolist()) == [1, 2]
    assert np.bincount(fold[4:], minlength=2)[1] == 2, "fold 1 has fewer tiles"
