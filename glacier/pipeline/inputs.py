"""What the network sees: raw codes unpacked and standardised, no data as the band's mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glacier.store.bands import Band, Statistics


class Constants(NamedTuple):
    """What standardises raw codes, by band (band,): raw * scale + shift, and 0 where raw is code."""

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    code: NDArray[np.generic]
    """Of the raw dtype; NaN in float32 stores."""


class Inputs(nn.Module):
    """Raw codes -> standardised bands, as the first layer of a network or the last step of a loader.

    Packing, mean and deviation are folded into one multiply-add per band, and kept as buffers.
    """

    scale: Tensor
    shift: Tensor
    code: Tensor
    pick: Tensor | None

    def __init__(
        self,
        bands: Sequence[Band],
        statistics: Sequence[Statistics],
        pick: Sequence[int] | None = None,
    ) -> None:
        """Fold statistics into packing.

        Args:
            bands: those that come out, in order.
            statistics: of each, physical units.
            pick: the place of each among the bands that go in; None where they are the same, in order.
        """
        super().__init__()
        mean = np.nan_to_num([s.mean for s in statistics])
        std = np.nan_to_num([s.std for s in statistics])
        std = np.where(std > 0, std, 1.0)
        scale = np.array([band.scale for band in bands])
        offset = np.array([band.offset for band in bands])
        code = [band.nodata for band in bands]
        self.register_buffer("scale", torch.tensor(scale / std, dtype=torch.get_default_dtype()))
        self.register_buffer("shift", torch.tensor((offset - mean) / std, dtype=torch.get_default_dtype()))
        self.register_buffer("code", torch.tensor(code, dtype=torch.get_default_dtype()))
        self.register_buffer("pick", torch.tensor(pick) if pick else None, persistent=False)
        self.optical = np.array([band.role == "optical" for band in bands])
        """Which bands light falls on (band,)."""

    def forward(self, raw: Tensor, light: Tensor | None = None) -> Tensor:
        """Standardise.

        Args:
            raw: codes (N, bands in, H, W) of any dtype.
            light: gain and bias of standardised values (N, 2, bands out); None to leave them.

        Returns:
            Floats (N, bands out, H, W), channels_last.
        """
        pixels = raw.permute(0, 2, 3, 1)
        codes = (pixels if self.pick is None else pixels[..., self.pick]).to(self.scale.dtype, copy=True)
        missing = codes.isnan() if raw.is_floating_point() else codes == self.code
        scale, shift = self.scale, self.shift
        if light is not None:
            gain, bias = light[:, :, None, None].unbind(1)
            scale, shift = gain * scale, gain * shift + bias
        # In place: fresh memory costs more than the arithmetic.
        return torch.addcmul(shift, codes, scale, out=codes).masked_fill_(missing, 0.0).permute(0, 3, 1, 2)

    def constants(self, dtype: str) -> Constants:
        """The same numbers for who standardises without PyTorch; codes in the raw `dtype`."""
        scale, shift, code = (value.float().cpu().numpy() for value in (self.scale, self.shift, self.code))
        return Constants(scale, shift, code.astype(dtype))


def places_or_none(places: list[int], bands: int) -> list[int] | None:
    """`places`, or None where they are all of so many bands in order, so that nothing is copied."""
    return None if places == list(range(bands)) else places
