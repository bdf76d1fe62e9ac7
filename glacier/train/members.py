"""Several runs as one: the bands they need between them, and the mean of what they say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from glacier.classes import Class
from glacier.errors import GlacierError, UsageError
from glacier.pipeline.inputs import Inputs, places_or_none
from glacier.store.bands import Band, Statistics
from glacier.train.ensemble import Ensemble
from glacier.train.segmenter import Trained

Weighting = Literal["equal", "mcc"]
"""What runs count: all the same, or in proportion to their MCC on the validation fold."""
FAR, SPREAD, BEYOND = 10, 30, 1000
"""A scene's mean may be so many deviations off that in training, its deviation so many times that, and no
pixel so many deviations off."""


@dataclass(frozen=True, slots=True)
class Members:
    """Runs that are asked together."""

    runs: tuple[Trained, ...]
    bands: tuple[Band, ...]
    """All they need: physical values in float32, NaN where there is no data."""
    size: int
    """Side of the windows they see, px."""
    weights: tuple[float, ...]
    """What each counts."""

    @property
    def classes(self) -> tuple[Class, ...]:
        """By index."""
        return self.runs[0].classes

    @property
    def located(self) -> bool:
        """Whether one is told where on the earth windows lie."""
        return any(run.config.model.location for run in self.runs)

    @property
    def selection(self) -> dict[str, tuple[str, ...]]:
        """The bands to be found in a source, by name or by a code they had in training."""
        codes = {
            name: [b.code for run in self.runs for b in run.bands if b.name == name] for name in self._names
        }
        return {name: (name, *dict.fromkeys(found)) for name, found in codes.items()}

    @property
    def _names(self) -> list[str]:
        return [band.name for band in self.bands]

    def ensemble(self, *, tta: bool) -> Ensemble:
        """Values (N, B, H, W) -> shares of the classes (N, C, H, W)."""
        members = []
        for run in self.runs:
            places = [self._names.index(band.name) for band in run.bands]
            bands = [self.bands[place] for place in places]
            inputs = Inputs(bands, run.statistics, places_or_none(places, len(self.bands)))
            members.append(run.segmenter(inputs))
        return Ensemble(members, tta=tta, weights=self.weights).eval()

    def unlike(
        self, band: str, mean: float, std: float, lowest: float, highest: float
    ) -> Statistics | None:
        """What a band was like in training, if its valid pixels in a scene are far from that."""
        for run in self.runs:
            for known, was in zip(run.bands, run.statistics, strict=True):
                far = abs(mean - was.mean) > FAR * was.std
                spread = std > SPREAD * was.std or 0 < std < was.std / SPREAD
                beyond = max(highest - was.mean, was.mean - lowest) > BEYOND * was.std
                if known.name == band and (far or spread or beyond):
                    return was
        return None

    def digest(self) -> str:
        """What tells these runs, and what each counts, from others."""
        found = sha256(repr(self.weights).encode())
        for run in self.runs:
            found.update(repr(run.about()).encode())
            for name, value in run.weights.items():
                found.update(name.encode() + value.cpu().numpy().tobytes())
        return found.hexdigest()[:16]


def weights_of(runs: Sequence[Trained], weighting: Weighting) -> tuple[float, ...]:
    """What each run counts (R,), 1 in sum; by MCC, one whose MCC is below 0 counts nothing.

    Raises:
        UsageError: no run has an MCC above 0.
    """
    counts = [max(0.0, run.mcc) if weighting == "mcc" else 1.0 for run in runs]
    if not any(counts):
        found = ", ".join(f"{run.mcc:.3f}" for run in runs)
        raise UsageError(
            f"--weights mcc: validation gave the runs an MCC of {found}, expected one above 0; train for "
            "longer, or give --weights equal"
        )
    return tuple(count / sum(counts) for count in counts)


def counted(runs: Sequence[Trained], weighting: Weighting) -> tuple[list[Trained], list[float]]:
    """The runs that count, and what each of them does; others need not be asked.

    Raises:
        UsageError: none does.
    """
    both = [pair for pair in zip(runs, weights_of(runs, weighting), strict=True) if pair[1]]
    return [run for run, _ in both], [weight for _, weight in both]


def gather(runs: Sequence[Trained], window: int = 0, weighting: Weighting = "equal") -> Members:
    """Runs of the same classes, but those that count nothing.

    Args:
        runs: any bands, wherever they lie.
        window: side of the windows they see, px; 0 for that of the tiles they were validated on, or the
            largest of those.
        weighting: what each counts.

    Raises:
        GlacierError: they have different classes.
        UsageError: `window` is no multiple of 32, or no run counts.
    """
    if window % 32:
        raise UsageError(
            f"--window {window}: expected a multiple of 32 px, since networks halve it five times"
        )
    first = runs[0].classes
    for run in runs[1:]:
        if [(c.name, c.value) for c in run.classes] != [(c.name, c.value) for c in first]:
            raise GlacierError(
                f"runs of different classes, {', '.join(run.class_names)} and "
                f"{', '.join(runs[0].class_names)}; expected runs of the same"
            )
    runs, weights = counted(runs, weighting)
    needed = {band.name: band for run in runs for band in run.bands}
    physical = (
        replace(band, dtype="float32", scale=1.0, offset=0.0, nodata=math.nan, bound=0.0, statistics=None)
        for band in needed.values()
    )
    size = window or max(run.tile_size for run in runs)
    return Members(tuple(runs), tuple(physical), size, tuple(weights))
