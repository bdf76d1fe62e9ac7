"""What balancing would make of a store: as a table, as JSON, and as a sheet of windows it would draw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glacier.errors import UsageError
from glacier.inspect import many
from glacier.pictures import class_colours, enlarged, mix_bars, sheet
from glacier.pipeline.augment import D4
from glacier.pipeline.order import epoch_order
from glacier.pipeline.plan import Balance, Plan, make_plan, resolve_target
from glacier.pipeline.windows import candidates
from glacier.store.look import tile_picture
from glacier.store.reader import Store

SHOWN, SIDE = 16, 176
"""Windows on the sheet, in two rows of pairs, and their side there, px."""
USUAL = 256
"""px"""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A target held against a store."""

    store: Store
    balance: Balance
    samples: int
    """Drawn per epoch."""
    plan: Plan
    free: Plan
    """The same without a cap on repeats."""

    @property
    def target(self) -> NDArray[np.float64]:
        """Share asked for by class, of those that there are (class,)."""
        return resolve_target(self.balance.target, self.store.meta.class_names, self.plan.natural)[0]

    @property
    def repeats(self) -> float:
        """How often the window of the largest weight comes in an epoch, in expectation."""
        return self.plan.most * self.samples

    def to_json(self) -> dict[str, Any]:
        """The value of `plan`; scripts may rely on its keys."""
        names = self.store.meta.class_names
        columns = {
            "target": self.target,
            "source": self.plan.natural,
            "reached": self.plan.reached,
            "reached_without_cap": self.free.reached,
        }
        shares = {key: dict(zip(names, map(float, mix), strict=True)) for key, mix in columns.items()}
        return shares | {
            "patch": self.plan.windows.patch,
            "samples": self.samples,
            "windows": self.plan.count,
            "effective_windows": self.plan.effective,
            "most_repeated": self.repeats,
            "cap": self.balance.repeats,
        }

    def table(self) -> Table:
        """For the terminal."""
        patch = self.plan.windows.patch
        table = Table(
            title=f"windows of {patch} px, {many(self.samples, 'sample')} an epoch",
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        for head in ("class", "source", "target", "reached", "without cap"):
            table.add_column(head, justify="left" if head == "class" else "right", no_wrap=True)
        mixes = (self.plan.natural, self.target, self.plan.reached, self.free.reached)
        for cls, *row in zip(self.store.meta.classes, *mixes, strict=True):
            shares = (f"{100 * share:.2f} %" for share in row)
            table.add_row(f"[{cls.colour}]■[/] {escape(cls.name)}", *shares)
        table.caption = (
            f"{self.plan.count:,} windows; {self.plan.effective:,.0f} effective, the most repeated comes "
            f"{self.repeats:.1f} times an epoch\nwithout a cap of {self.balance.repeats:g}: "
            f"{self.free.effective:,.0f} effective, {self.free.most * self.samples:,.1f} times"
        )
        return table

    def picture(self, path: Path) -> None:
        """Draw the mixes as bars over windows as an epoch would draw them, spread evenly."""
        meta, patch = self.store.meta, self.plan.windows.patch
        rows: list[list[NDArray[np.uint8]]] = []
        for start, sample in enumerate(epoch_order(self.plan, 0, 0, SHOWN)):
            y, x, tile = (int(sample[name]) for name in ("y", "x", "tile"))
            cut = (slice(y, y + patch), slice(x, x + patch))
            image = tile_picture(self.store, tile)[cut]
            label = class_colours(self.store.label(tile)[cut], meta.classes)
            if start % (SHOWN // 2) == 0:
                rows += [[], []]
            rows[-2].append(enlarged(image, SIDE))
            rows[-1].append(enlarged(label, SIDE))
        bars = {"source": self.plan.natural, "target": self.target, "reached": self.plan.reached}
        sheet(
            path,
            rows,
            title=f"{self.store.name}  ·  balanced windows of {patch} px",
            lines=[
                f"{self.plan.count:,} windows, {self.plan.effective:,.0f} effective; the most repeated "
                f"comes {self.repeats:.1f} times in an epoch of {many(self.samples, 'sample')}",
                "below: windows as an epoch draws them, over their labels",
            ],
            legend=[(cls, "") for cls in meta.classes],
            banner=mix_bars(bars, meta.classes, SHOWN // 2 * (SIDE + 6) - 6),
        )


def look_ahead(
    store: Store, target: Mapping[str, float], *, patch: int, repeats: float, samples: int
) -> Outlook:
    """What a target makes of all tiles of a store.

    Args:
        store: it.
        target: class -> share.
        patch: side of the windows, px; 0 for 256, or the tile's side if that is less.
        repeats: how often a window may come in an epoch.
        samples: per epoch; 0 for as many windows as cover the tiles once.

    Raises:
        UsageError: a target or patch that does not fit the store.
    """
    balance = Balance(target, repeats)
    patch = patch or min(USUAL, store.meta.tile_size)
    windows = candidates(store.histogram, np.arange(len(store)), patch, D4, balance.min_labelled)
    samples = samples or windows.covering
    names = store.meta.class_names
    plan = make_plan(windows, names, balance, samples)
    free = make_plan(windows, names, replace(balance, repeats=float(samples)), samples)
    return Outlook(store, balance, samples, plan, free)


def parse_target(text: str) -> dict[str, float]:
    """`background=0.1,glacier=0.35` -> shares by class.

    Raises:
        UsageError: an item that is not CLASS=SHARE.
    """
    target = {}
    for item in text.split(","):
        name, equals, share = (part.strip() for part in item.partition("="))
        known = name in target
        try:
            target[name] = float(share)
        except ValueError:
            equals = ""
        if known or not (equals and name):
            raise UsageError(
                f"--target: {item!r} is not CLASS=SHARE with a new class, expected e.g. "
                "background=0.6,lake=0.4"
            )
    return target
