"""GlaViTU: a transformer that looks over the whole window, then a residual U-Net that looks at its details.

After Maslov, Persello, Schellenberger and Stein (2025), "Globally scalable glacier mapping by deep learning
matches expert delineation accuracy", arXiv 2401.15113; written from the paper's description.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64
"""Channels of what is fused, of tokens, and of the U-Net at full size."""
BRANCH, SQUEEZED = 32, 16
"""Channels of one role's branch, and values that the means of all branches are squeezed to."""
TOKEN = 16
"""Side of a token, px."""
BLOCKS, ATTENTION_HEADS, MLP = 12, 4, 256
DOWN = 3
"""Down-steps of the U-Net."""
DROPOUT = 0.1
NORM = partial(nn.LayerNorm, eps=1e-6)
"""By name, since timm's own default changed: a solution runs with the version it finds."""
ENTRANCES = (
    *(".fuse.weight", ".squeeze.weight", ".squeeze.bias"),
    *("location.layers.2.weight", "location.layers.2.bias"),
)
"""What a branch or a location adds goes through these: at 0, the rest is as it would be without."""
POSITIONS = "overview.positions"
"""The one parameter whose shape follows the window: `resized` fits it to another."""


class GlaViTU(nn.Module):
    """Channels (N, B, H, W) -> class scores (N, C, H, W); sides are multiples of 16 px.

    In training mode a pair: the scores, and those (N, C, H, W) of its first stage alone, to be supervised.
    """

    def __init__(self, roles: Sequence[str], classes: int, window: int, *, located: bool = False) -> None:
        """Make it, with weights at random.

        Args:
            roles: of the channels (B,); those of one role share a branch.
            classes: C.
            window: side of the windows it is trained on, px: positions are learnt for these, and
                interpolated for others.
            located: whether it is told where on the earth a window lies.
        """
        super().__init__()
        self.fusion = Fusion(roles)
        self.location = Location() if located else None
        self.overview = Overview(window // TOKEN)
        self.details = Details()
        self.dropout = nn.Dropout(DROPOUT)
        self.auxiliary_head = nn.Conv2d(WIDTH, classes, 1)
        self.segmentation_head = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, image: Tensor, place: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Score; `place` (N, 2) is longitude and latitude of the windows, degrees, for one that is told."""
        fused = self.fusion(image)
        if self.location is not None:
            fused = fused + self.location(place)[:, :, None, None].to(fused.dtype)
        first = fused + self.overview(fused)
        second = first + self.details(first)
        scores: Tensor = self.segmentation_head(self.dropout(second))
        return (scores, self.auxiliary_head(self.dropout(first))) if self.training else scores

    @staticmethod
    def first_layers(roles: Sequence[str]) -> dict[str, str | None]:
        """The weights that meet the channels of each role first."""
        return {f"fusion.branches.{role}.convolutions.0.weight": role for role in roles}

    @staticmethod
    def inherited(name: str, own: Tensor, old: Tensor | None) -> Tensor:
        """What a weight takes: a new branch or location counts for nothing, positions fit the window."""
        if old is None:
            return torch.zeros_like(own) if name.endswith(ENTRANCES) else own
        return resized(old, own.shape[-2:]) if name == POSITIONS else old


class Fusion(nn.Module):
    """Channels (N, B, H, W) -> (N, 64, H, W): what a branch per role finds, concatenated and convolved.

    Between, it is weighed by squeeze and excitation over all of it (Hu, Shen and Sun, 2018). Each branch
    holds the weights that meet its own part, so that another run's branches can be matched by role.
    """

    def __init__(self, roles: Sequence[str]) -> None:
        super().__init__()
        self.channels = {
            role: [i for i, r in enumerate(roles) if r == role] for role in dict.fromkeys(roles)
        }
        """Places of each branch's channels."""
        self.branches = nn.ModuleDict({role: Branch(len(places)) for role, places in self.channels.items()})
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        """Fuse."""
        branches = cast("list[Branch]", [*self.branches.values()])
        found = [
            branch.convolutions(image[:, places].contiguous(memory_format=torch.channels_last))
            for branch, places in zip(branches, self.channels.values(), strict=True)
        ]
        parts = [b.squeeze(f.mean(dim=(2, 3))) for b, f in zip(branches, found, strict=True)]
        squeezed = torch.stack(parts).sum(dim=0).relu()
        gates = [branch.excite(squeezed).sigmoid()[:, :, None, None] for branch in branches]
        fused = [b.fuse(f * gate) for b, f, gate in zip(branches, found, gates, strict=True)]
        return functional.leaky_relu(self.norm(reduce(torch.add, fused)))  # a stack is not channels_last


class Branch(nn.Module):
    """The layers of one role."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(
                nn.Conv2d(channels, BRANCH, 3, padding=1, bias=False),
                nn.BatchNorm2d(BRANCH),
                nn.LeakyReLU(),
            ),
            *(nn.Conv2d(BRANCH, BRANCH, 3, padding=1, bias=False), nn.BatchNorm2d(BRANCH), nn.LeakyReLU()),
        )
        self.squeeze, self.excite = nn.Linear(BRANCH, SQUEEZED), nn.Linear(SQUEEZED, BRANCH)
        self.fuse = nn.Conv2d(BRANCH, WIDTH, 1, bias=False)


class Location(nn.Module):
    """Longitude and latitude (N, 2), degrees -> (N, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, place: Tensor) -> Tensor:
        """Encode sine and cosine of both, in single precision: in half, neighbours are one place."""
        angles = torch.deg2rad(place)
        with torch.autocast(place.device.type, enabled=False):
            found: Tensor = self.layers(torch.cat((angles.sin(), angles.cos()), dim=1))
        return found


class Overview(nn.Module):
    """The first stage, (N, 64, H, W) -> the same: tokens, transformer blocks, the way back to pixels."""

    def __init__(self, side: int) -> None:
        """Make it; `side` is how many tokens a window has along a side."""
        super().__init__()
        self.embedding = nn.Conv2d(WIDTH, WIDTH, TOKEN, stride=TOKEN)
        self.positions = nn.Parameter(torch.empty(1, WIDTH, side, side))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.Sequential(
            *(
                Block(
                    WIDTH,
                    ATTENTION_HEADS,
                    mlp_ratio=MLP / WIDTH,
                    qkv_bias=True,
                    proj_drop=DROPOUT,
                    norm_layer=NORM,
                )
                for _ in range(BLOCKS)
            )
        )
        self.norm = NORM(WIDTH)
        steps = TOKEN.bit_length() - 1
        self.upsampling = nn.Sequential(*(layer for _ in range(steps) for layer in _doubled()))

    def forward(self, fused: Tensor) -> Tensor:
        """Look over the window."""
        grid = self.embedding(fused)
        grid = grid + resized(self.positions, grid.shape[-2:])
        tokens = self.norm(self.blocks(grid.flatten(2).transpose(1, 2)))
        back = tokens.transpose(1, 2).reshape(grid.shape).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.upsampling(back)
        return found


def resized(positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Learnt positions (1, 64, h, w) for another shape of the grid of tokens, by bicubic interpolation."""
    if positions.shape[-2:] == tuple(shape):
        return positions
    return functional.interpolate(positions, size=tuple(shape), mode="bicubic", align_corners=False)


def _doubled() -> list[nn.Module]:
    """Layers that double the sides."""
    convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
    doubling = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return [convolution, nn.BatchNorm2d(WIDTH), nn.ReLU(), doubling]


class Details(nn.Module):
    """The second stage, (N, 64, H, W) -> the same: a residual U-Net; sides are multiples of 8 px."""

    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH * 2**step for step in range(DOWN + 1)]
        self.begin = Residual(WIDTH, WIDTH)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(Residual(fine, coarse, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.join = nn.ModuleList(Residual(2 * fine, fine) for fine, _ in pairs)

    def forward(self, image: Tensor) -> Tensor:
        """Look at details."""
        levels = [self.begin(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        found: Tensor = levels.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            found = join(torch.cat((up(found), levels.pop()), dim=1))
        return found


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which projects where shapes differ (He et al., 2016)."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, image: Tensor) -> Tensor:
        """Add both."""
        return functional.leaky_relu(self.convolutions(image) + self.shortcut(image))
