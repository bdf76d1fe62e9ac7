"""A training loop of your own: `python examples/plain_pytorch.py STORE [EPOCHS]`; again, it goes on."""

import sys
from collections.abc import Iterable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import cross_entropy

import glacier

CHECKPOINT = Path("plain.pt")


def main(path: str, epochs: str = "2") -> None:
    """Train a U-Net on a store's fold 0, and validate each epoch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = glacier.open(path)
    names = store.meta.class_names
    train = glacier.loader(store, batch=8, patch=64, samples_per_epoch=200, device=device)
    val = glacier.tiles(store, batch=4, device=device)

    net = smp.Unet("resnet18", encoder_weights=None, in_channels=len(store.meta.bands), classes=len(names))
    net = net.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, map_location=device, weights_only=True)
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        train.load_state_dict(saved["train"])

    while train.epoch < int(epochs):
        net.train()
        for image, label, _ in train:
            loss = cross_entropy(net(image), label.long(), ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        states = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "train": train.state_dict()}
        torch.save(states, CHECKPOINT)
        print(f"epoch {train.epoch}: {score(net, val, len(names)):.3f} of the held-out pixels are right")


@torch.inference_mode()
def score(net: torch.nn.Module, tiles: Iterable, classes: int) -> float:
    """Share of the labelled pixels of `tiles` that get their own class."""
    net.eval()
    right = count = 0
    for image, label, _ in tiles:
        labelled = label < classes
        right += int((net(image).argmax(dim=1) == label)[labelled].sum())
        count += int(labelled.sum())
    return right / count


if __name__ == "__main__":
    main(*sys.argv[1:])
