"""What networks cost: weights, multiply-adds, memory for training, and speed, side by side.

    python -m benchmarks.models                  speed at windows of 128 px; memory at 512, 384 and 256
    python -m benchmarks.models --size 256 --batch 4 --precision bfloat16 --json FILE

Seven bands (four optical, thermal, two textures) and four classes, weights at random, on a CPU.

Multiply-adds are half the operations that PyTorch's FlopCounterMode finds in a forward pass as maps make
it: of convolutions, linear layers and attention. The last it overlooks on a CPU, unless it is written out
as products of matrices.

Memory is what network and loss keep for the backward pass: distinct storages under bfloat16 autocast. Two
windows less one make a window; what is left of the one is kept by any step (weights in half precision).
Besides, each weight has 20 bytes in float32: itself, gradient, AdamW's two moments, moving average. What
fits a T4 follows by arithmetic; no GPU was asked.

Speed: the networks take turns, medians of `--rounds`. A step of training is forward, the loss of all heads,
backward and AdamW.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.host import machine
from glacier.config import LossConfig, ModelConfig
from glacier.model.losses import CombinedLoss
from glacier.model.networks import network
from glacier.train.precision import mixed

ROLES = ["optical"] * 4 + ["thermal"] + ["texture"] * 2
CLASSES = ("background", "glacier", "debris", "lake")
NETWORKS = {
    "resnet18": ModelConfig(arch="unet", encoder="resnet18"),
    "resnet34": ModelConfig(arch="unet", encoder="resnet34"),
    "glavitu": ModelConfig(arch="glavitu"),
    "located": ModelConfig(arch="glavitu", location=True),
}
REFERENCE = "resnet34"
PARTS = {
    "fusion": ("fusion", "location"),
    "stage 1, transformer": ("overview.embedding", "overview.blocks"),
    "stage 1, upsampling": ("overview.upsampling",),
    "stage 2": ("details",),
    "head": ("segmentation_head",),
}
"""Parts of GlaViTU and their modules."""
WINDOW = 512
"""Side that multiply-adds are counted at, px."""
BATCH = 24
"""Windows of a device in pretraining: half of 48."""
STATES = 20
"""Bytes per weight: four, and as many for gradient, two moments and average."""
T4, USED = 15 * 2**30, 0.8
"""Memory of a T4, bytes, and the share to plan with: the rest is for CUDA, workspaces and gradients of
activations, which nobody has measured."""
CPU = torch.device("cpu")


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of distinct storages that are kept for a backward pass, but those of `known`."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.storages = storages = dict[int, torch.UntypedStorage]()
        """By address; held, so that no address comes twice."""

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage
            return tensor.detach()  # itself, it would hold its own history for ever

        super().__init__(note, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(storage.nbytes() for storage in self.storages.values())


@dataclass(frozen=True, slots=True)
class Job:
    """A network and windows to show it."""

    net: nn.Module
    shown: tuple[Tensor, ...]
    """Image, and places for a network that is told them."""
    label: Tensor
    precision: str

    @classmethod
    def make(cls, net: nn.Module, windows: int, size: int, precision: str) -> "Job":
        """Noise."""
        image = torch.randn(windows, len(ROLES), size, size).to(memory_format=torch.channels_last)
        place = [torch.rand(windows, 2)] if getattr(net, "location", None) else []
        label = torch.randint(len(CLASSES), (windows, size, size), dtype=torch.uint8)
        return cls(net, (image, *place), label, precision)

    def scores(self) -> Any:
        """Forward."""
        with mixed(CPU, self.precision):
            return self.net(*self.shown)

    def loss(self) -> Tensor:
        """Forward, and the loss of all heads as in training."""
        settings = LossConfig()
        combined = CombinedLoss(settings.terms, CLASSES)
        found = self.scores()
        heads = found if isinstance(found, tuple) else (found,)
        target = combined.target(self.label)
        weight = combined.weight(target)
        first, *others = (
            combined.combine(combined.terms(combined.sums(head, target), weight), epoch=0) for head in heads
        )
        return first + settings.auxiliary * sum(others)


def make(settings: ModelConfig, window: int = WINDOW) -> nn.Module:
    """A network as training on windows of a side, px, makes it."""
    net = network(settings, roles=ROLES, classes=len(CLASSES), window=window)
    return net.to(memory_format=torch.channels_last)


def weights_of(net: nn.Module) -> int:
    """How many are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def half_bytes(net: nn.Module) -> int:
    """Bytes of all that is kept of a network, numbers with a point in half precision."""
    return sum(v.numel() * (2 if v.is_floating_point() else v.itemsize) for v in net.state_dict().values())


def multiply_adds(net: nn.Module, size: int) -> dict[str, int]:
    """Of one window's forward pass, by module's name; '' is the whole."""
    job = Job.make(net.eval(), 1, size, "float32")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        job.scores()
    root = type(net).__name__
    counts = counter.get_flop_counts()
    return {
        name.removeprefix(root).removeprefix("."): sum(found.values()) // 2
        for name, found in counts.items()
        if name.startswith(root)
    }


def activations(net: nn.Module, size: int) -> tuple[int, int]:
    """Bytes kept for the backward pass by a window, and by a step besides."""
    one, two = (_kept(Job.make(net.train(), windows, size, "bfloat16")) for windows in (1, 2))
    return two - one, 2 * one - two


def _kept(job: Job) -> int:
    kept = Kept(job.net.parameters())
    with kept:
        job.loss()
    return kept.bytes


def memory(net: nn.Module, size: int) -> dict[str, int]:
    """Bytes of training windows of a size, and how many of them fit a T4, by arithmetic."""
    window, step = activations(net, size)
    fixed = step + STATES * weights_of(net)
    return {
        "window": window,
        "fixed": fixed,
        "batch": fixed + BATCH * window,
        "fit": max(0, int((USED * T4 - fixed) // window)),
    }


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def forward(job: Job) -> Callable[[], object]:
    """What a map asks of it."""

    def step() -> None:
        job.net.eval()
        with torch.inference_mode():
            job.scores()

    return step


def training(job: Job) -> Callable[[], object]:
    """What a training asks of it."""
    optimiser = torch.optim.AdamW(job.net.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        job.net.train()
        optimiser.zero_grad(set_to_none=True)
        job.loss().backward()
        optimiser.step()

    return step


def speeds(jobs: dict[str, Job], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Windows per second of each network, forward and in training; the first turn does not count."""
    steps = {name: {"forward": forward(job), "training": training(job)} for name, job in jobs.items()}
    taken: dict[str, dict[str, list[float]]] = {
        name: {way: [] for way in ways} for name, ways in steps.items()
    }
    for _ in range(rounds + 1):
        for name, ways in steps.items():
            for way, step in ways.items():
                with _timed(taken[name][way]):
                    step()
    return {
        name: {way: _speed(len(jobs[name].label), seconds[1:]) for way, seconds in ways.items()}
        for name, ways in taken.items()
    }


def _speed(windows: int, seconds: list[float]) -> dict[str, float]:
    found = [windows / second for second in seconds]
    return {"tiles_per_s": float(np.median(found)), "min": min(found), "max": max(found)}


def counted(net: nn.Module, sizes: Iterable[int]) -> dict[str, Any]:
    """What does not depend on the machine."""
    adds = multiply_adds(net, WINDOW)
    parts = {part: sum(adds.get(name, 0) for name in names) for part, names in PARTS.items()}
    return {
        "weights": weights_of(net),
        "half_bytes": half_bytes(net),
        "multiply_adds": adds[""],
        "parts": parts if adds.get("details") else {},
        "memory": {str(size): memory(net, size) for size in sizes},
    }


def rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """The table: what was counted or measured, and of each network how much."""
    every = [*found.values()]
    yield "weights, millions", [f"{n['weights'] / 1e6:.2f}" for n in every]
    yield "as halves, MB", [f"{n['half_bytes'] / 1e6:.1f}" for n in every]
    yield f"10⁹ multiply-adds, {WINDOW} px", [f"{n['multiply_adds'] / 1e9:.1f}" for n in every]
    for part in PARTS:
        yield f"  {part}", [f"{n['parts'][part] / 1e9:.2f}" if n["parts"] else "" for n in every]
    for size in every[0]["memory"]:
        kept = [n["memory"][size] for n in every]
        yield f"MiB kept of {size} px", [f"{m['window'] / 2**20:,.0f}" for m in kept]
        yield f"  GiB to train {BATCH}", [f"{m['batch'] / 2**30:.1f}" for m in kept]
        yield "  fit a T4 (arithmetic)", [f"{m['fit']}" for m in kept]
    yield "  MiB besides windows", [f"{m['fixed'] / 2**20:,.0f}" for m in kept]
    for way in ("forward", "training"):
        fast = [n["speed"][way] for n in every]
        usual = found[REFERENCE]["speed"][way]["tiles_per_s"]
        yield f"{way}, tiles/s", [f"{s['tiles_per_s']:.2f}" for s in fast]
        for end in ("min", "max"):
            yield f"  {end}", [f"{s[end]:.2f}" for s in fast]
        yield f"  times {REFERENCE}'s", [f"{s['tiles_per_s'] / usual:.3f}" for s in fast]


@click.command()
@click.option(
    "--size", type=click.IntRange(32), default=128, show_default=True, help="Windows for speed, px."
)
@click.option(
    "--batch", type=click.IntRange(2), default=4, show_default=True, help="Windows of a step, for speed."
)
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--sizes", default="512,384,256", show_default=True, help="Windows for memory, px.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(size: int, batch: int, precision: str, rounds: int, sizes: str, target: Path | None) -> None:
    """Count and measure networks."""
    console = Console()
    asked = [*map(int, sizes.split(","))]
    found = {name: counted(make(settings), asked) for name, settings in NETWORKS.items()}
    jobs = {
        name: Job.make(make(settings, size), batch, size, precision) for name, settings in NETWORKS.items()
    }
    for name, speed in speeds(jobs, rounds).items():
        found[name]["speed"] = speed
    title = f"speed: {batch} windows of {size} px a step, {precision}"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for head in ("", *found):
        table.add_column(head, justify="right" if head else "left")
    for what, values in rows(found):
        table.add_row(what, *values)
    console.print(table)
    here = machine(("torch", "timm", "segmentation_models_pytorch"))
    console.print(", ".join(f"{k} {v}" for k, v in here.items()), style="dim")
    if target:
        settings = {"size": size, "batch": batch, "precision": precision, "rounds": rounds}
        target.write_text(json.dumps({"machine": here, **settings, "networks": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
