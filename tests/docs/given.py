"""What pages take for granted: made once, of synthetic mountains, and copied to where a page is run."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from rasterio.features import shapes

from glacier.synth.write import CRS, NODATA, synthesise, write_synthetic
from tests.docs.pages import ROOT
from tests.helpers import make_store, write_raster
from tests.integration.server import Bucket, serve_bucket

RELEASE = "https://storage.googleapis.com/public-datasets-lila/icimod-glacier-mapping/hkh_patches.tar.gz"
CODES = {"B2": "blue", "B3": "green", "B4": "red", "B6": "swir1", "B10": "thermal"}
KINDS = {85: "Clean ice", 170: "Debris"}


class Given:
    """What can be named in `<!-- given: … -->`, and the environment that pages are run in."""

    MAKERS = {
        "hkh/": lambda self, out: write_synthetic(out, layout="hkh", seed=0, count=3, size=128),
        "hkh_patches.tar.gz": lambda self, out: shutil.copy(self.made("hkh/") / out.name, out),
        "hkh.zarr": lambda self, out: make_store(self.made("tiles/"), out, tile_size=64),
        "runs/hkh-1": lambda self, out: self.train(out),
        "runs/hkh-2": lambda self, out: shutil.copytree(self.made("runs/hkh-1"), out),
        "tiles/": lambda self, out: write_synthetic(out, layout="bands", seed=5, count=9, size=128),
        "mine.zarr": lambda self, out: make_store(self.made("mine/"), out, tile_size=64),
        "mine/": lambda self, out: write_synthetic(out, layout="bands", seed=6, count=9, size=128),
        "scenes/": lambda self, out: write_synthetic(out, layout="scenes", seed=5, count=2, size=128),
        "new_scenes/": lambda self, out: write_synthetic(out, layout="scenes", seed=7, count=1, size=128),
        "landsat/": lambda self, out: landsat(out, 1, 2),
        "more/": lambda self, out: landsat(out, 3),
        "outlines.gpkg": lambda self, out: outlines(out),
        "inventory.shp": lambda self, out: outlines(out),
        "s3://scenes/hills/": lambda self, out: self.put_source(out),
    }
    NAMES = {"train_on": "def train_on(image, label): ..."}
    """Names in the blocks of Python, and what stands for them."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.stack = folder, programs, ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stack.close()

    @cached_property
    def bucket(self) -> Bucket:
        """A bucket on a server of its own, with the release in it; the environment points there from now on."""
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
            self.MAKERS[name](self, out)
        return out

    def put(self, name: str, folder: Path) -> str:
        """Lay a thing into `folder`; what a block of Python needs of it."""
        for shared in ("cli.py", "benchmarks"):
            if not (folder / shared).exists():
                (folder / shared).symlink_to(ROOT / shared)
        if name in self.NAMES:
            return self.NAMES[name]
        made, out = self.made(name), folder / name
        if name.startswith("s3://"):
            return ""
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in [made] if made.is_dir() else made.parent.glob(f"{made.stem}.*"):
            copy = shutil.copytree if file.is_dir() else shutil.copy
            copy(file, out.parent / file.name)
        return ""

    def train(self, out: Path) -> None:
        store = self.made("hkh.zarr")
        subprocess.run(
            ["glacier", "train", "--config", "demo", "--store", store.name, "--out", out.relative_to(store.parent)],
            cwd=store.parent, env=self.environment, check=True, capture_output=True,
        )  # fmt: skip

    def put_source(self, out: Path) -> None:
        """The scenes in a bucket `scenes`, and an empty bucket `stores`."""
        out.mkdir(parents=True)
        for name in ("scenes", "stores"):
            self.bucket.client.create_bucket(Bucket=name)
        source = self.made("scenes/")
        for file in (file for file in source.rglob("*") if file.is_file()):
            self.bucket.client.upload_file(str(file), "scenes", f"hills/{file.relative_to(source)}")


def landsat(out: Path, *places: int) -> None:
    """A file per band, as Landsat 8 is handed out; the near infrared is red again."""
    for place in places:
        scene = synthesise(5, 128, 128, place=place)
        for code, role in {**CODES, "B5": "red"}.items():
            file = out / f"LC08_L1TP_14004{place}_20200101_{code}.TIF"
            write_raster(file, scene.view.bands[role], transform=scene.transform, crs=CRS, nodata=NODATA)


def outlines(out: Path) -> None:
    """Ice and debris of these scenes, with their kind in a column."""
    found = []
    for place in (1, 2, 3):
        scene = synthesise(5, 128, 128, place=place)
        found += [
            (KINDS[value], shapely.geometry.shape(shape))
            for shape, value in shapes(scene.label, np.isin(scene.label, list(KINDS)), transform=scene.transform)
        ]
    kinds, geometry = zip(*found, strict=True)
    pyogrio.raw.write(
        out, shapely.to_wkb(np.array(geometry)), [np.array(kinds, object)], ["kind"],
        geometry_type="Polygon", crs=CRS,
    )  # fmt: skip
