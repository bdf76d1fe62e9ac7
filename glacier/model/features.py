"""What the network sees of standardised bands: logarithms, a validity plane, local contrast."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from glacier.config import InputsConfig
from glacier.errors import UsageError

VALIDITY = "validity"
"""Name of the plane that says where there is data."""
FLOOR = 4.0
"""Logarithms lie at most so many deviations below their mean: darker values, down to none, are alike."""


class Features(nn.Module):
    """Standardised bands (N, B, H, W), 0 without data -> the network's channels (N, `len(channels)`, H, W).

    Nothing of it is learnt, and nothing but the bands' means and deviations goes into it.
    """

    scale: Tensor
    ratio: Tensor
    mean: Tensor
    log: Tensor
    picked: Tensor

    def __init__(
        self,
        settings: InputsConfig,
        names: Sequence[str],
        roles: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """Say what comes in.

        Args:
            settings: what is wanted.
            names: of the bands.
            roles: of the bands; the logarithm is for `optical` ones.
            mean: of the bands, physical units; where it is not above 0, the band stays as it is.
            std: their deviations.

        Raises:
            UsageError: local contrast of a band that there is not.
        """
        super().__init__()
        if strange := [name for name in settings.contrast if name not in names]:
            raise UsageError(f"inputs.contrast: no band {strange[0]}; expected some of {', '.join(names)}")
        role = dict(zip(names, roles, strict=True))
        pairs = [
            *zip(names, roles, strict=True),
            *[(VALIDITY, "other")] * settings.validity,
            *((f"contrast {name}", role[name]) for name in settings.contrast),
        ]
        every = [name for name, _ in pairs]
        if twice := [name for name, count in Counter(every).items() if count > 1]:
            raise UsageError(
                f"data.bands, inputs: {twice[0]} comes twice among {', '.join(every)}; expected once"
            )
        self.channels = dict(pairs)
        """Name of each channel -> its role."""
        self.settings = settings
        self.plain = len(self.channels) == len(names) and not settings.log
        centre, spread = np.nan_to_num(mean), np.nan_to_num(std)
        optical = np.array([role == "optical" for role in roles], bool)
        logs = optical & (centre > 0) & (spread > 0) if settings.log else np.zeros(len(names), bool)
        ratio = np.where(logs, spread / np.where(logs, centre, 1), 1.0)
        # Mean and deviation of log(x / mean) if x is log-normal with this mean and deviation.
        variance = np.log1p(ratio**2)
        kind = torch.get_default_dtype()
        self.register_buffer("log", torch.tensor(logs), persistent=False)
        self.register_buffer("ratio", torch.tensor(ratio, dtype=kind), persistent=False)
        self.register_buffer("mean", torch.tensor(-variance / 2, dtype=kind), persistent=False)
        self.register_buffer("scale", torch.tensor(np.sqrt(variance), dtype=kind), persistent=False)
        places = [list(names).index(name) for name in settings.contrast]
        self.register_buffer("picked", torch.tensor(places, dtype=torch.int64), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Make the channels, channels_last."""
        if self.plain:
            return image
        held = image != 0  # a valid value equals its band's mean to the last bit next to never
        bands = image
        if self.settings.log:
            ratio, mean, scale = (self._wide(v) for v in (self.ratio, self.mean, self.scale))
            lowest = torch.exp(mean - FLOOR * scale)
            logs = ((image * ratio + 1).clamp(min=lowest).log() - mean) / scale
            bands = torch.where(self._wide(self.log) & held, logs, image)
        planes = [bands]
        if self.settings.validity:
            planes.append(held.any(dim=1, keepdim=True).to(image.dtype))
        if self.settings.contrast:
            planes.append(self._contrast(bands[:, self.picked], held[:, self.picked]))
        return torch.cat(planes, dim=1).contiguous(memory_format=torch.channels_last)

    def _contrast(self, values: Tensor, held: Tensor) -> Tensor:
        """Values minus their Gaussian mean over valid pixels; 0 without data."""
        weight = held.to(values.dtype)
        around = _blurred(values * weight, self.settings.sigma)
        near = _blurred(weight, self.settings.sigma)
        return (values - around / near.clamp(min=1e-6)) * weight

    @staticmethod
    def _wide(value: Tensor) -> Tensor:
        return value[:, None, None]


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Convolve (N, C, H, W) with a Gaussian cut off at 3 σ, as if all around were 0."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = taps / taps.sum()
    planes = values.flatten(0, 1)[:, None]
    planes = functional.conv2d(planes, taps.reshape(1, 1, -1, 1), padding=(reach, 0))
    planes = functional.conv2d(planes, taps.reshape(1, 1, 1, -1), padding=(0, reach))
    return planes.reshape(values.shape)
