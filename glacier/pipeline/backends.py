"""The back end of a device."""

from typing import Literal

import torch

from glacier.pipeline.augment import NOTHING, Augment
from glacier.pipeline.batcher import Batcher, Recipe, Source
from glacier.pipeline.buffer import Window
from glacier.pipeline.by_numba import NumbaBatcher
from glacier.pipeline.inputs import Inputs

Backend = Literal["dali", "numba"]


def make_batcher(
    source: Source,
    window: Window,
    *,
    largest: int,
    augment: Augment = NOTHING,
    patch: int = 0,
    device: torch.device | str = "cpu",
    inputs: Inputs | None = None,
    backend: Backend | None = None,
) -> Batcher:
    """Batches after a `Recipe` of these: by DALI on CUDA and where pixels are interpolated, else by Numba.

    Args:
        source: where windows are read from.
        window: the shape of what is read.
        largest: most samples in a batch.
        augment: what is done to windows.
        patch: side of what is made of a window, px; 0 for its own.
        device: where batches go.
        inputs: what standardises all bands of the source; None to leave raw codes.
        backend: instead of the device's own.

    Raises:
        ValueError: `inputs` takes other bands than the source has, or there are none where they are needed.
    """
    if inputs and (inputs.pick is not None or len(inputs.code) != window.bands):
        raise ValueError(f"inputs for {len(inputs.code)} bands, expected all {window.bands} of the source")
    if not inputs and (augment.interpolates or augment.lights):
        raise ValueError(f"raw codes cannot be augmented by {augment}; expected inputs")
    device = torch.device(device)
    if device == torch.device("cuda"):  # the current one, which differs by thread: settle it
        device = torch.device("cuda", torch.cuda.current_device())
    recipe = Recipe(source, window, patch or window.patch, largest, augment, device, inputs)
    if not backend:
        backend = "dali" if device.type == "cuda" or augment.interpolates else "numba"
    if backend == "numba":
        return NumbaBatcher(recipe)
    from glacier.pipeline.by_dali import DaliBatcher

    return DaliBatcher(recipe)
