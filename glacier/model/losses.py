"""Losses as functions of sums over pixels, so that ranks can add their sums before the function."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from glacier.classes import IGNORE

Reduce = Callable[[Tensor], Tensor]
"""Sums of this rank -> sums over all ranks, through which this rank's gradient still flows."""


def soft_counts(logits: Tensor, label: Tensor) -> Tensor:
    """All that cross-entropy and Dice need to know of a batch, as sums over its labelled pixels.

    Args:
        logits: class scores (N, C, H, W).
        label: class indices (N, H, W), 255 to be ignored.

    Returns:
        float64 (3, C): overlap Σ p·t, prediction Σ p, truth Σ t per class, then (2,): summed
        cross-entropy and number of pixels; all in one vector (3 C + 2,).
    """
    classes = logits.shape[1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = label.long()
    labelled = target != IGNORE
    entropy = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    share = logits.softmax(dim=1) * labelled[:, None]
    one_hot = functional.one_hot(target.where(labelled, 0), classes).permute(0, 3, 1, 2)
    one_hot = one_hot * labelled[:, None]
    per_image = [
        (share * one_hot).sum(dim=(2, 3)),
        share.sum(dim=(2, 3)),
        one_hot.sum(dim=(2, 3), dtype=torch.float32),
        entropy.sum(dim=(1, 2))[:, None],
        labelled.sum(dim=(1, 2), dtype=torch.float32)[:, None],
    ]
    return torch.cat(per_image, dim=1).double().sum(dim=0)


def cross_entropy_dice(sums: Tensor) -> Tensor:
    """Mean of cross-entropy per labelled pixel and soft Dice loss, from `soft_counts`' (3 C + 2,).

    Dice (Milletari, Navab and Ahmadi, 2016) is averaged over the classes that occur. A batch without
    a labelled pixel has loss 0.
    """
    entropy, pixels = sums[-2], sums[-1]
    overlap, predicted, truth = sums[:-2].reshape(3, -1)
    occurs = (truth > 0).double()
    dice = 1 - (2 * overlap + 1) / (predicted + truth + 1)
    mean_dice = (dice * occurs).sum() / occurs.sum().clamp(min=1)
    loss: Tensor = 0.5 * entropy / pixels.clamp(min=1) + 0.5 * mean_dice
    return loss
