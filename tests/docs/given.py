"""What pages take for granted: made once, of synthetic mountains, and copied to where a page is run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from rasterio.features import shapes

from glacier.synth.write import CODES, CRS, NODATA, synthesise, write_synthetic
from tests.docs.pages import ROOT
from tests.helpers import make_store, write_raster
from tests.integration.server import Bucket, serve_bucket

RELEASE = "https://storage.googleapis.com/public-datasets-lila/icimod-glacier-mapping/hkh_patches.tar.gz"
NOTHING: Mapping[str, str] = {}
KINDS = {85: "Clean ice", 170: "Debris"}


class Given:
    """What `<!-- given: … -->` names, and the environment that pages are run in."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.stack = folder, programs, ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stack.close()

    @cached_property
    def bucket(self) -> Bucket:
        """A bucket on a server of its own, to which the environment points from now on."""
        return self.stack.enter_context(serve_bucket(self.folder / "server.txt"))

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(self.programs), os.environ["PATH"]))
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def localised(self, text: str) -> str:
        """A block whose address of the 73.9 GB archive leads to its twin."""
        if RELEASE not in text:
            return text
        archive = self.made("hkh_patches.tar.gz")
        self.bucket.client.upload_file(str(archive), self.bucket.name, archive.name, {"ACL": "public-read"})
        return text.replace(RELEASE, f"{self.bucket.endpoint}/{self.bucket.name}/{archive.name}")

    def made(self, name: str) -> Path:
        """A thing by its name."""
        out = self.folder / name.replace("://", "/")
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](self, out)
        return out

    def put(self, name: str, folder: Path) -> str:
        """Lay a thing into `folder`; what a block of Python needs of it."""
        if name in NAMES:
            return NAMES[name]
        made, out = self.made(name), folder / name
        if name.startswith("s3://"):
            return ""
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in [made] if made.is_dir() else made.parent.glob(f"{made.stem}.*"):
            copy = shutil.copytree if file.is_dir() else shutil.copy
            copy(file, out.parent / file.name)
        return ""

    def store(self, out: Path, *, seed: int, count: int, size: int) -> None:
        """A store of so many tiles of that size, of the bands that the HKH release and Landsat 8 share."""
        source = out.parent / "sources" / out.stem
        write_synthetic(source, layout="bands", seed=seed, count=count, size=size)
        make_store(source, out, tile_size=size, bands=",".join(CODES))

    def train(self, out: Path) -> None:
        self.made("hkh.zarr")
        command = [
            self.programs / "glacier",
            "train",
            "--config",
            "demo",
            "--store",
            "hkh.zarr",
            "--out",
            out,
        ]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)

    def put_source(self, out: Path) -> None:
        """The scenes in a bucket `scenes`, and an empty bucket `stores`."""
        out.mkdir(parents=True)
        for name in ("scenes", "stores"):
            self.bucket.client.create_bucket(Bucket=name)
        source = self.made("hills/")
        for file in (file for file in source.rglob("*") if file.is_file()):
            self.bucket.client.upload_file(str(file), "scenes", f"hills/{file.relative_to(source)}")


def landsat(out: Path, *places: int, more: Mapping[str, str] = NOTHING, labels: bool = False) -> None:
    """Scenes of a file per band, as Landsat 8's are handed out."""
    for place in places:
        scene = synthesise(5, 128, 128, place=place)
        name = f"LC08_L1TP_14004{place}_20200101"
        where = {"transform": scene.transform, "crs": CRS}
        for code, role in {**{code: role for role, code in CODES.items()}, **more}.items():
            write_raster(out / f"{name}_{code}.TIF", scene.view.bands[role], nodata=NODATA, **where)
        if labels:
            write_raster(out / f"{name}_label.tif", scene.label, **where)


def with_infrared(out: Path) -> None:
    """A scene with all bands that a run may have learnt from; the near infrared is red again."""
    write_synthetic(out, layout="scenes", seed=7, count=1, size=128)
    scene = synthesise(7, 128, 128)
    bands = scene.view.bands | {"nir": scene.view.bands["red"]}
    write_raster(
        out / "scene_00" / "scene_00.tif", np.stack(list(bands.values())),
        transform=scene.transform, crs=CRS, nodata=NODATA, names=list(bands),
    )  # fmt: skip


def outlines(out: Path) -> None:
    """Ice and debris of these scenes, with their kind in a column."""
    found = []
    for place in range(1, 8):
        scene = synthesise(5, 128, 128, place=place)
        found += [
            (KINDS[value], shapely.geometry.shape(shape))
            for shape, value in shapes(
                scene.label, np.isin(scene.label, list(KINDS)), transform=scene.transform
            )
        ]
    kinds, geometry = zip(*found, strict=True)
    pyogrio.raw.write(
        out, shapely.to_wkb(np.array(geometry)), [np.array(kinds, object)], ["kind"],
        geometry_type="Polygon", crs=CRS,
    )  # fmt: skip


MAKERS: dict[str, Callable[[Any, Path], object]] = {
    "hkh/": lambda given, out: write_synthetic(out, layout="hkh", seed=0, count=3, size=128),
    "hkh_patches.tar.gz": lambda given, out: shutil.copy(given.made("hkh/") / out.name, out),
    "hkh.zarr": lambda given, out: given.store(out, seed=5, count=16, size=256),
    "runs/hkh-1": lambda given, out: given.train(out),
    "runs/hkh-2": lambda given, out: shutil.copytree(given.made("runs/hkh-1"), out),
    "tiles/": lambda given, out: write_synthetic(out, layout="bands", seed=5, count=9, size=128),
    "mine.zarr": lambda given, out: given.store(out, seed=6, count=36, size=64),
    "hills/": lambda given, out: landsat(out, 1, 2, labels=True),
    "new_scenes/": lambda given, out: with_infrared(out),
    "landsat/": lambda given, out: landsat(out, 1, 2, 4, 5, 6, 7, more={"B5": "red"}),
    "more/": lambda given, out: landsat(out, 3, labels=True),
    "outlines.gpkg": lambda given, out: outlines(out),
    "inventory.shp": lambda given, out: outlines(out),
    "s3://scenes/hills/": lambda given, out: given.put_source(out),
}
NAMES = {"train_on": "def train_on(image, label): ..."}
"""Names in the blocks of Python, and what stands for them."""
