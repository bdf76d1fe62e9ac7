"""Start a network from another run's weights: bands and classes are matched by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glacier.config import ModelConfig
from glacier.errors import GlacierError
from glacier.model.features import VALIDITY
from glacier.model.networks import alike, called, first_layers, inherited
from glacier.train.segmenter import Trained

HEADS = ("segmentation_head.", "auxiliary_head.")


@torch.no_grad()
def transfer(
    source: Trained,
    net: nn.Module,
    model: ModelConfig,
    channels: Mapping[str, str],
    classes: Sequence[str],
) -> None:
    """Copy what `source` learnt into `net`.

    In a first convolution each channel takes the weights of the channel of its name, and a new one the
    mean over the source's bands, but a validity plane nothing. In a head each class takes those of the
    class of its name, and a new one stays as it is. What the source lacks, a branch of another role or the
    location, adds nothing at first.

    Args:
        source: the run to start from.
        net: the network, as it was made.
        model: how it was made.
        channels: what it sees, by name, and the role of each.
        classes: what it tells apart, by name.

    Raises:
        GlacierError: `source` is another network.
    """
    if not alike(source.config.model, model):
        raise GlacierError(
            f"--init: a run of {called(source.config.model)}; this one is {called(model)}; expected the "
            f"same model, as by --set model.arch={source.config.model.arch}"
        )
    own, seen = net.state_dict(), source.channels
    known = {band.name for band in source.bands}
    first = first_layers(model, net, [*channels.values()])
    for name, value in own.items():
        old = source.weights[name].to(value.dtype) if name in source.weights else None
        if old is not None and name in first:
            then = _of_role(seen, first[name])
            bands = [i for i, channel in enumerate(then) if channel in known]
            _by_channel(value, old, _of_role(channels, first[name]), then, bands)
        elif old is not None and name.startswith(HEADS) and list(classes) != source.class_names:
            _by_class(value, old, classes, source.class_names)
        else:
            value.copy_(inherited(model, name, value, old))


def _of_role(channels: Mapping[str, str], role: str | None) -> list[str]:
    """Names of the channels of a role; None for all."""
    return [name for name, own in channels.items() if role in (None, own)]


def unmatched(source: Trained, bands: Sequence[str]) -> str:
    """What the user should know of `bands` that `source` has not seen; nothing where it knows them all."""
    known = [band.name for band in source.bands]
    new = [name for name in bands if name not in known]
    if not new:
        return ""
    return (
        f"--init: {len(new)} of {len(bands)} bands ({', '.join(new)}) are not among those of the run to "
        f"start from ({', '.join(known)}), and take the mean of their weights, or with glavitu of those of "
        "their role, a new role counting for nothing at first; bands are matched by name, "
        "which `glacier ingest --bands` gives"
    )


def _by_channel(
    value: Tensor, old: Tensor, channels: Sequence[str], then: Sequence[str], bands: Sequence[int]
) -> None:
    """Weights (width, channels, …) of `channels` from those of `then`, whose `bands` a new one averages."""
    mean = old[:, bands].mean(dim=1) if bands else torch.zeros_like(old[:, 0])
    for i, name in enumerate(channels):
        value[:, i] = old[:, then.index(name)] if name in then else 0 if name == VALIDITY else mean


def _by_class(value: Tensor, old: Tensor, classes: Sequence[str], then: Sequence[str]) -> None:
    for i, name in enumerate(classes):
        if name in then:
            value[i] = old[then.index(name)]
