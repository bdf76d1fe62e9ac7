"""Files at addresses: http(s) and object stores, by obstore, which retries and reads on by byte ranges."""

import obstore
from obstore.exceptions import BaseError

from glacier.addresses import open_address, said
from glacier.errors import UnreachableError


class AddressReader:
    """A file at an address, read front to back in ranges of bytes."""

    def __init__(self, address: str, request: int) -> None:
        """Find `address`; `request` is how many bytes to ask for at a time.

        Raises:
            UnreachableError: nothing there, or it cannot be reached.
        """
        self._address = address
        base, _, name = address.rpartition("/")
        try:
            store = open_address(base)
            self._file = obstore.open_reader(store, name, buffer_size=request)
            self.version = obstore.head(store, name).get("e_tag")
            """What the server calls this state of the file."""
        except (BaseError, OSError) as error:
            raise self._error(error) from error
        self.size = self._file.size
        """bytes"""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end.

        Raises:
            UnreachableError: the address cannot be reached any more.
        """
        try:
            return bytes(self._file.read(size))
        except (BaseError, OSError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Nothing is held."""

    def _error(self, error: Exception) -> UnreachableError:
        return UnreachableError(f"{self._address}: cannot be read ({said(error)})")
