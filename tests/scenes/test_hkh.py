"""What the HKH release says, and where its own word is not to be taken."""

import io
import json

import numpy as np
import pytest
from affine import Affine

from glacier.errors import GlacierError, UsageError
from glacier.scenes.archive import parse_npy
from glacier.scenes.bands import parse_selection
from glacier.scenes.convert import digital
from glacier.scenes.hkh import labels, read_patch_name, select_channels
from glacier.scenes.hkh_places import read_places, utm_zone, wrs_centre

UNION = {(0, 0, 0): 0, (1, 1, 0): 85, (1, 0, 1): 170, (1, 1, 1): 170}
ONE_HOT = {(0, 0, 1): 0, (1, 0, 0): 85, (0, 1, 0): 170}


@pytest.mark.parametrize("convention", [UNION, ONE_HOT])
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_both_mask_conventions_are_told_by_content(convention, dtype):
    planes = np.array([list(convention)], dtype)
    found, doubled = labels(planes, "m.npy")
    assert found.tolist() == [list(convention.values())]
    assert doubled == sum(pattern == (1, 1, 1) for pattern in convention)


@pytest.mark.parametrize(
    "pixels",
    [
        [(0, 0, 0), (0, 0, 1)],  # one of each convention
        [(1, 0, 0), (1, 1, 0)],
        [(0, 1, 1), (0, 1, 1)],
        [(2, 2, 0), (0, 0, 0)],
        [(255, 255, 0), (0, 0, 0)],
    ],
)
def test_a_mask_of_neither_convention_is_named(pixels):
    with pytest.raises(GlacierError, match=r"slice_1_mask_002.npy: follows neither convention"):
        labels(np.array([pixels], np.uint8), "slice_1_mask_002.npy")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (3, 4, 4)])
def test_a_mask_of_another_shape_is_named(shape):
    with pytest.raises(GlacierError, match=r"m.npy: .* expected a mask of \(h, w, 3\)"):
        labels(np.zeros(shape, np.uint8), "m.npy")


def test_digital_numbers_are_rounded_and_clipped_and_zero_is_no_data():
    values = np.array([np.nan, -262, 0, 0.4, 0.6, 1.5, 2.5, 254.6, 441, np.inf], np.float32)
    assert digital(values).tolist() == [0, 1, 1, 1, 1, 2, 2, 255, 255, 0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("glacier_data/slices/slice_6_img_072.npy", ("", "slice_6_072", "img")),
        ("splits/dev/slice_6_mask_072.npy", ("dev", "slice_6_072", "mask")),
        ("slice_6_img_072.npy", ("", "slice_6_072", "img")),
        ("../../etc/slice_1_img_2.npy", ("", "slice_1_2", "img")),
        ("slices/slice_../x_img_1.npy", None),
        ("slices/slice_6_img_072.npy.part", None),
        ("masks/mask_06.npy", None),
        ("", None),
    ],
)
def test_names_of_patches(path, expected):
    patch = read_patch_name(path)
    assert (patch and (patch.split, patch.key, patch.kind)) == expected


@pytest.mark.parametrize(
    ("text", "names", "channels"),
    [
        ("", "blue green red swir1 thermal", [0, 1, 2, 4, 5]),
        ("all", None, [*range(9), *range(10, 15)]),
        ("B4,elevation,BQA", "nir elevation BQA", [3, 13, 9]),
        ("thermal2=warmth", "warmth", [6]),
    ],
)
def test_channels_are_selected_by_name(text, names, channels):
    chosen = select_channels(parse_selection(text))
    assert [channel.index for _, channel in chosen] == channels
    if names:
        assert [name for name, _ in chosen] == names.split()


def test_a_channel_the_release_has_not_is_a_usage_error():
    with pytest.raises(UsageError, match=r"no channel B10 in the HKH release; it has B1 \(blue\)"):
        select_channels(parse_selection("B10"))


def feature(key, scene, left, bottom, right, top):
    ring = [[right, bottom], [right, top], [left, top], [left, bottom], [right, bottom]]
    about = {"img_source": f"/datadrive/x/{scene}.tif", "img_slice": f"/datadrive/s/{key}.npy"}
    return {"properties": about, "geometry": {"coordinates": [ring]}}


def geojson(*features, epsg=32643):
    crs = {"properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    return json.dumps({"crs": crs, "features": list(features)})


REAL = {
    # two of the release's own footprints, as published, and what follows of them
    "slice_6_img_072": (
        ("LE07_149036_20071102", 543608.211009174352512, 3784433.525695029646158,
         558790.14525993890129, 3799615.657118787057698),
        (7849, 7123, 361425, 3723705, 4, 12),
    ),
    "slice_14_img_062": (
        ("LE07_148036_20050902", 536418.907335907337256, 3786503.631130063906312,
         551600.861003861064091, 3801685.78891257988289),
        (7771, 7036, 506055, 3725775, 4, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", REAL)
def test_published_footprints_give_scenes_whose_corners_are_landsats_own(key):
    """Width and height come out whole and corners on multiples of 15 m, as Landsat's are."""
    (scene, *box), (width, height, left, bottom, row, column) = REAL[key]
    places = read_places(geojson(feature(key, scene, *box)), 512)
    (place,) = places.values()
    corner = (place.grid.transform.c, place.grid.transform.f)
    assert corner == pytest.approx((left + column * 506 * 30, bottom + height * 30 - row * 506 * 30), abs=1)
    assert box[2] - box[0] == pytest.approx(506 * 30 * width / (width - 1), abs=1e-6)
    assert place.scene == scene
    assert "zone 43N" in place.grid.crs


def test_footprints_that_are_true_are_taken_as_they_are():
    key = "slice_0_img_003"
    places = read_places(geojson(feature(key, "mosaic", 1000, 2000, 16180, 17180)), 512)
    assert places["slice_0_003"].grid.transform == Affine(30, 0, 1000, 0, -30, 17180)


@pytest.mark.parametrize(
    "document", ["", "[]", "{}", '{"crs": {}, "features": 3}', geojson(epsg=999999)],
)  # fmt: skip
def test_footprints_of_another_kind_are_one_line(document):
    with pytest.raises(GlacierError, match=r"slices.geojson: cannot be read"):
        read_places(document, 512)


def test_features_that_cannot_be_placed_are_passed_over():
    odd = [
        {"properties": {}},
        {"properties": {"img_slice": None}, "geometry": None},
        feature("slice_0_img_000", "s", 0, 0, 20000, 20000),
        feature("mask_00", "s", 0, 0, 1, 1),
        3,
    ]
    good = feature("slice_0_img_003", "mosaic", 1000, 2000, 16180, 17180)
    assert list(read_places(geojson(*odd, good), 512)) == ["slice_0_003"]


@pytest.mark.parametrize("width", [*range(7590, 7597), 7849, 8096])
def test_patches_lie_where_the_authors_code_cut_them(width):
    """Boxes and patches are counted apart: of some widths there is one box more in a row."""
    size, step, height, left, top = 512, 506, 1600, 300015.0, 3900015.0
    patches = [
        (row * step, column * step)
        for row in range((height - size) // step + 1)
        for column in range((width - size) // step + 1)
    ]
    longs = np.linspace(left, left + 30 * width, width)
    lats = np.linspace(top - 30 * height, top, height)
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    boxes = [
        (longs[columns[j]], lats[rows[i]], longs[columns[j + 1]], lats[rows[i + 1]])
        for i in range(len(rows) - 1)
        for j in range(len(columns) - 1)
    ]
    features = [
        feature(f"slice_0_img_{k:03d}", "LE07_149036_20071102", *box) for k, box in enumerate(boxes)
    ]
    places = read_places(geojson(*features), size)
    for number, (row, column) in enumerate(patches):
        transform = places[f"slice_0_{number:03d}"].grid.transform
        assert (transform.c, transform.f) == pytest.approx((left + 30 * column, top - 30 * row), abs=0.5)


@pytest.mark.parametrize(
    ("path", "row", "longitude", "latitude", "zone"),
    [
        # scene centres as the USGS lists them, to a quarter of a degree
        (140, 41, 86.8, 27.4, 45),
        (149, 36, 74.9, 34.6, 43),
        (134, 40, 96.3, 28.9, 47),
        (1, 60, -64.6, 0.0, 20),
    ],
)
def test_path_and_row_give_the_centre_and_the_zone(path, row, longitude, latitude, zone):
    found = wrs_centre(path, row)
    assert found == pytest.approx((longitude, latitude), abs=0.25)
    assert utm_zone(found[0]) == zone


def npy(array, **header):
    file = io.BytesIO()
    np.save(file, array)
    data = bytearray(file.getvalue())
    for old, new in header.items():
        data = bytearray(bytes(data).replace(old.encode(), new.encode()))
    return bytes(data)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_parsed_as_numpy_does(order):
    array = np.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4), order=order)
    np.testing.assert_array_equal(parse_npy(npy(array), "a"), array)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x93NUMPY", b"PK\x03\x04" + bytes(100), npy(np.zeros(4))[:-1], npy(np.zeros(4)) + b"x",
        npy(np.zeros(4, np.float32), **{"(4,), ": "(9,), "}), npy(np.zeros(4), **{"<f8": "|O8"}),
        npy(np.zeros((4, 4)), **{"(4, 4)": "(-4,4)"}), npy(np.zeros(4), descr="eval("),
    ],
)  # fmt: skip
def test_arrays_that_lie_are_named(data):
    with pytest.raises(GlacierError, match=r"a.npy: cannot be read as an .npy array"):
        parse_npy(data, "a.npy")
