"""What a competition takes: one file of code that needs nothing of this package, and one of weights."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glacier.errors import GlacierError
from glacier.maps.flatten import flattened
from glacier.train.members import gather
from glacier.train.portable import packed
from glacier.train.segmenter import Trained
from glacier.version import __version__

LIMIT = 300e6
"""Bytes of weights that the competition takes."""


def write_submission(runs: Sequence[Trained], out: Path, *, tta: bool) -> int:
    """Write `solution.py` and `model.pth` into the new folder `out`, whole or not at all.

    Args:
        runs: several are one ensemble.
        out: does not exist, or is empty.
        tta: whether the solution takes the mean over the eight symmetries of squares.

    Returns:
        Bytes of weights.

    Raises:
        GlacierError: `out` is there, runs that differ in classes, whose classes do not fit into a mask
            or whose bands are in no folder of the competition, or too many weights.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GlacierError(f"{out}: exists and is not empty; give a new folder for the submission")
    record = _record(runs, tta)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / "solution.py").write_text(flattened("glacier.maps.solution"), encoding="utf-8")
        torch.save(record, partial / "model.pth")
        size = (partial / "model.pth").stat().st_size
        if size >= LIMIT:
            raise GlacierError(
                f"{out}: {size / 1e6:.0f} MB of weights, expected less than {LIMIT / 1e6:.0f}; give fewer "
                "runs, or train a smaller model.encoder"
            )
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def _record(runs: Sequence[Trained], tta: bool) -> dict[str, Any]:
    """What `model.pth` holds: plain values and tensors."""
    members = gather(runs)
    for c in members.classes:
        if not 0 <= c.value <= 255:
            raise GlacierError(f"class {c.name}: value {c.value}, expected 0 to 255, as masks hold")
    for band in members.bands:
        if band.role in ("texture", "terrain"):
            raise GlacierError(
                f"band {band.name}: {band.role}, expected bands that lie in Band1, Band2, …; train without "
                "it, by --set data.bands"
            )
    names = [c.name for c in members.classes]
    single = sum(value.numel() * 4 for run in runs for value in run.weights.values())
    return {
        "made_by": f"glacier {__version__}",
        "tta": tta,
        "size": members.size,
        "values": [c.value for c in members.classes],
        "fill": names.index("background") if "background" in names else 0,
        "bands": dict(members.selection),
        "members": [packed(run, half=single > 0.95 * LIMIT) for run in runs],
    }
