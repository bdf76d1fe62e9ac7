"""Start a network from another run's weights: bands and classes are matched by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glacier.config import ModelConfig
from glacier.errors import GlacierError
from glacier.model.features import VALIDITY
from glacier.train.segmenter import Trained

HEAD = "segmentation_head."


@torch.no_grad()
def transfer(
    source: Trained, net: nn.Module, model: ModelConfig, channels: Sequence[str], classes: Sequence[str]
) -> None:
    """Copy what `source` learnt into `net`.

    In the first convolution each channel takes the weights of the channel of its name, and a new one the
    mean over the source's bands, but a validity plane nothing. In the head each class takes those of the
    class of its name, and a new one stays as it is.

    Args:
        source: the run to start from.
        net: the network, as it was made.
        model: how it was made.
        channels: what it sees, by name.
        classes: what it tells apart, by name.

    Raises:
        GlacierError: `source` is another network.
    """
    if source.config.model != model:
        then, now = source.config.model, model
        raise GlacierError(
            f"--init: a run of {then.arch} with {then.encoder}, decoder_channels "
            f"{[*then.decoder_channels]}; this one is {now.arch} with {now.encoder}, "
            f"{[*now.decoder_channels]}; expected the same model"
        )
    own = net.state_dict()
    first = _first(net, len(channels))
    for name, value in own.items():
        old = source.weights[name].to(value.dtype)
        if name == first:
            _by_channel(value, old, channels, source)
        elif name.startswith(HEAD) and list(classes) != source.class_names:
            _by_class(value, old, classes, source.class_names)
        else:
            value.copy_(old)


def unmatched(source: Trained, bands: Sequence[str]) -> str:
    """What the user should know of `bands` that `source` has not seen; nothing where it knows them all."""
    known = [band.name for band in source.bands]
    new = [name for name in bands if name not in known]
    if not new:
        return ""
    return (
        f"--init: {len(new)} of {len(bands)} bands ({', '.join(new)}) are not among those of the run to "
        f"start from ({', '.join(known)}), and take the mean of their weights; bands are matched by name, "
        "which `glacier ingest --bands` gives"
    )


def _first(net: nn.Module, channels: int) -> str:
    """The name of the first convolution's weights."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            return f"{name}.weight"
    raise GlacierError("--init: a network without a first convolution; its bands cannot be matched")


def _by_channel(value: Tensor, old: Tensor, channels: Sequence[str], source: Trained) -> None:
    then = source.channels
    mean = old[:, : len(source.bands)].mean(dim=1)
    for i, name in enumerate(channels):
        value[:, i] = old[:, then.index(name)] if name in then else 0 if name == VALIDITY else mean


def _by_class(value: Tensor, old: Tensor, classes: Sequence[str], then: Sequence[str]) -> None:
    for i, name in enumerate(classes):
        if name in then:
            value[i] = old[then.index(name)]
