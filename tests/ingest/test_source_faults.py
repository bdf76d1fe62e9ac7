"""Sources that are odd, damaged or change under way: one line each, and never half a store that opens."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from glacier.cli import main
from glacier.errors import GlacierError
from glacier.ingest import write
from glacier.ingest.plan import Options
from glacier.ingest.work import executor, spread
from glacier.scenes.layouts import find_scenes
from glacier.scenes.read import SceneReader
from glacier.scenes.scene import Window
from glacier.store.reader import Store
from tests.helpers import make_store, write_raster, write_scene

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
CLASSES = ("--classes", "0=a,1=b", "--tile-size", "32", "--workers", "1")


def refusal(*words):
    """What `glacier ingest` says when it refuses: one line, and nothing that opens."""
    result = CliRunner().invoke(main, ["ingest", *CLASSES, *map(str, words)])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    lines = result.stderr.strip().splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


def declare(path, width, height, block=None):
    """Let a TIFF's header claim a size (and tiles of a size), whatever it holds."""
    claims = {256: width, 257: height, **({322: block, 323: block} if block else {})}
    head = bytearray(path.read_bytes())
    start = int.from_bytes(head[4:8], "little")
    for i in range(int.from_bytes(head[start : start + 2], "little")):
        at = start + 2 + 12 * i
        tag = int.from_bytes(head[at : at + 2], "little")
        if tag in claims:
            head[at + 2 : at + 12] = b"\4\0\1\0\0\0" + claims[tag].to_bytes(4, "little")
    path.write_bytes(head)


@pytest.mark.parametrize(
    ("side", "block", "layout", "words"),
    [
        (31623, None, {}, "s_red.tif: unreadable at row"),
        (31623, None, {"compress": "deflate"}, "s_red.tif: unreadable at row"),
        (31623, 31632, TILED, "unreadable at row"),
        (10**9, None, {}, "scene s: 1000000000 x 1000000000 px are .* tiles, expected at most"),
        (10**9, None, TILED, "cannot be read as a raster"),
        (2**31, None, {}, "s_red.tif: cannot be read as a raster"),
    ],
)  # fmt: skip
def test_a_tiff_that_declares_more_than_it_holds(tmp_path, side, block, layout, words):
    path = write_raster(tmp_path / "in" / "s_red.tif", np.ones((64, 64), np.uint8), nodata=0, **layout)
    declare(path, side, side, block)
    text = '{"type": "Polygon", "coordinates": [[[87, 28], [88, 28], [88, 29], [87, 28]]]}'
    (tmp_path / "in" / "o.geojson").write_text(text)
    said = refusal(tmp_path / "in", "--out", tmp_path / "s.zarr", "--tile-size", 512)
    assert re.search(words, said), said
    assert not (tmp_path / "s.zarr").exists()


def test_a_billion_pixels_that_are_no_data_cost_no_time(tmp_path):
    """A sparse file is what it says: all no data but for one block."""
    (tmp_path / "in").mkdir()
    with rasterio.open(
        tmp_path / "in" / "s_red.tif", "w", driver="GTiff", width=31623, height=31623, count=1,
        dtype="uint8", nodata=0, sparse_ok=True, tiled=True, crs="EPSG:32645",
        transform=rasterio.Affine.scale(30),
    ) as file:  # fmt: skip
        file.write(np.ones((1, 99, 99), np.uint8), window=rasterio.windows.Window(9000, 3000, 99, 99))
    text = '{"type": "Polygon", "coordinates": [[[83, 0.1], [84, 0.1], [84, 0.2], [83, 0.1]]]}'
    (tmp_path / "in" / "o.geojson").write_text(text)
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=2048)
    assert store.array("origin").tolist() == [[2048, 8192]]
    assert store.histogram.sum() == 99 * 99


@pytest.mark.parametrize("at", ["source", "labels", "out"])
def test_blanks_and_letters_of_any_alphabet_in_a_path(tmp_path, at):
    folder = tmp_path / "Höhe über 8 000 м" / "नेपाल -x"
    write_scene(folder if at == "source" else tmp_path / "in", "sé 1", size=64)
    source = folder if at == "source" else tmp_path / "in"
    out = (folder if at == "out" else tmp_path) / "überall.zarr"
    words = ["ingest", str(source), "--out", str(out), *CLASSES]
    if at == "labels":
        folder.mkdir(parents=True)
        (source / "sé 1_label.tif").rename(folder / "sé 1.tif")
        words += ["--labels", str(folder)]
    done = subprocess.run([sys.executable, "-m", "glacier", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Store(out).scene_names == ["sé 1"]
    assert len(Store(out)) == 4


def test_links_are_followed_and_loops_are_not(tmp_path):
    """Every file once, however many ways lead to it."""
    write_scene(tmp_path / "in" / "a", "a", size=32)
    write_scene(tmp_path / "elsewhere" / "deep", "b", size=32)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "elsewhere" / "deep" / "self").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [scene.name for scene in find_scenes(tmp_path / "in")] == ["a", "b"]
    (tmp_path / "in" / "a" / "a_swir1.tif").symlink_to("a_swir1.tif")
    assert "a_swir1.tif: cannot be read as a raster" in refusal(
        tmp_path / "in", "--out", tmp_path / "s.zarr"
    )


@pytest.mark.parametrize("name", ["a\nb.tif", "..tif", "...tif", "\x1b[31m.tif", os.fsdecode(b"a\xff.tif")])
def test_a_hostile_name_is_refused(tmp_path, name):
    write_scene(tmp_path / "in", "s", size=32)
    (tmp_path / "in" / "s.tif").rename(tmp_path / "in" / name)
    (tmp_path / "in" / "s_label.tif").rename(tmp_path / "in" / f"{name.removesuffix('.tif')}_label.tif")
    said = refusal(tmp_path / "in", "--out", tmp_path / "s.zarr")
    assert "rename its files" in said or "cannot be read as a raster" in said
    assert "\x1b" not in said
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in"]


def odd_file(source):
    (source / "s.tif").write_text("red,nir\n1,2\n")


def odd_folder(source):
    (source / "s.tif").unlink()
    (source / "s.tif").mkdir()


def odd_nothing(source):
    for file in source.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (odd_file, "s.tif: cannot be read as a raster"),
        (odd_folder, "no raster of bands in it"),
        (odd_nothing, "no raster of bands in it"),
    ],
)
def test_what_is_no_raster_is_named(tmp_path, spoil, words):
    source = write_scene(tmp_path / "in", "s", size=32)
    spoil(source)
    assert words in refusal(source, "--out", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_file_where_a_folder_is_expected_and_vice_versa(tmp_path):
    source = write_scene(tmp_path / "in", "s", size=32)
    note = tmp_path / "note.txt"
    note.write_text("not a raster")
    out = ("--out", tmp_path / "s.zarr")
    assert "note.txt: cannot be read as a raster" in refusal(note, *out)
    assert "note.txt: cannot be read as outlines" in refusal(source, "--labels", note, *out)
    assert "note.txt" in refusal(source, "--out", note / "s.zarr")
    assert "--layout bands expects" in refusal(note, "--layout", "bands", *out)
    (tmp_path / "none").mkdir()
    assert "scene s: no labels" in refusal(source, "--labels", tmp_path / "none", *out)
    assert note.read_text() == "not a raster"
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("fault", ["truncated", "deleted", "label deleted"])
@pytest.mark.parametrize("layout", [{}, {"compress": "deflate"}])
def test_a_source_that_is_spoilt_under_way(tmp_path, monkeypatch, fault, layout):
    """Between survey and writing; once it is as it was, the same call goes on where it stopped."""
    source, out = tmp_path / "in", tmp_path / "s.zarr"
    for name in "ab":
        write_scene(source, name, seed=ord(name), size=96)
        with rasterio.open(source / f"{name}.tif") as file:
            write_raster(source / f"{name}.tif", file.read(), nodata=0, names=("red", "nir"), **layout)
    path = source / ("b_label.tif" if "label" in fault else "b.tif")
    whole, times = path.read_bytes(), path.stat()

    def spoil(*given):
        task = true_task(*given)
        if any(scene.name == "b" for scene, _ in task.tiles) and path.exists():
            os.truncate(path, len(whole) // 2) if fault == "truncated" else path.unlink()
        return task

    true_task = write.ShardTask
    monkeypatch.setattr(write, "ShardTask", spoil)
    options = Options(tile_size=32, classes="0=a,1=b", folds=2)
    with pytest.raises(GlacierError, match=rf"{path.name}: unreadable at row .*is the file complete"):
        write.ingest(source, find_scenes(source), out, options)
    with pytest.raises(GlacierError, match="incomplete"):
        Store(out)
    monkeypatch.undo()
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert write.ingest(source, find_scenes(source), out, options).resumed > 0
    assert len(Store(out)) == 18


def read_cut_short(source):
    """Read a scene, cut its file short, and read on."""
    (scene,) = find_scenes(source)
    with SceneReader(scene) as reader:
        list(reader.bands(Window(0, 0, 32, 32)))
        os.truncate(scene.bands[0].path, 4096)
        list(reader.bands(Window(1000, 0, 32, 32)))


@pytest.mark.parametrize(("workers", "words"), [(1, "s.tif: unreadable at row 1000"), (2, "was cut short")])
def test_a_file_cut_short_while_it_is_read_is_one_line(tmp_path, workers, words):
    """A worker maps the file and is ended by the kernel; the one process there is does not map it."""
    write_scene(tmp_path / "in", "s", size=1024)
    with executor(workers) as pool, pytest.raises(GlacierError, match=words):
        spread(pool, read_cut_short, [(tmp_path / "in",)], lambda: None)
