"""A run as plain values and tensors, and the segmenter that they make again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from glacier.config import InputsConfig, ModelConfig
from glacier.model.features import Features
from glacier.model.networks import network
from glacier.pipeline.inputs import Inputs
from glacier.store.bands import Band, Statistics
from glacier.train.export import halved
from glacier.train.segmenter import Segmenter, Trained


def packed(trained: Trained, *, half: bool) -> dict[str, Any]:
    """What `unpacked` needs of a run, in half precision or as it is: nothing that reading would execute."""
    return {
        "bands": [{"name": band.name, "role": band.role, "code": band.code} for band in trained.bands],
        "statistics": [asdict(s) for s in trained.statistics],
        "inputs": asdict(trained.config.inputs),
        "model": asdict(trained.config.model),
        "window": trained.config.data.patch,
        "offset": [p + t for p, t in zip(trained.prior, trained.thresholds, strict=True)],
        "temperature": trained.temperature,
        "weights": {k: halved(v) if half else v.cpu() for k, v in trained.weights.items()},
    }


def unpacked(record: Mapping[str, Any], names: Sequence[str]) -> Segmenter:
    """The segmenter of a packed run, for physical values in float32, NaN where there is no data.

    Args:
        record: as `packed` makes it.
        names: of the bands that go in, in order; the run's own among them.
    """
    bands = [Band(dtype="float32", nodata=math.nan, **band) for band in record["bands"]]
    statistics = [Statistics(**s) for s in record["statistics"]]
    own, roles = [band.name for band in bands], [band.role for band in bands]
    mean, std = [s.mean for s in statistics], [s.std for s in statistics]
    features = Features(InputsConfig(**record["inputs"]), own, roles, mean, std)
    model, offset = ModelConfig(**record["model"]), record["offset"]
    net = network(model, roles=[*features.channels.values()], classes=len(offset), window=record["window"])
    net.load_state_dict(record["weights"])
    net = net.to(memory_format=torch.channels_last)
    inputs = Inputs(bands, statistics, [list(names).index(name) for name in own])
    return Segmenter(inputs, features, net, offset, temperature=record["temperature"]).eval()
