"""Raw tiles in, class scores out: the inputs and the network as one module, and its checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glacier.classes import Class
from glacier.config import Config
from glacier.errors import GlacierError
from glacier.model.networks import network
from glacier.pipeline.inputs import Inputs
from glacier.store.bands import Band, Statistics

CHECKPOINT = "best.pt"


class Segmenter(nn.Module):
    """Raw codes (N, B, H, W) -> class scores (N, C, H, W)."""

    def __init__(self, inputs: Inputs, net: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        self.network = net

    def forward(self, raw: Tensor) -> Tensor:
        """Standardise, then score."""
        scores: Tensor = self.network(self.inputs(raw))
        return scores


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run learnt, and what is needed to use it."""

    config: Config
    bands: tuple[Band, ...]
    """Those the network sees, with the packing they were trained with."""
    statistics: tuple[Statistics, ...]
    """Of the training tiles, one per band."""
    classes: tuple[Class, ...]
    tile_size: int
    """px"""
    epoch: int
    """The epoch these weights are from, counted from 1."""
    mcc: float
    """On the validation fold."""
    source: dict[str, Any]
    """What its store was made from."""
    weights: dict[str, Tensor]

    def segmenter(self, inputs: Inputs | None = None) -> Segmenter:
        """The network in evaluation mode; `inputs` where bands come packed or placed otherwise."""
        made = make_segmenter(
            self.config,
            inputs or Inputs(self.bands, self.statistics),
            len(self.bands),
            self.classes,
        )
        made.network.load_state_dict(self.weights)
        return made.eval()

    def save(self, folder: Path) -> None:
        """Write `best.pt`, whole or not at all."""
        record = {
            "config": self.config.to_dict(),
            "dtype": self.bands[0].dtype,
            "bands": [band.to_json() for band in self.bands],
            "statistics": [asdict(s) for s in self.statistics],
            "classes": [asdict(c) for c in self.classes],
            "tile_size": self.tile_size,
            "epoch": self.epoch,
            "mcc": self.mcc,
            "source": self.source,
            "weights": {name: value.cpu() for name, value in self.weights.items()},
        }
        partial = folder / f"{CHECKPOINT}.partial"
        torch.save(record, partial)
        os.replace(partial, folder / CHECKPOINT)


def make_segmenter(config: Config, inputs: Inputs, bands: int, classes: Sequence[Class]) -> Segmenter:
    """An untrained segmenter for `bands` bands."""
    settings = config.model
    net = network(
        settings.arch,
        settings.encoder,
        bands=bands,
        classes=len(classes),
        decoder_channels=settings.decoder_channels,
    )
    return Segmenter(inputs, net.to(memory_format=torch.channels_last))


def load_run(folder: Path) -> Trained:
    """Read a run's best checkpoint; nothing in it is executed.

    Raises:
        GlacierError: no run there, no checkpoint in it, or a damaged one.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        what = "no checkpoint in this run" if folder.is_dir() else "no such run"
        raise GlacierError(
            f"{folder}: {what}, expected {CHECKPOINT}; train one with `glacier train --out {folder}`"
        )
    try:
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return Trained(
            config=Config.from_dict(record["config"], str(path)),
            bands=tuple(Band.from_json(band, record["dtype"]) for band in record["bands"]),
            statistics=tuple(Statistics(**s) for s in record["statistics"]),
            classes=tuple(Class(**c) for c in record["classes"]),
            tile_size=record["tile_size"],
            epoch=record["epoch"],
            mcc=record["mcc"],
            source=record["source"],
            weights=record["weights"],
        )
    except GlacierError:
        raise
    except Exception as error:  # what a damaged file makes the unpickler raise has no common base
        raise GlacierError(f"{path}: not a readable checkpoint; train again") from error
