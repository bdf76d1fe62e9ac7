"""Draws `seams.png`: what windows side by side show, and what blending makes of them.

    python docs/img/seams.py demo/run demo/unseen     after `make demo`

By the demo's run, with windows of 64 px, smaller than any it knows, so that there is something to see.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch

from glacier.classes import IGNORE
from glacier.maps.command import MapRequest, predict_all
from glacier.pictures import class_colours, sheet
from glacier.scenes.layouts import find_scenes
from glacier.train.members import gather
from glacier.train.segmenter import load_run

SIZE = 64
PART = (slice(128, 384), slice(128, 384))


def main(run: Path, source: Path) -> None:
    """Draw it."""
    members = gather([load_run(run)])
    (scene,) = find_scenes(source, labelled=False, bands=members.selection)
    planes = []
    for band in scene.bands:
        with rasterio.open(band.path) as file:
            planes.append(file.read(band.index, masked=True).astype(np.float32).filled(np.nan))
    raw, network = torch.from_numpy(np.stack(planes))[None], members.ensemble(tta=False)
    beside = np.zeros((scene.grid.height, scene.grid.width), np.uint8)
    with torch.inference_mode():
        for y in range(0, scene.grid.height, SIZE):
            for x in range(0, scene.grid.width, SIZE):
                place = (slice(y, y + SIZE), slice(x, x + SIZE))
                beside[place] = network(raw[..., *place])[0].argmax(dim=0)
    index = np.full(256, IGNORE, np.uint8)
    index[[c.value for c in members.classes]] = range(len(members.classes))
    with tempfile.TemporaryDirectory() as folder:
        (path,) = predict_all(MapRequest(runs=[run], source=source, out=Path(folder) / "maps", window=SIZE))
        with rasterio.open(path) as file:
            blended = index[file.read(1)]
    beside[blended == IGNORE] = IGNORE
    pictures = [np.kron(found[PART], np.ones((2, 2), np.uint8)) for found in (beside, blended)]
    sheet(
        Path(__file__).parent / "seams.png",
        [[class_colours(picture, members.classes) for picture in pictures]],
        title="Windows of 64 px",
        lines=["by a network that knows 128 px; 256 x 256 px of a scene, enlarged"],
        legend=[(c, "") for c in members.classes],
        heads=["side by side", "blended"],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
