"""A tar archive read once, from front to back: a file, an address, or standard input."""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from isal import igzip_threaded, isal_zlib

from glacier.errors import GlacierError
from glacier.scenes.address import AddressReader

LARGEST = 64 * 2**20
"""Most bytes of a member that is read as a whole: 1024 x 1024 px of 15 float32 channels, and a header."""
PIECE = 2**20
"""Bytes read at a time from what is passed over."""
REQUEST = 8 * 2**20
"""Bytes per request of an archive at an address; each is asked for again from where it broke off."""
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, isal_zlib.error)  # type: ignore[assignment]
"""What reading a damaged or broken off stream raises."""
GZIP = b"\x1f\x8b"
SUFFIXES = (".tar", ".tar.gz", ".tgz")

Read = Callable[[], bytes]


def is_archive(source: str) -> bool:
    """Whether a source names an archive: `-`, or a file or address that ends as one."""
    named = source.split("?")[0].lower().endswith(SUFFIXES)
    return source == "-" or (named and not Path(source).is_dir())


class Stream(Protocol):
    """What bytes come from, in order."""

    def read(self, size: int, /) -> Any:
        """At most `size` bytes; none at the end."""


def identify(source: str) -> tuple[int | None, str | None]:
    """Bytes of an archive, and what tells this state of it from another; None where nobody can say.

    Raises:
        GlacierError: nothing at an address.
        OSError: no such file.
    """
    if source == "-":
        return None, None
    if "://" in source:
        reader = AddressReader(source, REQUEST)
        return reader.size, reader.version
    status = Path(source).stat()
    return status.st_size, str(status.st_mtime_ns)


class Source(io.RawIOBase):
    """An archive's bytes as they come, counted."""

    def __init__(self, source: str, advance: Callable[[], None]) -> None:
        """Open `source`.

        Args:
            source: a file, an http(s) or s3 address, or `-` for standard input.
            advance: called once per MiB read.
        """
        self.title = "standard input" if source == "-" else source
        self._stream: Any = _open(source)
        self._advance, self._read_bytes, self._ahead = advance, 0, b""

    def packed(self) -> bool:
        """Whether it is compressed, by its first bytes."""
        while len(self._ahead) < len(GZIP) and (data := self._stream.read1(1)):
            self._ahead += data
        return self._ahead == GZIP

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, out: Any, /) -> int:
        """Read at most as many bytes as `out` holds; none at the end."""
        data = self._ahead or self._stream.read1(len(out))
        self._ahead = b""
        out[: len(data)] = data
        for _ in range((self._read_bytes + len(data)) // PIECE - self._read_bytes // PIECE):
            self._advance()
        self._read_bytes += len(data)
        return len(data)

    def close(self) -> None:
        """Let go of it; standard input stays open."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()
        super().close()


def _open(source: str) -> Any:
    if source == "-":
        return sys.stdin.buffer
    if "://" in source:
        return AddressReader(source, REQUEST)
    return Path(source).open("rb", buffering=PIECE)


def members(source: str, advance: Callable[[], None]) -> Iterator[tuple[str, Read]]:
    """Each regular file of an archive: its name, and what reads it.

    Names are as the archive has them, and are not to be trusted. A file not read is passed over.

    Args:
        source: a file, an http(s) or s3 address, or `-` for standard input.
        advance: called once per MiB of it.

    Raises:
        GlacierError: not a tar archive, a damaged one, or one that ends early.
    """
    with Source(source, advance) as raw, Forward(_unpacked(raw), raw.title) as stream:
        try:
            with tarfile.TarFile(fileobj=stream, mode="r") as archive:
                while (member := archive.next()) is not None:
                    if member.isreg():
                        yield member.name, _reader(stream, member)
        except tarfile.TarError as error:
            raise stream.damaged(str(error)) from error
        if stream.last.strip(b"\0") or not stream.last:
            raise stream.damaged("it ends without the blocks that close an archive")
        while stream.read(PIECE):  # what is left: padding, and the checksum of what was compressed
            pass


def _unpacked(source: Source) -> Stream:
    """Decompressed in a thread of its own, where it is compressed."""
    if not source.packed():
        return source
    unpacked: Stream = igzip_threaded.open(source, "rb", threads=1, block_size=PIECE)
    return unpacked


def _reader(stream: "Forward", member: tarfile.TarInfo) -> Read:
    def read() -> bytes:
        if member.issparse():
            raise GlacierError(f"{member.name}: stored as a sparse file, which is not read")
        data = stream.read(member.size)
        if len(data) != member.size:
            raise stream.damaged(f"{member.name} has {len(data)} bytes, expected {member.size}")
        return data

    return read


class Forward(io.RawIOBase):
    """A stream that tarfile may take for a file as long as it only goes forward."""

    def __init__(self, stream: Stream, name: str) -> None:
        self._stream, self._name, self._at = stream, name, 0
        self.last = b""
        """What was read last."""

    def read(self, size: int = -1, /) -> bytes:
        """As many bytes as asked for, unless the stream ends.

        Raises:
            GlacierError: more than `LARGEST`, as a header may claim.
        """
        if not 0 <= size <= LARGEST:
            raise self.damaged(f"a header claims {size} bytes, expected at most {LARGEST}")
        parts, missing = [], size
        try:
            while missing and (part := self._stream.read(min(missing, PIECE))):
                parts.append(part)
                missing -= len(part)
        except DAMAGE as error:
            raise self.damaged(str(error)) from error
        self.last = parts[0] if len(parts) == 1 else b"".join(parts)
        self._at += size - missing
        return self.last

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Read on to `offset`, or to the end."""
        if whence or offset < self._at:
            raise self.damaged("its headers point backwards")
        while self._at < offset and self.read(min(PIECE, offset - self._at)):
            pass
        return self._at

    def damaged(self, what: str) -> GlacierError:
        """The error of a stream that is no whole archive."""
        return GlacierError(
            f"{self._name}: not a whole tar archive ({what}; at byte {self._at} unpacked); give the same "
            "command again to go on, or get the file again and give --overwrite"
        )

    def close(self) -> None:
        """Let go of the stream."""
        if isinstance(self._stream, io.IOBase):
            self._stream.close()
        super().close()


def parse_npy(data: bytes, name: str) -> Any:
    """The array of an .npy file, without a copy.

    Raises:
        GlacierError: not such a file, objects in it, or another length than its header says.
    """
    import numpy as np

    file: BinaryIO = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = header[version](file)
        if dtype.hasobject or any(side < 0 for side in shape):
            raise ValueError(f"{shape} of {dtype}")
        count = 1
        for side in shape:
            count *= side
        if count * dtype.itemsize != len(data) - file.tell():
            raise ValueError(f"{len(data) - file.tell()} bytes for {shape} of {dtype}")
        flat = np.frombuffer(data, dtype, offset=file.tell())
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise GlacierError(f"{name}: cannot be read as an .npy array ({error})") from error
    return flat.reshape(shape, order="F" if fortran else "C")
