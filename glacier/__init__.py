"""glacier: from GeoTIFF bands to glacier maps.

import glacier

store = glacier.open("hkh.zarr")
for batch in glacier.loader(store, batch=8):
    train_on(batch.image, batch.label)
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glacier.version import __version__

if TYPE_CHECKING:
    import torch

    from glacier.pipeline.augment import Augment
    from glacier.pipeline.loader import Loader
    from glacier.pipeline.whole_tiles import WholeTiles
    from glacier.store.reader import Store

__all__ = ["__version__", "loader", "open", "tiles"]


def open(path: Path | str) -> "Store":
    """Open a complete store for reading.

    Raises:
        GlacierError: no store there, or an incomplete one.
    """
    from glacier.store.reader import Store

    return Store(path)


def loader(
    store: "Store",
    *,
    batch: int,
    patch: int = 0,
    fold: int = 0,
    split: str = "train",
    augment: "str | Augment" = "d4",
    target: Mapping[str, float] | None = None,
    repeats: float = 8.0,
    min_labelled: float = 0.05,
    seed: int = 0,
    samples_per_epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    device: "torch.device | str" = "cpu",
    on_batch: Callable[..., Any] | None = None,
) -> "Loader":
    """Batches for a training loop of your own: standardised images and labels, on `device`.

    Iterate it once per epoch; a loop that is left early has had its epoch. Each batch is a tuple of `image`
    (N, B, H, W) float32 channels_last, `label` (N, H, W) uint8 with 255 to be ignored, and `samples`, where
    each window came from. `state_dict` and `load_state_dict` let another run go on from any step, on any
    number of ranks.

    Args:
        store: an opened store.
        batch: samples per step, over all ranks.
        patch: side of the windows, px, a multiple of 32; 0 for whole tiles.
        fold: the fold held out.
        split: train, val or all.
        augment: none, d4 or affine; or `glacier.pipeline.augment.Augment`, which says how far it goes.
        target: class -> share of the pixels you want to see, as in {"background": 0.6, "lake": 0.4},
            of every class there is; None: all windows are equally likely.
        repeats: how often a window may come in an epoch, at most, for the sake of the target.
        min_labelled: share of a window's area that must be labelled.
        seed: of order and augmentation.
        samples_per_epoch: over all ranks; 0 for as many windows as cover the tiles once.
        rank: this process.
        world: how many processes share each batch.
        device: cpu, cuda or cuda:N.
        on_batch: called with each batch; what it returns is yielded in the batch's place.

    Raises:
        UsageError: an argument that does not fit.
        GlacierError: nothing to train on.
    """
    from glacier.pipeline.augment import Augment
    from glacier.pipeline.inputs import Inputs
    from glacier.pipeline.loader import Loader
    from glacier.pipeline.plan import Balance
    from glacier.pipeline.split import split as split_tiles
    from glacier.pipeline.split import statistics

    parts = split_tiles(store, fold)
    return Loader(
        store,
        tiles=parts.tiles(split),
        patch=patch or store.meta.tile_size,
        batch=batch,
        augment=augment if isinstance(augment, Augment) else Augment(augment),  # type: ignore[arg-type]
        balance=Balance(dict(target or {}), repeats=repeats, min_labelled=min_labelled),
        seed=seed,
        samples_per_epoch=samples_per_epoch,
        rank=rank,
        world=world,
        device=device,
        inputs=Inputs(store.meta.bands, statistics(store, parts.train)),
        on_batch=on_batch,
    )


def tiles(
    store: "Store",
    *,
    batch: int,
    fold: int = 0,
    split: str = "val",
    rank: int = 0,
    world: int = 1,
    device: "torch.device | str" = "cpu",
    on_batch: Callable[..., Any] | None = None,
) -> "WholeTiles":
    """Whole tiles, each once, in order and as they are: to validate what `loader` trains.

    Iterate it as often as you like. Batches are as `loader`'s, standardised by the statistics of the same
    training tiles; the last is smaller where tiles run out.

    Args:
        store: an opened store.
        batch: tiles per step, of this rank.
        fold: the fold held out.
        split: train, val, test or all.
        rank: this process.
        world: how many processes share the tiles: each takes every `world`-th.
        device: cpu, cuda or cuda:N.
        on_batch: called with each batch; what it returns is yielded in the batch's place.

    Raises:
        UsageError: an argument that does not fit.
    """
    from glacier.pipeline.inputs import Inputs
    from glacier.pipeline.split import split as split_tiles
    from glacier.pipeline.split import statistics
    from glacier.pipeline.whole_tiles import WholeTiles

    parts = split_tiles(store, fold)
    return WholeTiles(
        store,
        tiles=parts.tiles(split),
        batch=batch,
        rank=rank,
        world=world,
        device=device,
        inputs=Inputs(store.meta.bands, statistics(store, parts.train)),
        on_batch=on_batch,
    )
