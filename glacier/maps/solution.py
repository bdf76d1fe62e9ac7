"""Masks of a competition's tiles, by the weights in `model.pth`: `maskgeration(imagepath, model_path)`.

Or as a command: `python solution.py IMAGES MODEL --output MASKS`. It needs numpy, torch, tifffile, tqdm,
segmentation_models_pytorch and timm, and opencv-python for files that tifffile cannot read.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from glacier.errors import GlacierError
from glacier.maps.blend import at_a_time, corners, weights
from glacier.maps.tiles import Tile, find_tiles, read_tile
from glacier.scenes.bands import Selection
from glacier.train.ensemble import Ensemble
from glacier.train.portable import unpacked
from glacier.train.precision import mixed
from glacier.train.whole import replacing

MODEL = "model.pth"


@dataclass(frozen=True, slots=True)
class Model:
    """What `model.pth` holds, ready to be used."""

    ensemble: Ensemble
    sought: Selection
    size: int
    """Side of windows, px."""
    values: NDArray[np.uint8]
    """Of classes (C,)."""
    fill: int
    """Class of pixels without data."""
    device: torch.device
    batch: int
    """Windows that the network sees at a time."""


def maskgeration(
    imagepath: Mapping[str, str | Path] | str | Path,
    model_path: str | Path,
    output: str | Path | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Map every tile.

    Args:
        imagepath: `Band1` … `Band5` -> the folder of that band, or a folder that holds those.
        model_path: `model.pth`; or a folder to write masks to, with the model in it or beside this file.
        output: a folder to write masks to, each under the name of its tile's file in `Band1`.

    Returns:
        Tile id (`img001.tif` -> `001`, else the `02_07` of its name) -> values of classes (H, W) uint8.

    Raises:
        GlacierError: files that are missing, cannot be read or do not fit together, or no place for masks.
        OSError: a mask cannot be written.
    """
    place = Path(model_path)
    if place.is_dir():
        output = output or place
        inside = place / MODEL
        place = inside if inside.is_file() else Path(__file__).parent / MODEL
    model = load_model(place)
    tiles = find_tiles(imagepath, model.sought)
    if output:
        make_folder(Path(output), tiles)
    masks = {}
    for tile in tqdm(tiles, unit="tile"):
        masks[tile.name] = mask_of(read_tile(tile), model)
        if output:
            with replacing(Path(output) / tile.file) as partial:
                tifffile.imwrite(partial, masks[tile.name])
    return masks


def make_folder(out: Path, tiles: list[Tile]) -> None:
    """Make the folder of masks.

    Raises:
        GlacierError: it cannot be made, or bands lie in it, which masks would overwrite.
    """
    if out.resolve() in {folder.resolve() for tile in tiles for folder in tile.folders}:
        raise GlacierError(f"{out}: bands lie there; expected another folder for the masks")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GlacierError(f"{out}: no folder for the masks ({error.strerror}); choose another") from error


def load_model(path: Path) -> Model:
    """Read `model.pth`; nothing in it is executed.

    Raises:
        GlacierError: no such file, or another one.
    """
    if not path.is_file():
        raise GlacierError(f"{path}: no such file; expected the {MODEL} that came with this solution")
    try:
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        members = [unpacked(member, list(record["bands"])) for member in record["members"]]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Model(
            ensemble=Ensemble(members, tta=record["tta"], weights=record["weights"]).to(device).eval(),
            sought=record["bands"],
            size=record["size"],
            values=np.array(record["values"], np.uint8),
            fill=record["fill"],
            device=device,
            batch=at_a_time(device),
        )
    except Exception as error:  # what a damaged file makes the unpickler raise has no common base
        raise GlacierError(f"{path}: not the {MODEL} of this solution; copy it again") from error


def mask_of(tile: tuple[NDArray[np.float32], NDArray[np.bool_]], model: Model) -> NDArray[np.uint8]:
    """The classes' values of a tile (H, W): windows that overlap, the mean of what they say."""
    (values, held), size = tile, model.size
    height, width, bands = values.shape
    padded = np.full((max(height, size), max(width, size), bands), np.nan, np.float32)
    padded[:height, :width] = values
    down = zip(corners(height, size), weights(height, size), strict=True)
    along = list(zip(corners(width, size), weights(width, size), strict=True))
    places = [(y, x, v, w) for y, v in down for x, w in along]
    total = torch.zeros(len(model.values), *padded.shape[:2])
    for first in range(0, len(places), model.batch):
        some = places[first : first + model.batch]
        windows = np.stack([padded[y : y + size, x : x + size] for y, x, _, _ in some])
        for (y, x, v, w), shares in zip(some, _shares(windows, model), strict=True):
            total[:, y : y + size, x : x + size].addcmul_(shares, torch.outer(v, w))
    classes = total.argmax(dim=0)[:height, :width].numpy()
    return np.asarray(model.values[np.where(held, classes, model.fill)])


def _shares(windows: NDArray[np.float32], model: Model) -> Tensor:
    """Shares of classes (N, C, H, W) in windows (N, H, W, B)."""
    raw = torch.from_numpy(windows).to(model.device).permute(0, 3, 1, 2)
    with torch.inference_mode(), mixed(model.device):
        shares: Tensor = model.ensemble(raw)
    return shares.float().cpu()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Masks of a competition's tiles.")
    parser.add_argument("images", help="a folder that holds Band1, Band2, …")
    parser.add_argument("model", help=f"{MODEL}, or a folder for the masks")
    parser.add_argument("--output", help="a folder for the masks")
    given = parser.parse_args()
    try:
        print(f"{len(maskgeration(given.images, given.model, given.output))} masks")
    except (GlacierError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
