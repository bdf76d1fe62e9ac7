"""Which files make which scenes, by layout."""

from pathlib import Path

import numpy as np
import pytest

from glacier.errors import GlacierError, UsageError
from glacier.scenes.bands import measured, parse_selection, role
from glacier.scenes.files import read_name
from glacier.scenes.layouts import find_scenes
from tests.helpers import NORTH_UP, write_raster

FLAT = np.ones((8, 8), np.uint16)
LABEL = np.zeros((8, 8), np.uint8)


def touch(folder, *names, pixels=FLAT, **options):
    for name in names:
        write_raster(folder / name, LABEL if "abel" in name or "mask" in name else pixels, **options)
    return folder


def shape(scenes):
    """{scene: (bands, label's file name)}"""
    return {s.name: ([b.name for b in s.bands], s.label.path.name if s.label else None) for s in scenes}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            ["LE71400412000304_B4.tif", "LE71400412000304_B10.tif", "LE71400412000304_B3.tif"],
            {"LE71400412000304": (["red", "nir", "B10"], None)},
            id="Landsat 7: B4 is near infrared",
        ),
        pytest.param(
            ["LC08_L1TP_140041_B4.TIF", "LC08_L1TP_140041_B10.TIF", "LC08_L1TP_140041_BQA.TIF"],
            {"LC08_L1TP_140041": (["red", "thermal"], None)},
            id="Landsat 8: B4 is red, quality bands are none",
        ),
        pytest.param(
            ["a/B02.tif", "a/B8A.tif", "a/label.tif", "b/B02.tif", "b/B8A.tif", "b/label.tif"],
            {"a": (["B2", "B8A"], "label.tif"), "b": (["B2", "B8A"], "label.tif")},
            id="a folder per scene, sensor unknown",
        ),
        pytest.param(
            ["x_blue.tif", "x_swir1.tif", "x_mask.tif", "x_glcm_contrast.tif"],
            {"x": (["blue", "swir1", "glcm_contrast"], "x_mask.tif")},
            id="names that say what they measure",
        ),
        pytest.param(
            ["images/a_red.tif", "images/b_red.tif", "labels/a.tif", "labels/b.tif"],
            {"a": (["red"], "a.tif"), "b": (["red"], "b.tif")},
            id="labels in a folder of their own",
        ),
        pytest.param(
            ["s/red.tif", "s/glcm/contrast.tif", "s/GLCM_energy/s.tif"],
            {"s": (["red", "glcm_contrast", "glcm_energy"], None)},
            id="texture in folders of its own",
        ),
        pytest.param(
            ["a/2020/red.tif", "b/2020/red.tif"],
            {"a_2020": (["red"], None), "b_2020": (["red"], None)},
            id="one folder's name in two folders",
        ),
        pytest.param(
            ["LC08_SR_B4.TIF", "LC08_ST_B10.TIF", "LC08_MTL.TIF", "LC08_VZA.TIF"],
            {"LC08": (["red", "thermal"], None)},
            id="Landsat level 2, with what comes along",
        ),
        pytest.param(
            ["T45RVL_2020_B02_10m.tif", "T45RVL_2020_B8A_10m.tif", "T45RVL_2020_SCL_10m.tif"],
            {"T45RVL_2020": (["blue", "nir_narrow"], None)},
            id="Sentinel-2 level 2",
        ),
        pytest.param(
            ["one/image.tif", "two/image.tif"],
            {"one_image": (["band"], None), "two_image": (["band"], None)},
            id="one name in two folders",
        ),
    ],
)  # fmt: skip
def test_scenes_are_told_by_file_names(tmp_path, files, expected):
    assert shape(find_scenes(touch(tmp_path, *files))) == expected


def test_a_stack_is_named_by_its_descriptions(tmp_path):
    write_raster(tmp_path / "s.tif", np.stack([FLAT] * 3), names=("Thermal", "swir1", "odd"))
    (scene,) = find_scenes(tmp_path / "s.tif")
    assert [(b.name, b.role, b.index) for b in scene.bands] == [
        ("swir1", "optical", 2), ("thermal", "thermal", 1), ("odd", "other", 3),
    ]  # fmt: skip


def test_band_folders_match_files_by_tile_id(tmp_path):
    touch(tmp_path / "Band1", "B2_B2_masked_02_07.tif", "B2_B2_masked_02_10.tif")
    touch(tmp_path / "Band2", "B10_masked_02_10.tif", "B10_masked_02_07.tif")
    touch(tmp_path / "GLCM_contrast", "c_02_07.tif", "c_02_10.tif")
    touch(tmp_path / "labels", "Y_output_resized_02_07.tif", "Y_output_resized_02_10.tif")
    assert shape(find_scenes(tmp_path)) == {
        "02_07": (["B2", "B10", "glcm_contrast"], "Y_output_resized_02_07.tif"),
        "02_10": (["B2", "B10", "glcm_contrast"], "Y_output_resized_02_10.tif"),
    }
    assert [str(b.path.name) for b in find_scenes(tmp_path)[1].bands][1] == "B10_masked_02_10.tif"


def test_band_folders_without_labels_serve_prediction(tmp_path):
    touch(tmp_path / "Band1", "img001.tif")
    touch(tmp_path / "label", "img002_label.tif")
    assert shape(find_scenes(tmp_path, labelled=False)) == {"001": (["Band1"], None)}
    with pytest.raises(GlacierError, match="label: no file for tile 001"):
        find_scenes(tmp_path)


def test_a_missing_band_file_is_named(tmp_path):
    touch(tmp_path / "Band1", "a_01.tif", "a_02.tif")
    touch(tmp_path / "Band2", "b_01.tif")
    with pytest.raises(GlacierError, match="Band2: no file for tile 02"):
        find_scenes(tmp_path)


def test_bands_are_selected_and_renamed_in_order(tmp_path):
    touch(tmp_path, "s_B2.tif", "s_B6.tif", "s_B8.tif")
    (scene,) = find_scenes(tmp_path, bands=parse_selection("B6=swir1,b2=blue"))
    assert [(b.name, b.code) for b in scene.bands] == [("swir1", "B6"), ("blue", "B2")]


@pytest.mark.parametrize("text", ["B9", "B2=blue,B99=x"])
def test_a_band_that_is_not_there_is_named(tmp_path, text):
    touch(tmp_path, "s_B2.tif")
    with pytest.raises(UsageError, match=r"no band B9.*; it has B2"):
        find_scenes(tmp_path, bands=parse_selection(text))


@pytest.mark.parametrize("text", ["=x", "B2,B2", "B2=a,B3=a", "B2,,B3"])
def test_a_selection_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--bands"):
        parse_selection(text)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"pixels": np.ones((8, 9), np.uint16)}, "8 x 9 px, expected 8 x 8 px as in s_B2.tif"),
        ({"transform": NORTH_UP @ NORTH_UP.translation(0, 0.1)}, "transform .* expected"),
        ({"crs": "EPSG:32644"}, "UTM zone 44N, expected WGS 84 / UTM zone 45N"),
        ({"crs": None}, "CRS none, expected"),
    ],
)
def test_a_band_on_another_grid_is_named(tmp_path, odd, words):
    touch(tmp_path, "s_B2.tif")
    touch(tmp_path, "s_B3.tif", **{"pixels": FLAT, **odd})
    with pytest.raises(GlacierError, match=f"s_B3.tif: .*{words}"):
        find_scenes(tmp_path)
    assert len(find_scenes(tmp_path, bands=parse_selection("B2"))[0].bands) == 1


def test_a_label_on_another_grid_is_named(tmp_path):
    touch(tmp_path, "s_B2.tif")
    write_raster(tmp_path / "s_label.tif", np.zeros((9, 8), np.uint8))
    with pytest.raises(GlacierError, match="s_label.tif: 9 x 8 px, expected 8 x 8 px"):
        find_scenes(tmp_path)


def test_transforms_may_differ_in_the_last_digits(tmp_path):
    touch(tmp_path, "s_B2.tif")
    touch(tmp_path, "s_B3.tif", transform=NORTH_UP @ NORTH_UP.scale(1 + 1e-12))
    assert len(find_scenes(tmp_path)[0].bands) == 2


def test_scenes_with_other_bands_are_named(tmp_path):
    touch(tmp_path / "a", "red.tif", "nir.tif")
    touch(tmp_path / "b", "red.tif")
    with pytest.raises(GlacierError, match="scene b: bands red; expected red, nir as in scene a"):
        find_scenes(tmp_path)


def test_two_bands_of_one_name_are_named(tmp_path):
    write_raster(tmp_path / "LC08_x_B4.tif", FLAT)
    write_raster(tmp_path / "LC08_x_red.tif", FLAT)
    with pytest.raises(GlacierError, match=r"2 bands are called red \(LC08_x_B4.tif, LC08_x_red.tif\)"):
        find_scenes(tmp_path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: (p / "readme.txt").write_text("no raster")])
def test_a_folder_without_rasters_is_named(tmp_path, make):
    make(tmp_path)
    with pytest.raises(GlacierError, match="no raster of bands"):
        find_scenes(tmp_path)


def test_what_is_no_raster_is_named(tmp_path):
    (tmp_path / "s_B2.tif").write_bytes(b"II*\0 not really")
    with pytest.raises(GlacierError, match="s_B2.tif: cannot be read as a raster"):
        find_scenes(tmp_path)


def test_a_label_that_fits_no_scene_is_named(tmp_path):
    touch(tmp_path, "a_red.tif", "b_red.tif", "c_label.tif")
    with pytest.raises(GlacierError, match="c_label.tif: belongs to none of the scenes a, b"):
        find_scenes(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "stem", "code"),
    [
        ("LE07_B6_VCID_1.TIF", "band", "LE07", "B6_VCID_1"),
        ("Spain_737_LabelHand.tif", "label", "Spain_737", ""),
        ("scene_QA_PIXEL.tif", "quality", "scene_QA_PIXEL", ""),
        ("scene_glcm_asm_3.tif", "glcm", "scene", "asm_3"),
        ("masked.tif", "band", "masked", ""),
    ],
)
def test_names_taken_apart(tmp_path, name, kind, stem, code):
    named = read_name(tmp_path / name, tmp_path)
    assert (named.kind, named.stem, named.code) == (kind, stem, code)


@pytest.mark.parametrize(
    ("code", "stem", "name"),
    [
        ("B4", "LE07_140041", "nir"), ("B4", "LC08_140041", "red"), ("B04", "S2A_MSIL2A", "red"),
        ("b8a", "T45RVL_2020_B8A", "nir_narrow"), ("B4", "unknown", "B4"), ("B04", "unknown", "B4"),
    ],
)  # fmt: skip
def test_what_a_code_measures_depends_on_the_sensor(code, stem, name):
    assert measured(code, stem) == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swir1", "optical"),
        ("thermal", "thermal"),
        ("slope", "terrain"),
        ("glcm_asm", "texture"),
        ("B4", "other"),
    ],
)
def test_roles(name, kind):
    assert role(name) == kind


def test_an_unnamed_stack_is_not_named_by_position(tmp_path):
    """B8A is the ninth band of Sentinel-2, not B9; nobody knows which bands a bare stack holds."""
    write_raster(tmp_path / "S2A_x.tif", np.stack([FLAT] * 10))
    (scene,) = find_scenes(tmp_path)
    assert [band.name for band in scene.bands] == [f"band_{i}" for i in range(1, 11)]


def test_a_scene_called_s2_is_no_sentinel():
    assert measured("B4", "s2") == "B4"
    assert measured("B4", "S2B_x") == "red"


def test_band_folders_of_competition_names(tmp_path):
    touch(tmp_path / "Band1", "B2_02_07.tif")
    touch(tmp_path / "Band2", "B3_02_07.tif")
    touch(tmp_path / "label", "Y_02_07.tif")
    assert shape(find_scenes(tmp_path)) == {"02_07": (["B2", "B3"], "Y_02_07.tif")}


@pytest.mark.parametrize("name", ["glcm_tiles", "labelled_data", "Band_of_brothers"])
def test_what_the_source_is_called_does_not_matter(tmp_path, name):
    touch(tmp_path / name / "Band1", "a_01.tif")
    assert shape(find_scenes(tmp_path / name)) == {"01": (["Band1"], None)}
    touch(tmp_path / f"{name}2", "x_red.tif")
    assert shape(find_scenes(tmp_path / f"{name}2")) == {"x": (["red"], None)}


def test_labels_elsewhere_match_scenes_by_their_folders_name(tmp_path):
    touch(tmp_path / "in", "s1x/red.tif", "s2x/red.tif")
    touch(tmp_path / "lab", "s1x.tif", "s2x.tif", pixels=LABEL)
    scenes = find_scenes(tmp_path / "in", labels=tmp_path / "lab")
    assert shape(scenes) == {"s1x": (["red"], "s1x.tif"), "s2x": (["red"], "s2x.tif")}


def test_two_labels_of_one_scene_are_named(tmp_path):
    touch(tmp_path, "s_red.tif", "s_label.tif", "s_snow_mask.tif")
    with pytest.raises(GlacierError, match=r"s_snow_mask.tif: a second label for the scene of s_label.tif"):
        find_scenes(tmp_path)


@pytest.mark.parametrize("folder", ["", "Band1"])
def test_several_vector_files_are_named(tmp_path, folder):
    touch(tmp_path / folder, "s_red_01.tif")
    for name in ("borders", "glaciers"):
        (tmp_path / f"{name}.geojson").write_text("{}")
    with pytest.raises(
        GlacierError, match=r"2 vector files \(borders.geojson, glaciers.geojson\).*--labels"
    ):
        find_scenes(tmp_path)
    touch(
        tmp_path / ("label" if folder else ""),
        "s_red_01_label.tif" if not folder else "01.tif",
        pixels=LABEL,
    )
    assert find_scenes(tmp_path)[0].label is not None


def test_the_folder_one_stands_in_has_a_name(tmp_path, monkeypatch):
    touch(tmp_path / "valley", "red.tif")
    monkeypatch.chdir(tmp_path / "valley")
    assert shape(find_scenes(Path())) == {"valley": (["red"], None)}
