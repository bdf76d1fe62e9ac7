"""Several segmenters as one, and test-time augmentation: the mean of their calibrated shares."""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from glacier.train.segmenter import Segmenter


class Ensemble(nn.Module):
    """Raw codes (N, B, H, W) -> shares (N, C, H, W): the mean of the members' softmax.

    With `tta` each member also sees the square's other seven symmetries, and what it says is moved back.
    """

    def __init__(
        self, members: Sequence[Segmenter], *, tta: bool = False, weights: Sequence[float] = ()
    ) -> None:
        """Put members together; `weights` are 0 or more, of each; none for the same of all."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.symmetries = 8 if tta else 1
        given = weights or [1.0] * len(members)
        self.weights = [weight / sum(given) for weight in given]
        self.located = any(member.located for member in members)

    def forward(self, raw: Tensor, place: Tensor | None = None) -> Tensor:
        """Mean shares, in single precision at least; `place` as for a segmenter."""
        return reduce(torch.add, self._views(raw, place))

    def both(self, raw: Tensor, place: Tensor | None = None) -> Tensor:
        """Mean shares, and what they would be without the members' temperatures (2, N, C, H, W)."""
        return reduce(torch.add, self._views(raw, place, plain=True))

    def _views(self, raw: Tensor, place: Tensor | None, *, plain: bool = False) -> Iterator[Tensor]:
        for symmetry in range(self.symmetries):
            seen = turned(raw, symmetry)
            for member, weight in zip(self.members, self.weights, strict=True):
                scores = member(seen, place)
                wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
                wide = torch.stack((wide, wide * member.temperature)) if plain else wide
                yield turned_back(wide.softmax(dim=-3), symmetry) * (weight / self.symmetries)


def turned(image: Tensor, symmetry: int) -> Tensor:
    """One of the eight symmetries of squares (…, H, W): quarter turns, from the fifth on mirrored first."""
    mirrored = image.flip(-1) if symmetry & 4 else image
    return mirrored.rot90(symmetry & 3, (-2, -1))


def turned_back(image: Tensor, symmetry: int) -> Tensor:
    """The inverse of `turned`."""
    straight = image.rot90(-(symmetry & 3), (-2, -1))
    return straight.flip(-1) if symmetry & 4 else straight
