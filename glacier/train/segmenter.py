"""Raw tiles in, class scores out: inputs, features and network as one module; and what a run has learnt."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from glacier.classes import Class
from glacier.config import Config
from glacier.errors import GlacierError
from glacier.model.features import Features
from glacier.model.networks import network
from glacier.pipeline.inputs import Inputs
from glacier.store.bands import Band, Statistics
from glacier.train.whole import replacing

CHECKPOINT = "best.pt"


class Segmenter(nn.Module):
    """Raw codes (N, B, H, W) -> class scores (N, C, H, W), whose softmax is the share of each class."""

    offset: Tensor

    def __init__(
        self,
        inputs: Inputs,
        features: Features,
        net: nn.Module,
        offset: Sequence[float],
        *,
        temperature: float = 1.0,
        located: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            inputs: raw codes -> standardised bands.
            features: standardised bands -> the network's channels.
            net: channels -> scores.
            offset: what is added to each class's scores (C,).
            temperature: what these are then divided by, so that shares are as often right as they say
                (Guo et al., 2017).
            located: whether `net` is told where windows lie.
        """
        super().__init__()
        self.inputs, self.features, self.network = inputs, features, net
        self.temperature, self.located = temperature, located
        values = torch.tensor(offset, dtype=torch.get_default_dtype())
        self.register_buffer("offset", values, persistent=False)

    def forward(self, raw: Tensor, place: Tensor | None = None) -> Tensor:
        """Standardise, then score; one that is `located` needs `place`: longitude, latitude (N, 2), °."""
        with torch.autocast(raw.device.type, enabled=False):
            channels = self.features(self.inputs(raw))
        told = (place,) if self.located else ()
        scores: Tensor = self.network(channels, *told) + self.offset[:, None, None]
        return scores / self.temperature


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """On the validation fold, without thresholds."""
    source: dict[str, Any]
    """What its store was made from."""
    prior: tuple[float, ...]
    """Per class, log of its natural share over that in training: undoes balancing (Menon et al., 2021)."""
    thresholds: tuple[float, ...]
    """Per class, what is added besides: chosen on the validation fold; zeros until then."""
    temperature: float
    """What scores are divided by with both added: fitted on the validation fold; 1 until then."""
    weights: dict[str, Tensor]

    @property
    def class_names(self) -> list[str]:
        """By index."""
        return [c.name for c in self.classes]

    @property
    def channels(self) -> dict[str, str]:
        """Name of each channel the network sees -> its role."""
        return make_features(self.config, self.bands, self.statistics).channels

    def segmenter(self, inputs: Inputs | None = None) -> Segmenter:
        """The network in evaluation mode; `inputs` where bands come packed or placed otherwise."""
        made = make_segmenter(self.config, inputs, self.bands, self.statistics, self.classes)
        made.network.load_state_dict(self.weights)
        offset = [p + t for p, t in zip(self.prior, self.thresholds, strict=True)]
        made.offset.copy_(torch.tensor(offset))
        made.temperature = self.temperature
        return made.eval()

    def about(self) -> dict[str, Any]:
        """All but the weights, as plain values."""
        return {
            "config": self.config.to_dict(),
            "dtype": self.bands[0].dtype,
            "bands": [band.to_json() for band in self.bands],
            "statistics": [asdict(s) for s in self.statistics],
            "classes": [asdict(c) for c in self.classes],
            "tile_size": self.tile_size,
            "epoch": self.epoch,
            "mcc": self.mcc,
            "source": self.source,
            "prior": list(self.prior),
            "thresholds": list(self.thresholds),
            "temperature": self.temperature,
        }

    @classmethod
    def from_about(cls, about: dict[str, Any], weights: dict[str, Tensor], where: str) -> Self:
        """The inverse of `about`."""
        return cls(
            config=Config.from_dict(about["config"], where),
            bands=tuple(Band.from_json(band, about["dtype"]) for band in about["bands"]),
            statistics=tuple(Statistics(**s) for s in about["statistics"]),
            classes=tuple(Class(**c) for c in about["classes"]),
            tile_size=about["tile_size"],
            epoch=about["epoch"],
            mcc=about["mcc"],
            source=about["source"],
            prior=tuple(about["prior"]),
            thresholds=tuple(about["thresholds"]),
            temperature=about["temperature"],
            weights=weights,
        )

    def save(self, folder: Path, name: str = CHECKPOINT) -> None:
        """Write it into a folder, whole or not at all."""
        write_whole(self.to_record(), folder / name)

    def to_record(self) -> dict[str, Any]:
        """All of it, as plain values and tensors on the CPU."""
        return {**self.about(), "weights": {key: value.cpu() for key, value in self.weights.items()}}

    @classmethod
    def from_record(cls, record: dict[str, Any], where: str) -> Self:
        """The inverse of `to_record`."""
        return cls.from_about(record, record["weights"], where)

    def adjusted(self, thresholds: Sequence[float], temperature: float) -> Self:
        """The same with other thresholds, and the temperature that belongs to them."""
        return replace(self, thresholds=tuple(thresholds), temperature=temperature)

    def unadjusted(self) -> Self:
        """The same with none."""
        return self.adjusted([0.0] * len(self.classes), 1.0)


def write_whole(record: dict[str, Any], path: Path) -> None:
    """Save `record` at `path` so that whoever looks finds the old file or the new one, never a part."""
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(record, file)
        except RuntimeError as error:  # of its archive's end, where the disk was full before
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.flush()
        os.fsync(file.fileno())


def make_features(config: Config, bands: Sequence[Band], statistics: Sequence[Statistics]) -> Features:
    """What a network sees of `bands`."""
    return Features(
        config.inputs,
        [band.name for band in bands],
        [band.role for band in bands],
        [s.mean for s in statistics],
        [s.std for s in statistics],
    )


def make_segmenter(
    config: Config,
    inputs: Inputs | None,
    bands: Sequence[Band],
    statistics: Sequence[Statistics],
    classes: Sequence[Class],
) -> Segmenter:
    """An untrained segmenter; `inputs` where bands come packed or placed otherwise than `bands` say."""
    settings, features = config.model, make_features(config, bands, statistics)
    net = network(
        settings, roles=[*features.channels.values()], classes=len(classes), window=config.data.patch
    )
    net = net.to(memory_format=torch.channels_last)
    return Segmenter(
        inputs or Inputs(bands, statistics),
        features,
        net,
        [0.0] * len(classes),
        located=settings.location,
    )


def load_run(path: Path) -> Trained:
    """Read a run's best checkpoint, or an exported file; nothing in it is executed.

    Raises:
        GlacierError: no run there, no checkpoint in it, or a damaged one.
    """
    if path.suffix == ".safetensors":
        from glacier.train.export import load_exported

        return load_exported(path)
    file = path / CHECKPOINT
    if not file.is_file():
        what = "no checkpoint in this run" if path.is_dir() else "no such run"
        raise GlacierError(
            f"{path}: {what}, expected {CHECKPOINT}; train one with `glacier train --out {path}`"
        )
    return read_trained(file)


def read_trained(file: Path) -> Trained:
    """What `Trained.save` wrote.

    Raises:
        GlacierError: a damaged file, or another one.
    """
    record = read_record(file)
    try:
        return Trained.from_record(record, str(file))
    except GlacierError:
        raise
    except Exception as error:  # whatever a record of other making lacks
        raise GlacierError(f"{file}: not a readable checkpoint; train again") from error


def read_record(path: Path) -> dict[str, Any]:
    """A file of `write_whole`; nothing in it is executed.

    Raises:
        GlacierError: a damaged file, or no such record.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes the unpickler raise has no common base
        raise GlacierError(f"{path}: not a readable checkpoint; train again") from error
    if not isinstance(record, dict):
        raise GlacierError(f"{path}: not a readable checkpoint; train again")
    return record
