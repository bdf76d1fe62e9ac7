"""Where a store is built: in its own folder, or beside the one it is to replace."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glacier.errors import GlacierError
from glacier.store.folder import PARTIAL, UNFINISHED, Folder
from glacier.store.objects import Storage, storage
from glacier.store.reader import Store
from glacier.store.writer import NOTE, ROOT, read_note
from glacier.version import __version__

ADDED = "appended"
"""Where a store's `source` lists what was added later."""

State = Literal["absent", "store", "unfinished", "foreign"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is to stand, and where it is built."""

    out: Path | str
    build: Storage
    record: dict[str, Any]
    """What the store is to say of its source."""
    seen: dict[str, Any] | None
    """What an unfinished ingest there said of itself when this was chosen."""

    @property
    def note(self) -> dict[str, Any]:
        """What the ingest says of itself while it is unfinished."""
        return {**self.record, "version": __version__}

    def begin(self, below: str = "") -> None:
        """Make the building place ready: as this ingest left it unfinished, or cleared.

        Args:
            below: the folder in it that is cleared.
        """
        found = read_note(self.build)
        if found == self.note:
            return
        arrived = not below and self.seen is None and state(self.build) == "store"
        if found != self.seen or (arrived and not isinstance(self.build, Folder)):
            raise GlacierError(
                f"{self.out}: another ingest wrote here meanwhile; nothing of it is lost, give the command "
                "again when it has ended"
            )
        tag = self.build.tag(NOTE) if found is None else None
        self.build.delete(below)
        self.build.put_over(NOTE, json.dumps(self.note).encode(), tag)

    def clear(self) -> None:
        """Remove what this ingest left when it was killed with all but that done."""
        if self.seen == self.note:
            self.build.delete(UNFINISHED)

    def finish(self) -> None:
        """Put what was built where it is to stand."""
        if isinstance(self.out, Path) and isinstance(self.build, Folder) and self.build.path != self.out:
            old = _old(self.out)
            self.out.rename(old)
            self.build.path.rename(self.out)
            shutil.rmtree(old)


def choose_place(out: Path | str, record: dict[str, Any], overwrite: bool) -> Place | None:
    """Where to build; None if the store that `record` describes stands there already.

    Args:
        out: where the store is to stand; text is an address.
        record: what a complete store says of its source.
        overwrite: whether another store, complete or not, may be replaced.

    Raises:
        GlacierError: something stands there that may not be replaced.
    """
    build, swapped = storage(out), isinstance(out, Path) and _recover(out, record if overwrite else None)
    place = Place(out, build, record, read_note(build))
    remedy = "give --overwrite to replace it" if isinstance(out, Path) else "remove it first"
    match state(build):
        case "store" if isinstance(out, Path) and overwrite and not (swapped and _made_from(out) == record):
            new = Folder(out.with_name(f".{out.name}.new"))
            return Place(out, new, record, read_note(new))
        case "store" if _made_from(out) == record:
            place.clear()
            return None
        case "store":
            raise GlacierError(
                f"{out}: a store of another source or with other options stands here; {remedy}, or give "
                "another --out"
            )
        case "unfinished" if place.seen != place.note and not overwrite:
            raise GlacierError(
                f"{out}: holds an unfinished ingest of another source, with other options or by another "
                "version; give --overwrite to replace it, or another --out"
            )
        case "foreign":
            raise GlacierError(f"{out}: exists and is not a glacier store; choose another --out")
    return place


def _made_from(out: Path | str) -> dict[str, Any]:
    """What the store at `out` says it was made from."""
    with Store(out) as store:
        return first_source(store)


def first_source(store: Store) -> dict[str, Any]:
    """What a store says it was made from, without what was added later."""
    return {key: value for key, value in store.meta.source.items() if key != ADDED}


def state(folder: Storage) -> State:
    """What stands at `folder`; one with nothing but empty folders in it counts as absent."""
    try:
        if "schema" in json.loads(folder.get(ROOT) or b"")["attributes"]:
            return "store"
    except (ValueError, KeyError, TypeError):
        pass
    if read_note(folder) is not None:
        return "unfinished"
    return "foreign" if any(not key.endswith(PARTIAL) for key in folder.files()) else "absent"


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _recover(out: Path, record: dict[str, Any] | None) -> bool:
    """Mend what a process left that was killed while it swapped stores; whether a new one now stands.

    A new store that waits beside one that stands is put in its place only for the command that made it,
    whose `record` is given: something may have been added to the other meanwhile.
    """
    old, new = _old(out), out.with_name(f".{out.name}.new")
    waits = state(Folder(new)) == "store"
    if waits and out.exists() and not old.exists() and record == _made_from(new):
        out.rename(old)
    if out.exists():
        waits = False
    elif old.exists():
        (new if waits else old).rename(out)
    if old.exists() and out.exists():
        shutil.rmtree(old)
    return waits and out.exists()
