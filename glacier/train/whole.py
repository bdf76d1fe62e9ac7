"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to be `path`: whoever looks there finds the old file or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write_text_whole(path: Path, text: str) -> None:
    """Write `text` so that whoever looks finds the old file or the new one."""
    with replacing(path) as partial:
        partial.write_text(text)
