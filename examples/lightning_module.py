"""Training with Lightning: `python examples/lightning_module.py STORE [EPOCHS [CHECKPOINT]]`."""

import sys
from typing import Any

import lightning
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import glacier


class Tiles(lightning.LightningDataModule):
    """A store's fold 0: windows to train on, whole tiles to validate with, both on the trainer's device.

    Lightning takes the loaders as they are: no sampler to replace, nothing to move, and where training
    stands goes into its checkpoints.
    """

    def __init__(self, path: str, batch: int = 8, samples: int = 100) -> None:
        super().__init__()
        self.store = glacier.open(path)
        self.batch, self.samples = batch, samples

    def train_dataloader(self) -> Any:
        """A rank's share of each batch; `batch` and `samples` count all ranks'."""
        return glacier.loader(
            self.store, batch=self.batch, patch=64, samples_per_epoch=self.samples, **self._where()
        )

    def val_dataloader(self) -> Any:
        """A rank's share of the tiles."""
        return glacier.tiles(self.store, batch=4, **self._where())

    def _where(self) -> dict[str, Any]:
        trainer = self.trainer
        device = trainer.strategy.root_device
        return {"rank": trainer.global_rank, "world": trainer.world_size, "device": device}


class Glaciers(lightning.LightningModule):
    """A U-Net that tells a store's classes apart."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        net = smp.Unet("resnet18", encoder_weights=None, in_channels=bands, classes=classes)
        self.net = net.to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, _: int) -> Tensor:
        """The loss of a batch."""
        return self._loss("train", batch)

    def validation_step(self, batch: Any, _: int) -> None:
        """Log the loss over the held-out tiles."""
        self._loss("val", batch)

    def _loss(self, name: str, batch: Any) -> Tensor:
        loss = cross_entropy(self.net(batch.image), batch.label.long(), ignore_index=255)
        self.log(f"{name}_loss", loss, prog_bar=True, batch_size=len(batch.label), sync_dist=name == "val")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(path: str, epochs: str = "2", checkpoint: str | None = None) -> None:
    """Train; go on from a checkpoint, if one is given."""
    tiles = Tiles(path)
    meta = tiles.store.meta
    trainer = lightning.Trainer(max_epochs=int(epochs), log_every_n_steps=1)
    trainer.fit(Glaciers(len(meta.bands), len(meta.classes)), tiles, ckpt_path=checkpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
