"""Networks by name."""

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import torch
from torch import nn

from glacier.errors import UsageError


def network(
    arch: str, encoder: str, *, bands: int, classes: int, decoder_channels: Sequence[int] = ()
) -> nn.Module:
    """A segmentation network: (N, bands, H, W) -> class scores (N, classes, H, W).

    Weights start at random: pretrained ones are made for three bands of 8 bits.

    Args:
        arch: an architecture of segmentation_models_pytorch, e.g. `unet`; a U-Net has scSE attention.
        encoder: one of its encoders, e.g. `resnet34`.
        bands: channels of the image.
        classes: channels of the scores.
        decoder_channels: widths of the decoder's five stages; empty for the architecture's own.

    Raises:
        UsageError: no such architecture or encoder, or widths that do not fit it.
    """
    arch = arch.lower()
    options: dict[str, object] = {}
    if decoder_channels:
        options["decoder_channels"] = tuple(decoder_channels)
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
            f"model: arch {arch!r} with encoder {encoder!r} and decoder_channels {[*decoder_channels]} "
            f"cannot be made ({reason[:160]}{'…' * (len(reason) > 160)}); expected names of "
            "segmentation_models_pytorch such as unet and resnet34, and widths that fit, or []"
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
