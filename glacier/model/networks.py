"""Networks by name."""

from collections.abc import Sequence
from typing import Protocol

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from glacier.config import ModelConfig
from glacier.errors import GlacierError, UsageError
from glacier.model.glavitu import GlaViTU


class Own(Protocol):
    """A network's class, of this package's own."""

    def __call__(self, roles: Sequence[str], classes: int, window: int, *, located: bool) -> nn.Module:
        """Make one, as GlaViTU is made."""

    def first_layers(self, roles: Sequence[str]) -> dict[str, str | None]:
        """Weights (width, channels, …) that meet the channels first -> the role of those; None for all."""

    def inherited(self, name: str, own: Tensor, old: Tensor | None) -> Tensor:
        """What a weight takes that is matched neither by channel nor by class, or that another run lacks.

        `own` is how it was made; `old` the other run's, None if that lacks it.
        """


OWN: dict[str, Own] = {"glavitu": GlaViTU}
"""By `model.arch`. All other names are segmentation_models_pytorch's."""


def own_network(settings: ModelConfig) -> Own | None:
    """The network of this package's own that settings name; None where they name another."""
    return OWN.get(settings.arch.lower())


def network(settings: ModelConfig, *, roles: Sequence[str], classes: int, window: int) -> nn.Module:
    """A segmentation network: (N, B, H, W) -> class scores (N, C, H, W).

    In training mode it may give a tuple: after these the scores of further heads, of the same shape.
    Weights start at random: pretrained ones are made for three bands of 8 bits.

    Args:
        settings: which; a U-Net has scSE attention.
        roles: of the channels that come in (B,).
        classes: C.
        window: side of the windows it is trained on, px.

    Raises:
        UsageError: no such architecture or encoder, widths that do not fit it, or one that cannot be told
            where a window lies, but is to be.
    """
    if own := own_network(settings):
        return own(roles=roles, classes=classes, window=window, located=settings.location)
    if settings.location:
        raise UsageError(
            f"model.location: {settings.arch} takes no location; expected false, or model.arch one of "
            f"{', '.join(OWN)}"
        )
    return _smp_network(settings, len(roles), classes)


def alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether settings give the same network, but for its channels and classes, and what it is told."""
    same = one.arch.lower() == other.arch.lower()
    if own_network(one):
        return same
    return same and (one.encoder, one.decoder_channels) == (other.encoder, other.decoder_channels)


def first_layers(settings: ModelConfig, net: nn.Module, roles: Sequence[str]) -> dict[str, str | None]:
    """Weights (width, channels, …) that meet the channels first -> the role of those; None for all."""
    if own := own_network(settings):
        return own.first_layers(roles)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == len(roles):
            return {f"{name}.weight": None}
    raise GlacierError("--init: a network without a first convolution; its bands cannot be matched")


def inherited(settings: ModelConfig, name: str, own: Tensor, old: Tensor | None) -> Tensor:
    """What a weight takes from another run's, as `Own.inherited` says."""
    if kind := own_network(settings):
        return kind.inherited(name, own, old)
    return own if old is None else old


def called(settings: ModelConfig) -> str:
    """What a network is called in messages."""
    if own_network(settings):
        return settings.arch
    return f"{settings.arch} with {settings.encoder}, decoder_channels {[*settings.decoder_channels]}"


def _smp_network(settings: ModelConfig, bands: int, classes: int) -> nn.Module:
    arch, encoder, widths = settings.arch.lower(), settings.encoder, settings.decoder_channels
    options: dict[str, object] = {}
    if widths:
        options["decoder_channels"] = tuple(widths)
    if arch in ("unet", "unetplusplus"):
        options["decoder_attention_type"] = "scse"
    try:
        made: nn.Module = smp.create_model(
            arch, encoder, encoder_weights=None, in_channels=bands, classes=classes, **options
        )
        _freeze_unused(made, bands)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error)
        raise UsageError(
            f"model: arch {arch!r} with encoder {encoder!r} and decoder_channels {[*widths]} "
            f"cannot be made ({reason[:160]}{'…' * (len(reason) > 160)}); expected {', '.join(OWN)}, or "
            "names of segmentation_models_pytorch such as unet and resnet34, and widths that fit, or []"
        ) from error
    return made


def _freeze_unused(net: nn.Module, bands: int) -> None:
    """Freeze what no score depends on, e.g. an encoder's last layers: DDP would wait for its gradient."""
    net.eval()
    net(torch.zeros(1, bands, 128, 128)).sum().backward()
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    net.train()
