"""The HKH release: every route in gives the same tiles, and what breaks is named and loses nothing."""

import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

import glacier.ingest.release
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.release import ingest_release
from glacier.ingest.write import ingest
from glacier.inspect import summarise
from glacier.pipeline.split import split
from glacier.scenes.hkh import CHANNELS, release_scenes
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.verify import verify

SIZE, STEP = 64, 58
OPTIONS = Options(tile_size=SIZE, nodata="any")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "hkh"
    write_synthetic(out, layout="hkh", seed=3, count=3, size=SIZE)
    return out


@pytest.fixture(scope="module")
def root(release):
    return release / "glacier_data"


@pytest.fixture(scope="module")
def archive(release):
    return release / "hkh_patches.tar.gz"


@pytest.fixture(scope="module")
def store(release, tmp_path_factory):
    return made(release, tmp_path_factory.mktemp("made") / "hkh.zarr")


def made(source, out, options=OPTIONS, **more):
    ingest_release(str(source), out, options, **more)
    return Store(out)


def files_of(store):
    """Every file of a store but its root, which says what it was made from."""
    return {
        str(f.relative_to(store.path)): f.read_bytes()
        for f in store.path.rglob("*")
        if f.is_file() and f.name != "zarr.json"
    }


def copy_of(root, out, *folders):
    for folder in folders or ("slices", "splits"):
        shutil.copytree(root / folder, out / "glacier_data" / folder)
    return out


def pack(out, names, root):
    """An archive of these files of `root`, in this order."""
    with tarfile.open(out, "w:gz", compresslevel=1) as archive:
        for name in names:
            archive.add(root / name, f"glacier_data/{name}")
    return out


def test_every_patch_is_there_once_as_numpy_reads_it(root, store):
    names = store.scene_names
    expected = set()
    for file in (root / "slices").glob("*_img_*.npy"):
        image, mask = np.load(file), np.load(str(file).replace("_img_", "_mask_"))
        bands = image[..., [0, 1, 2, 4, 5]]
        valid = np.isfinite(image[..., [0, 1, 2, 4]]).all(axis=-1)
        if not valid.any():
            continue
        expected.add(file.stem.replace("_img", ""))
        tile = names.index(file.stem.replace("_img", ""))
        packed = np.where(np.isnan(bands), 0, np.rint(np.nan_to_num(bands)).clip(1, 255))
        np.testing.assert_array_equal(store.image(tile), packed)
        label = np.where(mask[..., 2] == 1, 2, np.where(mask[..., 1] == 1, 1, 0))
        np.testing.assert_array_equal(store.label(tile), np.where(valid, label, 255))
    assert sorted(names) == sorted(expected)
    assert len(names) < len(list((root / "slices").glob("*_img_*.npy"))), "one has no data"
    assert store.meta.band_names == ["blue", "green", "red", "swir1", "thermal"]
    assert store.meta.class_names == ["background", "glacier", "debris", "lake"]
    assert store.meta.dtype == "uint8"


def test_archive_and_plain_tar_and_workers_give_the_same_bytes(archive, store, tmp_path):
    expected = files_of(store)
    assert files_of(made(archive, tmp_path / "a.zarr")) == expected
    plain = tmp_path / "hkh.tar"
    subprocess.run(f"gunzip < {archive} > {plain}", shell=True, check=True)
    assert files_of(made(plain, tmp_path / "b.zarr", workers=3)) == expected


def test_standard_input_gives_the_same_bytes(archive, store, tmp_path):
    command = [sys.executable, "-m", "glacier", "ingest", "-", "--tile-size", str(SIZE)]
    with archive.open("rb") as file:
        done = subprocess.run(command, stdin=file, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_of(Store(tmp_path / "hkh.zarr")) == files_of(store)
    again = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=tmp_path, capture_output=True, text=True)
    assert "complete already" in again.stderr


@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_members_may_come_in_any_order(root, store, tmp_path, order):
    names = [str(f.relative_to(root)) for f in root.rglob("*") if f.suffix in (".npy", ".geojson")]
    assert files_of(made(pack(tmp_path / "x.tar.gz", order(names), root), tmp_path / "x.zarr")) == files_of(
        store
    )


class Unsteady(http.server.BaseHTTPRequestHandler):
    """A server of byte ranges that hangs up in the middle of every other answer."""

    protocol_version = "HTTP/1.1"
    answers = hung_up = 0

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(200, self.server.content, ())

    def do_GET(self):
        content, wanted = self.server.content, self.headers.get("Range", "bytes=0-")
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        stop = min(int(end or len(content)) + 1, len(content))
        part = content[int(start) : stop]
        Unsteady.answers += 1
        cut = len(part) // 2 if Unsteady.answers % 2 == 0 and len(part) > 100 else len(part)
        self.answer(206, part, [("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")], part[:cut])
        if cut < len(part):
            Unsteady.hung_up += 1
            self.close_connection = True
            self.connection.shutdown(2)

    def answer(self, code, length_of, headers, body=b""):
        self.send_response(code)
        for name, value in (("Content-Length", str(len(length_of))), ("ETag", '"one"'), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def address(archive):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unsteady)
    server.content = archive.read_bytes()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hkh_patches.tar.gz"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_that_hangs_up_is_read_on_from_there(address, store, tmp_path):
    Unsteady.hung_up = 0
    assert files_of(made(address, tmp_path / "a.zarr")) == files_of(store)
    assert Unsteady.hung_up


def test_an_address_where_nothing_is(address, tmp_path):
    with pytest.raises(GlacierError, match=r"127.0.0.1.*cannot be read"):
        ingest_release(address.replace("127.0.0.1", "127.0.0.1.invalid"), tmp_path / "a.zarr", OPTIONS)
    assert not (tmp_path / "a.zarr").exists()


def test_patches_lie_where_the_scenes_have_them(root, store, tmp_path):
    """The release's footprints put right: each patch is the tile of the scene at its place, labels too."""
    scenes = release_scenes(root, {}, whole=False)
    ingest(root, scenes, tmp_path / "s.zarr", Options(tile_size=SIZE, stride=STEP, nodata="any",
           classes="0=background,85=glacier,170=debris,255=lake"))  # fmt: skip
    whole = Store(tmp_path / "s.zarr")
    at = {place: tile for tile, place in enumerate(places(whole))}
    assert len(store.meta.crs) == 3
    for tile, place in enumerate(places(store)):
        np.testing.assert_array_equal(store.image(tile), whole.image(at[place]))
        np.testing.assert_array_equal(store.label(tile), whole.label(at[place]))
    with rasterio.open(root / "raster_data" / "LE07_149036_20041024.tif") as file:
        assert places(store)[0] == (file.crs, (file.transform.c, file.transform.f))


def places(store):
    """CRS and upper left corner of each tile."""
    crs = store.array("scene_crs")[store.array("scene")]
    corners = np.round(store.array("transform")[:, [2, 5]], 3).tolist()
    return [(CRS.from_wkt(store.meta.crs[c]), tuple(xy)) for c, xy in zip(crs, corners, strict=True)]


def test_all_bands_with_ndsi_mended_and_all_values_kept_on_demand(root, archive, tmp_path):
    store = made(archive, tmp_path / "a.zarr", Options(tile_size=SIZE, bands="all", dtype="float32"))
    names = store.meta.band_names
    assert len(names) == 14
    assert "BQA" not in names
    for tile, name in enumerate(store.scene_names):
        image = np.load(root / "slices" / f"{name[:-4]}_img{name[-4:]}.npy")
        for channel in CHANNELS:
            if channel.name in names:
                sign = -1 if channel.name == "NDSI" else 1
                found = store.image(tile)[..., names.index(channel.name)]
                np.testing.assert_array_equal(found, sign * image[..., channel.index])


def test_all_bands_packed_keep_digital_numbers_and_the_bound_of_the_others(root, store, tmp_path):
    packed = made(root, tmp_path / "a.zarr", Options(tile_size=SIZE, bands="all", nodata="any"))
    first = packed.scene_names.index("slice_0_001")
    image = np.load(root / "slices" / "slice_0_img_001.npy")
    for band, raw in zip(packed.meta.bands, np.moveaxis(packed.image(first), -1, 0), strict=True):
        channel = next(c for c in CHANNELS if c.name == band.name)
        expected = image[..., channel.index] * (-1 if band.name == "NDSI" else 1)
        if channel.convert == "digital":
            expected = np.where(np.isnan(expected), np.nan, np.rint(expected).clip(1, 255))
        np.testing.assert_allclose(band.unpack(raw), expected, rtol=0, atol=band.bound * 1.001)
        assert band.bound == 0 if channel.convert == "digital" else 0 < band.bound < 0.2


def test_published_folds_keep_train_apart_from_dev_and_test(root, tmp_path):
    store = made(root, tmp_path / "a.zarr", Options(tile_size=SIZE, published=True, nodata="any"))
    expected = {}
    for name, fold in (("train", 1), ("dev", 0), ("test", -1)):
        for file in (root / "splits" / name).glob("*_img_*.npy"):
            expected[file.stem.replace("_img", "")] = fold
    found = dict(zip(store.scene_names, store.fold.tolist(), strict=True))
    assert found == {name: expected.get(name, 1) for name in store.scene_names}
    assert not verify(store).faults
    about = summarise(store).to_json()
    assert (about["folds"], about["test"]) == ([(store.fold == 0).sum()], (store.fold == -1).sum())
    parts = split(store, 0)
    assert set(parts.val) == set(np.flatnonzero(store.fold == 0))
    assert set(parts.test) == set(np.flatnonzero(store.fold == -1))
    assert set(parts.tiles("all")) == set(range(len(store)))

    def touch(a, b):
        (crs, (x, y)), (other, (u, v)) = places(store)[a], places(store)[b]
        return crs == other and abs(x - u) <= SIZE * 30 and abs(y - v) <= SIZE * 30

    held = [*parts.val, *parts.test]
    assert len(parts.train)
    assert len(parts.left_out)
    assert not any(touch(a, b) for a in parts.train for b in held)
    assert all(any(touch(a, b) for b in held) for a in parts.left_out)


def test_published_folds_without_dev_are_refused(root, tmp_path):
    source = copy_of(root, tmp_path / "in", "slices")
    with pytest.raises(GlacierError, match=r"no patch of splits/dev"):
        made(source, tmp_path / "a.zarr", Options(tile_size=SIZE, published=True))


def test_copies_are_counted_and_their_other_labels_are_not_taken(root, store, tmp_path):
    source = copy_of(root, tmp_path / "in")
    mask = next((source / "glacier_data" / "splits" / "train").glob("*_mask_*.npy"))
    other = np.zeros((SIZE, SIZE, 3), np.uint8)
    other[..., 2] = 1
    np.save(mask, other)
    _, found = ingest_release(str(source), tmp_path / "a.zarr", OPTIONS)
    assert found.copies == len(list(source.glob("*/splits/*/*_img_*.npy")))
    assert found.differing == 1
    assert found.doubled > 0
    assert found.clipped > 0
    assert files_of(Store(tmp_path / "a.zarr")) == files_of(store)


def test_the_same_name_with_other_contents_is_another_patch(root, store, tmp_path):
    source = copy_of(root, tmp_path / "in")
    image = next((source / "glacier_data" / "splits" / "dev").glob("*_img_*.npy"))
    np.save(image, np.load(image) + np.float32(3))
    names = made(source, tmp_path / "a.zarr").scene_names
    key = image.stem.replace("_img", "")
    assert sorted(set(names) - set(store.scene_names)) == [f"dev_{key}"]


def test_without_footprints_patches_lie_nowhere(root, tmp_path):
    source = copy_of(root, tmp_path / "in")
    (source / "glacier_data" / "slices" / "slices.geojson").unlink()
    _, found = ingest_release(str(source), tmp_path / "a.zarr", OPTIONS)
    store = Store(tmp_path / "a.zarr")
    assert found.placed == 0
    assert store.meta.crs == ()


def broken(name):
    """An archive of one image with its mask, and something wrong."""
    image, mask = np.zeros((SIZE, SIZE, 15), np.float32), np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[..., 2] = 1
    members = {"slices/slice_0_img_000.npy": image, "slices/slice_0_mask_000.npy": mask}
    match name:
        case "no mask":
            del members["slices/slice_0_mask_000.npy"]
        case "no image":
            del members["slices/slice_0_img_000.npy"]
        case "nothing":
            members = {"README.md": mask}
        case "other channels":
            members["slices/slice_0_img_000.npy"] = image[..., :5]
        case "other size":
            members["slices/slice_0_mask_000.npy"] = mask[:32]
        case "strange mask":
            members["slices/slice_0_mask_000.npy"] = mask * 7
        case "no array":
            members["slices/slice_0_img_000.npy"] = b"<html>404</html>"
        case "empty":
            members["slices/slice_0_img_000.npy"] = image[:0]
        case "several sizes":
            members["slices/slice_0_img_001.npy"], members["slices/slice_0_mask_001.npy"] = image, mask
            members["slices/slice_0_img_002.npy"] = image[:40, :50]
            members["slices/slice_0_mask_002.npy"] = mask[:40, :50]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, content in members.items():
            data = content if isinstance(content, bytes) else io.BytesIO()
            if not isinstance(content, bytes):
                np.save(data, content)
                data = data.getvalue()
            about = tarfile.TarInfo(path)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no mask", r"slice_0_000: no mask in the release"),
        ("no image", r"slice_0_000: no image in the release"),
        ("nothing", r"no patches"),
        ("other channels", r"slice_0_img_000.npy: .* expected an image of \(h, w, 15\)"),
        ("other size", r"slice_0_000: its mask has \(32, 64\) px, expected \(64, 64\) px"),
        ("several sizes", r"slice_0_002: its img has \(40, 50\) px, expected \(64, 64\) px"),
        ("empty", r"slice_0_img_000.npy: \(0, 64, 15\) of float32, expected an image"),
        ("strange mask", r"slice_0_mask_000.npy: follows neither convention"),
        ("no array", r"slice_0_img_000.npy: cannot be read as an .npy array"),
    ],
)
def test_what_does_not_fit_is_named_and_makes_no_store(tmp_path, what, message):
    source = tmp_path / "x.tar.gz"
    source.write_bytes(broken(what))
    with pytest.raises(GlacierError, match=message):
        ingest_release(str(source), tmp_path / "x.zarr", OPTIONS)
    with pytest.raises(GlacierError, match=r"incomplete|no store"):
        Store(tmp_path / "x.zarr")


@pytest.mark.parametrize("kind", ["tar.gz", "tar"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.99999])
def test_an_archive_cut_short_is_said_so_and_finished_later(archive, store, tmp_path, kind, share):
    source = tmp_path / f"x.{kind}"
    whole = archive.read_bytes()
    if kind == "tar":
        whole = subprocess.run(["gunzip"], input=whole, capture_output=True, check=True).stdout
        share = min(share, 1 - 11000 / len(whole))  # what follows are the blocks that close it
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        GlacierError, match=r"not a whole tar archive .*same command again to go on, or get the file again"
    ):
        ingest_release(str(source), tmp_path / "x.zarr", OPTIONS)
    source.write_bytes(whole)
    ingest_release(str(source), tmp_path / "x.zarr", OPTIONS, overwrite=True)
    assert files_of(Store(tmp_path / "x.zarr")) == files_of(store)


@pytest.mark.parametrize("at", range(5))
def test_a_flipped_byte_in_a_compressed_archive_never_passes(archive, tmp_path, at):
    whole = bytearray(archive.read_bytes())
    place = int(np.random.default_rng(at).integers(20, len(whole)))
    whole[place] ^= 0x10
    source = tmp_path / "x.tar.gz"
    source.write_bytes(whole)
    with pytest.raises(GlacierError):
        ingest_release(str(source), tmp_path / "x.zarr", OPTIONS)


def hostile(**attributes):
    about = tarfile.TarInfo("slices/slice_0_img_000.npy")
    for name, value in attributes.items():
        setattr(about, name, value)
    return about.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        hostile(size=10**12),
        hostile(size=10**12, type=tarfile.GNUTYPE_LONGNAME),
        hostile(size=10**12, type=tarfile.XHDTYPE),
        hostile(size=65 * 2**20),
    ],
)
def test_headers_that_claim_the_moon_take_no_memory(tmp_path, header):
    source = tmp_path / "x.tar"
    source.write_bytes(header + bytes(1024))
    with pytest.raises(GlacierError, match=r"a header claims \d+ bytes|not a whole tar"):
        ingest_release(str(source), tmp_path / "x.zarr", OPTIONS)


def test_names_that_climb_out_write_nothing_outside(tmp_path, root):
    source = tmp_path / "in" / "x.tar.gz"
    source.parent.mkdir()
    with tarfile.open(source, "w:gz") as archive:
        for kind in ("img", "mask"):
            archive.add(
                root / "slices" / f"slice_0_{kind}_001.npy", f"../../../slices/slice_0_{kind}_001.npy"
            )
    assert made(source, tmp_path / "x.zarr").scene_names == ["slice_0_001"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in", "x.zarr"]


def test_killed_while_it_reads_the_same_command_goes_on(archive, store, tmp_path):
    """A real process; what it packed before is not packed again."""
    out = tmp_path / "hkh.zarr"
    command = [sys.executable, "-m", "glacier", "ingest", "-", "--tile-size", str(SIZE), "--workers", "1"]
    data = archive.read_bytes()
    parked = out / "unfinished" / "patches"
    for share in (0.3, 0.6):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
        process.stdin.write(data[: int(len(data) * share)])
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while len(list(parked.glob("*.tif"))) < 20 * share:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with pytest.raises(GlacierError, match="incomplete"):
            Store(out)
    before = {f.name: f.stat().st_mtime_ns for f in parked.glob("*.tif")}
    assert before
    cut = subprocess.run(command, input=data[: len(data) // 2], capture_output=True, cwd=tmp_path)
    assert cut.returncode == 1
    assert b"not a whole tar archive" in cut.stderr
    assert {name: (parked / name).stat().st_mtime_ns for name in before} == before
    done = subprocess.run(command, input=data, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_of(Store(out)) == files_of(store)


@pytest.mark.parametrize("text", [b"<html>404</html>", b"\xff\xfe", b'{"crs": {}, "features": []}'])
def test_footprints_that_cannot_be_read_cost_places_alone(root, store, tmp_path, text):
    source = copy_of(root, tmp_path / "in")
    (source / "glacier_data" / "slices" / "slices.geojson").write_bytes(text)
    _, found = ingest_release(str(source), tmp_path / "a.zarr", OPTIONS)
    assert found.placed == 0
    assert "slices.geojson: cannot be read" in found.unreadable
    with Store(tmp_path / "a.zarr") as made_here:
        assert made_here.scene_names == store.scene_names


def test_what_another_stream_left_is_not_mixed_in(root, tmp_path):
    """Standard input may be another archive each time: only what came last counts."""
    names = sorted(str(f.relative_to(root)) for f in (root / "slices").glob("slice_[01]_*"))
    first = pack(tmp_path / "first.tar.gz", [n for n in names if "slice_0" in n], root).read_bytes()
    second = pack(tmp_path / "second.tar.gz", [n for n in names if "slice_1" in n], root).read_bytes()
    command = [sys.executable, "-m", "glacier", "ingest", "-", "--tile-size", str(SIZE)]
    cut = subprocess.run(command, input=first[:-30000], cwd=tmp_path, capture_output=True)
    assert b"not a whole tar archive" in cut.stderr
    done = subprocess.run(command, input=second, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "hkh.zarr") as found:
        assert {name[:7] for name in found.scene_names} == {"slice_1"}
    again = subprocess.run(command, input=first, cwd=tmp_path, capture_output=True)
    assert b"to read another archive give --overwrite" in again.stderr


@pytest.mark.parametrize("footprints", [True, False])
def test_a_patch_in_test_is_nowhere_trained_on_whatever_its_bytes(root, tmp_path, footprints):
    """A copy whose image differs a little is another patch, but of the same ground."""
    source = copy_of(root, tmp_path / "in")
    (image,) = (source / "glacier_data" / "splits" / "test").glob("*_img_*.npy")
    np.save(image, np.load(image) + np.float32(3))
    if not footprints:
        (source / "glacier_data" / "slices" / "slices.geojson").unlink()
    store = made(source, tmp_path / "a.zarr", Options(tile_size=SIZE, published=True, nodata="any"))
    key = image.stem.replace("_img", "")
    fold = dict(zip(store.scene_names, store.fold.tolist(), strict=True))
    assert fold[key] == fold[f"test_{key}"] == -1


def test_the_same_image_in_another_file_is_a_copy(root, store, tmp_path):
    source = copy_of(root, tmp_path / "in")
    (image,) = (source / "glacier_data" / "splits" / "test").glob("*_img_*.npy")
    with image.open("wb") as file:
        np.lib.format.write_array(file, np.load(image.parents[2] / "slices" / image.name), version=(2, 0))
    assert files_of(made(source, tmp_path / "a.zarr")) == files_of(store)


def test_a_torn_line_in_the_index_costs_that_line(archive, store, tmp_path, monkeypatch):
    """As a full disk leaves it."""
    out = tmp_path / "x.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("glacier.ingest.release.gather", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest_release(str(archive), out, OPTIONS)
    index = out / "unfinished" / "patches" / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-40])
    (index.parent / "all.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("glacier.ingest.release.gather", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest_release(str(archive), out, OPTIONS)
    ingest_release(str(archive), out, OPTIONS)
    assert files_of(Store(out)) == files_of(store)


def test_a_patch_that_changes_while_it_is_read_is_named(root, tmp_path, monkeypatch):
    source = copy_of(root, tmp_path / "in")
    image = source / "glacier_data" / "slices" / "slice_0_img_003.npy"
    true = glacier.ingest.release.patch_files

    def later(*given):
        found = true(*given)
        monkeypatch.setattr("glacier.ingest.release._state", spoil(glacier.ingest.release._state))
        return found

    def spoil(state):
        seen = []

        def changed(file):
            seen.append(file)
            if file == image and seen.count(file) == 2:
                os.utime(image)
            return state(file)

        return changed

    monkeypatch.setattr("glacier.ingest.release.patch_files", later)
    with pytest.raises(GlacierError, match=r"slice_0_img_003.npy: changed since the survey"):
        ingest_release(str(source), tmp_path / "a.zarr", OPTIONS)


def test_a_source_that_cannot_be_read_takes_no_place(release, archive, tmp_path, address):
    (tmp_path / "folder.tar").mkdir()
    for source in (f"{address}?sig=1", f"{address}x", str(tmp_path / "folder.tar")):
        with pytest.raises((GlacierError, OSError)):
            ingest_release(source, tmp_path / "a.zarr", OPTIONS)
        assert not (tmp_path / "a.zarr").exists()
    assert made(archive, tmp_path / "a.zarr").path.exists()


def test_one_split_alone(root, tmp_path):
    names = made(root / "splits" / "train", tmp_path / "a.zarr").scene_names
    assert sorted(names) == sorted(
        f.stem.replace("_img", "") for f in (root / "splits" / "train").glob("*_img_*")
    )


@pytest.mark.parametrize("kib", [150, 250, 350, 450])
@pytest.mark.parametrize("route", ["folder", "archive"])
def test_a_disk_that_is_full_while_patches_are_parked(release, archive, store, disk, route, kib):
    source = release if route == "folder" else archive
    out = disk(f"size={kib}k") / "s.zarr"
    command = [sys.executable, "-m", "glacier", "ingest", str(source), "--out", str(out), "--tile-size",
               str(SIZE), "--workers", "2"]  # fmt: skip
    full = subprocess.run(command, capture_output=True, text=True)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr.strip().splitlines()[-1]
    assert "Traceback" not in full.stderr
    with pytest.raises(GlacierError, match=r"incomplete|no store"):
        Store(out)
    disk("size=50m")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Store(out) as found:
        assert files_of(found) == files_of(store)
