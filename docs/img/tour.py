"""The pictures of docs/tour.md, of what the demo left: `glacier demo && python docs/img/tour.py demo`."""

import sys
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import glacier
from glacier.classes import IGNORE
from glacier.pictures import INK, NOTHING, Picture, class_colours, enlarged, false_colour, sheet
from glacier.pipeline.augment import Augment
from glacier.store.look import most_varied, stretches, tile_picture
from glacier.store.reader import Store
from glacier.train.segmenter import load_run

HERE = Path(__file__).parent
MARK, SIDE = (255, 214, 64), 256


def grey(values: NDArray[np.float64]) -> Picture:
    """A band (S, S) from its 2nd to its 98th percentile; NaN, no data, is dark."""
    low, high = np.nanpercentile(values, (2, 98))
    shown = (255 * ((values - low) / (high - low)).clip(0, 1))[..., None].repeat(3, axis=-1)
    return np.where(np.isnan(values)[..., None], NOTHING, shown).astype(np.uint8)


def outlined(picture: Picture, boxes: list[tuple[int, int, int]], colour: tuple[int, int, int]) -> Picture:
    """Squares (x, y, side) drawn into a picture."""
    image = Image.fromarray(picture)
    for x, y, side in boxes:
        ImageDraw.Draw(image).rectangle((x, y, x + side - 1, y + side - 1), outline=colour, width=2)
    return np.asarray(image)


def found(store: Store, source: Path, tile: int) -> None:
    """The scene that the tile is of, and the tiles it is cut into."""
    scene = store.scene_names[store.array("scene")[tile]]
    size = store.meta.tile_size
    files = {int(f.parent.name[4:]): f for f in source.glob(f"Band*/*_{scene}.tif")}
    bands = []
    for _, file in sorted(files.items()):
        with rasterio.open(file) as opened:
            bands.append(opened.read(1, masked=True).astype(np.float64).filled(np.nan))
    picture = enlarged(false_colour(np.stack(bands, axis=-1), stretches(store.meta.bands)), 2 * SIDE)
    times = 2 * SIDE // len(bands[0])
    row, column = store.array("origin")[tile].tolist()
    corners = [(x, y, times * size) for y in (0, 2 * SIDE // 2) for x in (0, 2 * SIDE // 2)]
    picture = outlined(picture, corners, INK)
    picture = outlined(picture, [(times * column, times * row, times * size)], MARK)
    sheet(HERE / "tour-scene.png", [[picture]], title=f"Scene {scene}, cut into tiles of {size} px",
          lines=["swir1, red, blue; the tile to follow is framed in yellow"])  # fmt: skip


def stored(store: Store, tile: int) -> None:
    """What the store holds of the tile: bands, label, and labelled pixels per block."""
    raw = store.image(tile)
    bands = [enlarged(grey(band.unpack(raw[..., i])), SIDE) for i, band in enumerate(store.meta.bands)]
    label = enlarged(class_colours(store.label(tile), store.meta.classes), SIDE)
    title = f"Tile {tile}: seven bands and a label"
    sheet(HERE / "tour-tile.png", [bands[:4], [*bands[4:], label]], title=title,
          lines=[", ".join(store.meta.band_names) + ", label; dark is no data"],
          legend=[(c, "") for c in store.meta.classes])  # fmt: skip
    counts = store.histogram[tile].astype(np.float64)
    share = counts / counts.sum(axis=-1, keepdims=True).clip(min=1)
    columns = [enlarged((255 * share[..., [c] * 3]).astype(np.uint8), SIDE) for c in range(share.shape[-1])]
    sheet(HERE / "tour-blocks.png", [[label, *columns]], title="Its histogram: shares by block of 32 px",
          heads=["label", *store.meta.class_names])  # fmt: skip


def drawn(store: Store, tile: int) -> None:
    """Samples of the tile, as a training loop gets them."""
    rows = []
    for augment in (Augment("d4"), Augment("affine", rotate=45, scale=0.3, shift=0.1)):
        loader = glacier.loader(
            store, batch=1, patch=96, split="all", augment=augment, samples_per_epoch=2000
        )
        images, labels = [], []
        places = [s.band for s in stretches(store.meta.bands)]
        for batch in loader:
            if batch.samples["tile"][0] == tile and len(images) < 4:
                pixels = batch.image[0, places].permute(1, 2, 0).numpy().astype(np.float64)
                shown = (255 * ((pixels + 2) / 4).clip(0, 1)).astype(np.uint8)
                images.append(enlarged(shown, SIDE))
                label = class_colours(batch.label[0].numpy(), store.meta.classes)
                labels.append(enlarged(label, SIDE))
        rows += [images, labels]
    lines = ["above d4, below affine, labels beneath; shown from -2 to 2 standard deviations"]
    sheet(HERE / "tour-batch.png", rows, title=f"Samples of tile {tile}: windows of 96 px", lines=lines)


def mapped(store: Store, run: Path, tile: int) -> None:
    """What the network makes of it."""
    trained = load_run(run)
    network = trained.segmenter().eval()
    raw = torch.from_numpy(np.ascontiguousarray(store.image(tile)))[None]
    with torch.inference_mode():
        scores = network(raw.permute(0, 3, 1, 2))
    share = scores.softmax(dim=1)[0].numpy()
    columns = [enlarged((255 * s[..., None].repeat(3, axis=-1)).astype(np.uint8), SIDE) for s in share]
    found = scores[0].argmax(dim=0).numpy().astype(np.uint8)
    found[store.label(tile) == IGNORE] = IGNORE
    pictures = [enlarged(tile_picture(store, tile), SIDE)]
    pictures += [enlarged(class_colours(x, store.meta.classes), SIDE) for x in (store.label(tile), found)]
    sheet(HERE / "tour-shares.png", [columns], title="Shares of the classes, pixel by pixel",
          heads=store.meta.class_names)  # fmt: skip
    heads = ["swir1, red, blue", "label", "map"]
    sheet(HERE / "tour-map.png", [pictures], title=f"Tile {tile} and its map", heads=heads,
          legend=[(c, "") for c in store.meta.classes])  # fmt: skip


if __name__ == "__main__":
    demo = Path(sys.argv[1])
    with Store(demo / "mountains.zarr") as opened:
        held_out = np.flatnonzero(opened.fold == 0)
        (chosen,) = most_varied(opened, 1, held_out)
        found(opened, demo / "mountains", chosen)
        stored(opened, chosen)
        drawn(opened, chosen)
        mapped(opened, demo / "run", chosen)
