"""Files at addresses: http(s) and object stores, by obstore, which retries and reads on by byte ranges."""

import obstore
from obstore.exceptions import BaseError, NotSupportedError

from glacier.addresses import open_address, said
from glacier.errors import GlacierError, UnreachableError


class AddressReader:
    """A file at an address, read front to back in ranges of bytes."""

    def __init__(self, address: str, request: int) -> None:
        """Find `address`; `request` is how many bytes to ask for at a time.

        Raises:
            UnreachableError: nothing there, or it cannot be reached.
        """
        self._address = address
        if "?" in address:
            raise GlacierError(
                f"{address}: addresses with a query are not read; fetch it with another program, as in "
                "`curl -L ADDRESS | glacier ingest -`"
            )
        base, _, name = address.rpartition("/")
        try:
            store = open_address(base)
            self._file = obstore.open_reader(store, name, buffer_size=request)
            about = obstore.head(store, name)
            self.version = about.get("e_tag") or str(about.get("last_modified"))
            """What the server calls this state of the file."""
            self._file.read(1)
            self._file.seek(0)
        except NotSupportedError as error:
            raise GlacierError(
                f"{address}: its server gives no ranges of bytes ({said(error)}); fetch it with another "
                "program, as in `curl -L ADDRESS | glacier ingest -`"
            ) from error
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
