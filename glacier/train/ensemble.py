"""Several segmenters as one, and test-time augmentation: the mean of their shares."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from glacier.train.segmenter import Segmenter


class Ensemble(nn.Module):
    """Raw codes (N, B, H, W) -> shares (N, C, H, W): the mean of the members' softmax.

    With `tta` each member also sees the square's other seven symmetries, and what it says is moved back.
    """

    def __init__(self, members: Sequence[Segmenter], *, tta: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.symmetries = 8 if tta else 1

    def forward(self, raw: Tensor) -> Tensor:
        """Mean shares, in single precision at least."""
        views = self._views(raw)
        total = next(views)
        for shares in views:
            total = total + shares
        return total / (self.symmetries * len(self.members))

    def _views(self, raw: Tensor) -> Iterator[Tensor]:
        for symmetry in range(self.symmetries):
            seen = turned(raw, symmetry)
            for member in self.members:
                scores = member(seen)
                wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
                yield turned_back(wide.softmax(dim=1), symmetry)


def turned(image: Tensor, symmetry: int) -> Tensor:
    """One of the eight symmetries of squares (…, H, W): quarter turns, from the fifth on mirrored first."""
    mirrored = image.flip(-1) if symmetry & 4 else image
    return mirrored.rot90(symmetry & 3, (-2, -1))


def turned_back(image: Tensor, symmetry: int) -> Tensor:
    """The inverse of `turned`."""
    straight = image.rot90(-(symmetry & 3), (-2, -1))
    return straight.flip(-1) if symmetry & 4 else straight
