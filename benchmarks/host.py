"""What numbers were measured on. Light to import: worker processes import it too."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from glacier.machine import cores


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Cores, processor, memory, Python, and the versions of those `packages` that are installed."""
    found: dict[str, Any] = {
        "cores": cores(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def family(process: int) -> list[int]:
    """A process and its children."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [process, *map(int, text.split())]


def memory(process: int, what: Literal["VmRSS", "VmHWM"]) -> int:
    """What a process holds in memory now (VmRSS), or held at most (VmHWM), KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(what)), 0)
