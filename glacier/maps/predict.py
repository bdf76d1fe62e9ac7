"""Windows of scenes through the training's own feed and networks, blended into rows of pixels."""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from glacier.classes import IGNORE
from glacier.console import Advance
from glacier.maps.canvas import Canvas, Strip
from glacier.maps.rows import Piece
from glacier.maps.source import SceneSource
from glacier.pipeline.backends import make_batcher
from glacier.pipeline.buffer import Window
from glacier.pipeline.feed import Feed
from glacier.pipeline.order import Samples
from glacier.train.ensemble import Ensemble
from glacier.train.precision import mixed


def predict(
    network: Ensemble,
    source: SceneSource,
    order: Samples,
    pieces: Sequence[Piece],
    *,
    window: Window,
    classes: int,
    batch: int,
    device: torch.device,
    places: Tensor | None,
    shares: bool,
    done: Advance,
) -> Generator[tuple[Piece, Strip]]:
    """Map pieces of scenes; within each, strips come from top to bottom.

    Memory does not depend on a scene's height: it holds as many of its rows as a window has.

    Args:
        network: float32 values (N, B, H, W), NaN without data -> shares of classes (N, C, H, W).
        source: of the scenes.
        order: all windows of all scenes.
        pieces: what is to be mapped, and by which of these windows.
        window: their shape.
        classes: C.
        batch: windows that the network sees at a time.
        device: where it is.
        places: longitude and latitude of all windows (windows, 2), degrees, for a network that is located.
        shares: whether those of all classes are wanted.
        done: called once for each window.
    """
    wanted = [(piece, number) for piece in pieces for number in piece.windows]
    batcher = make_batcher(source, window, largest=batch, device=device)
    numbers = [[n for _, n in wanted[i : i + batch]] for i in range(0, len(wanted), batch)]
    steps = (order[some] for some in numbers)
    canvas, at = None, None
    following = iter(wanted)
    feed = Feed(batcher, steps, threads=1)  # a dataset of GDAL's serves one thread at a time
    for item, some in zip(feed, numbers, strict=True):
        place = None if places is None else places[some]
        with torch.inference_mode(), mixed(device):
            found = network(item.image, place)
        held = item.label != IGNORE
        for i, sample in enumerate(item.samples):
            piece, _ = next(following)
            if piece is not at:
                if canvas and at and (strip := canvas.rest()):
                    yield at, strip
                grid = source.scenes[piece.scene].grid
                canvas, at = Canvas(piece, grid, window.patch, classes, device, shares=shares), piece
            assert canvas
            if strip := canvas.add(int(sample["y"]), int(sample["x"]), found[i], held[i]):
                yield piece, strip
            done()
    if canvas and at and (strip := canvas.rest()):
        yield at, strip
