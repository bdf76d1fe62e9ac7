"""The back end of a device."""

from typing import Literal

import torch

from glacier.pipeline.augment import Preset
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
    preset: Preset = "none",
    device: torch.device | str = "cpu",
    inputs: Inputs | None = None,
    backend: Backend | None = None,
) -> Batcher:
    """Batches after a `Recipe` of these: by DALI on CUDA, by Numba elsewhere, or as `backend` says.

    Raises:
        ValueError: `inputs` takes other bands than the source has.
    """
    if inputs and (inputs.pick is not None or len(inputs.code) != window.bands):
        raise ValueError(f"inputs for {len(inputs.code)} bands, expected all {window.bands} of the source")
    device = torch.device(device)
    if device == torch.device("cuda"):  # the current one, which differs by thread: settle it
        device = torch.device("cuda", torch.cuda.current_device())
    recipe = Recipe(source, window, largest, preset, device, inputs)
    if (backend or ("dali" if device.type == "cuda" else "numba")) == "numba":
        return NumbaBatcher(recipe)
    from glacier.pipeline.by_dali import DaliBatcher

    return DaliBatcher(recipe)
