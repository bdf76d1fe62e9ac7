"""When a training has to end before its time: on SIGTERM, or when the time it was given is up."""

import re
import signal
import threading
import time
from types import FrameType
from typing import Self

from glacier.errors import UsageError
from glacier.train.ranks import Ranks

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Stop:
    """A context that listens for SIGTERM and watches the clock; without either, nothing is ever due."""

    def __init__(self, limit: float | None = None) -> None:
        """Start the clock; `limit` in seconds."""
        self.limit, self._start = limit, time.monotonic()
        self.obeyed = False
        """Whether a training has ended for it."""
        self._asked = False
        self._before: object = None

    def __enter__(self) -> Self:
        """Take SIGTERM over; signals reach the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def due(self, ranks: Ranks, reserve: float = 0.0) -> bool:
        """Whether to end here: the same on every rank. All must ask at the same step.

        Args:
            ranks: who has to agree.
            reserve: seconds that what comes next will take.
        """
        late = self.limit is not None and time.monotonic() - self._start + reserve > self.limit
        return ranks.any(self._asked or late)


def parse_duration(text: str) -> float:
    """Seconds of `11h30m`, `90m`, `1h` or `5400` (seconds).

    Raises:
        UsageError: something else, or nothing.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    parts = [int(part) if part else 0 for part in found.groups()] if found else []
    seconds = sum(n * unit for n, unit in zip(parts, UNITS.values(), strict=False))
    if not seconds:
        raise UsageError(f"--time-limit: {text!r}, expected e.g. 11h30m, 45m or 600s")
    return seconds
