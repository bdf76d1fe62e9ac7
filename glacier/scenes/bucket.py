"""Sources in a bucket: paths that ask it what others ask a file system, and whose bytes GDAL reads."""

import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any, Self
from urllib.parse import urlsplit
from zlib import crc32

import obstore
from obstore.exceptions import BaseError

from glacier.addresses import is_address, open_address, said
from glacier.errors import GlacierError, UnreachableError

ROOT = "/vsis3"
"""GDAL's name for all buckets; as far as paths go, a folder."""
PATIENCE = {
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.2",
}
"""GDAL's; as `addresses.CLIENT` and `PATIENCE`."""


def located(place: Path | str) -> Path:
    """A path as it is; an address `s3://BUCKET/KEY` as one that can be listed and read like a folder.

    Raises:
        GlacierError: another kind of address.
    """
    if not is_address(place):
        return Path(place)
    kind, _, key = str(place).partition("://")
    if kind != "s3" or not key.strip("/"):
        raise GlacierError(f"{place}: expected a path, or s3://BUCKET/KEY")
    _listings.clear()  # buckets change between commands
    return BucketPath(ROOT, key.strip("/"))


class BucketPath(PosixPath):
    """`/vsis3/BUCKET/KEY`: an object, or what lies below it, listed once in a process.

    It goes wherever paths go, worker processes too; in messages it is `s3://BUCKET/KEY`.
    """

    def __format__(self, spec: str) -> str:
        return format(f"s3://{'/'.join(self.parts[2:])}", spec)

    def resolve(self, strict: bool = False) -> Self:
        """As it is: buckets have no links."""
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object here, or one below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object here."""
        return self._about() is not None

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return self in _listing(self).inside

    def iterdir(self) -> Generator[Self, None, None]:
        """Objects and folders directly here."""
        return (type(self)(path) for path in _listing(self).inside.get(self, ()))

    def rglob(self, pattern: str, **_: Any) -> Generator[Self, None, None]:
        """All objects and folders below, by the one pattern that is asked for."""
        assert pattern == "*", pattern
        for path in self.iterdir():
            yield path
            yield from path.rglob(pattern)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of change, whose part below a second, which buckets do not tell, is of the ETag.

        Raises:
            FileNotFoundError: there is no object here.
        """
        about = self._about()
        if about is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self}")
        changed = (
            int(about["last_modified"].timestamp()) * 10**9 + crc32((about["e_tag"] or "").encode()) % 10**9
        )
        sequence = (stat.S_IFREG, 0, 0, 0, 0, 0, about["size"], 0, 0, 0)
        return os.stat_result(sequence, {"st_mtime_ns": changed})

    def __fspath__(self) -> str:
        """The name that GDAL knows; whoever asks is told where the bucket is as well."""
        _tell_gdal()
        return super().__fspath__()

    def _about(self) -> Any:
        """What the bucket says of the object here; None where there is none."""
        if (listing := _known(self)) is not None:
            return None if self in listing.inside else listing.objects.get(self)
        bucket, *key = self.parts[2:]
        try:
            return obstore.head(open_address(f"s3://{bucket}"), "/".join(key))
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise UnreachableError(f"{self}: cannot be reached ({said(error)})") from error


@dataclass(frozen=True, slots=True)
class Listing:
    """All that lies below a path."""

    objects: dict[BucketPath, Any]
    """What the bucket says of each."""
    inside: dict[BucketPath, set[BucketPath]]
    """What lies directly in each folder; an object of a folder's name, as some programs put, is none."""


_listings: dict[BucketPath, Listing] = {}


def _known(path: BucketPath) -> Listing | None:
    """The listing that `path` lies in, if there is one."""
    return next((found for top, found in _listings.items() if top == path or top in path.parents), None)


def _listing(path: BucketPath) -> Listing:
    """The listing that `path` lies in, asked for where there is none yet."""
    if (known := _known(path)) is not None:
        return known
    bucket, *key = path.parts[2:]
    found = Listing({}, {})
    try:
        for page in obstore.list(open_address(f"s3://{bucket}"), "/".join(key) or None):
            for about in page:
                here = BucketPath(ROOT, bucket, about["path"])
                found.objects[here] = about
                while here != path:
                    found.inside.setdefault(here.parent, set()).add(here)
                    here = here.parent
    except FileNotFoundError:
        pass
    except BaseError as error:
        raise UnreachableError(f"{path}: cannot be listed ({said(error)})") from error
    _listings[path] = found
    return found


def _tell_gdal() -> None:
    """Give GDAL, in its own words, what the environment says to obstore; worker processes inherit it."""
    told = dict(PATIENCE)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        where = urlsplit(endpoint)
        told["AWS_S3_ENDPOINT"] = where.netloc + where.path.rstrip("/")
        told["AWS_HTTPS"] = "NO" if where.scheme == "http" else "YES"
        hosted = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() == "true"
        told["AWS_VIRTUAL_HOSTING"] = "TRUE" if hosted else "FALSE"
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true":
        told["AWS_NO_SIGN_REQUEST"] = "YES"
    os.environ.update(told)
