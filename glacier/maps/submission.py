"""What a competition takes: one file of code that needs nothing of this package, and one of weights."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glacier.errors import GlacierError
from glacier.lock import locked
from glacier.maps.flatten import flattened
from glacier.train.members import Members, Weighting, gather
from glacier.train.portable import packed
from glacier.train.segmenter import Trained, write_whole
from glacier.version import __version__

LIMIT = 300e6
"""Bytes of weights that the competition takes."""
FOLDERS = (
    ("Band1", "B2", "blue"),
    ("Band2", "B3", "green"),
    ("Band3", "B4", "red"),
    ("Band4", "B6", "swir1"),
    ("Band5", "B10", "thermal"),
)
"""What the competition's folders hold: where file names do not say it, a folder's name does."""


def write_submission(runs: Sequence[Trained], out: Path, *, tta: bool, weights: Weighting = "equal") -> int:
    """Write `solution.py` and `model.pth` into the new folder `out`, whole or not at all.

    Args:
        runs: several are one ensemble.
        out: does not exist, or is empty.
        tta: whether the solution takes the mean over the eight symmetries of squares.
        weights: what each run counts.

    Returns:
        Bytes of weights.

    Raises:
        GlacierError: `out` is there, runs that differ in classes, whose classes do not fit into a mask
            or whose bands are in no folder of the competition, runs that are told where windows lie, or
            too many weights.
        UsageError: by `weights` no run counts.
    """
    members = gather(runs, weighting=weights)
    if members.located:
        raise GlacierError(
            "model.location: a run is told where windows lie, which a solution cannot read from tiles; "
            "expected runs trained without it"
        )
    with locked(out):
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            what = "is a link" if out.is_symlink() else "exists and is not empty"
            raise GlacierError(f"{out}: {what}; give a new folder for the submission")
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            (partial / "solution.py").write_text(flattened("glacier.maps.solution"), encoding="utf-8")
            size = _write_weights(members, partial / "model.pth", tta)
            if size >= LIMIT:
                raise GlacierError(
                    f"{out}: {size / 1e6:.0f} MB of weights, expected less than {LIMIT / 1e6:.0f}; give "
                    "fewer runs, or train a smaller model.encoder"
                )
            os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return size


def _write_weights(members: Members, path: Path, tta: bool) -> int:
    """As they are, or where that is too much in half precision; bytes."""
    for half in (False, True):
        write_whole(_record(members, tta, half), path)
        size = path.stat().st_size
        if size < LIMIT:
            break
    return size


def _record(members: Members, tta: bool, half: bool) -> dict[str, Any]:
    """What `model.pth` holds: plain values and tensors."""
    for c in members.classes:
        if not 0 <= c.value <= 255:
            raise GlacierError(f"class {c.name}: value {c.value}, expected 0 to 255, as masks hold")
    names = [c.name for c in members.classes]
    return {
        "made_by": f"glacier {__version__}",
        "tta": tta,
        "size": members.size,
        "values": [c.value for c in members.classes],
        "fill": names.index("background") if "background" in names else 0,
        "bands": {
            band.name: _sought(band.name, band.role, members.selection[band.name]) for band in members.bands
        },
        "weights": list(members.weights),
        "members": [packed(run, half=half) for run in members.runs],
    }


def _sought(name: str, role: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """What files may call a band: its name, or its folder, or what that folder holds.

    Codes of training do not tell what a band measures, since B2 is green on Landsat 7, but for bands whose
    names do not tell it either.
    """
    known = keys if role == "other" else (name,)
    alike = [also for folder in FOLDERS if set(known) & set(folder) for also in folder]
    if not alike:
        names = ", ".join(called for _, _, called in FOLDERS)
        raise GlacierError(
            f"band {name}: in none of the competition's folders Band1 … Band5, which hold {names}; "
            "train without it, by --set data.bands"
        )
    return tuple(dict.fromkeys((*known, *alike)))
