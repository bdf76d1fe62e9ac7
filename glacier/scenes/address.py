"""Files at addresses: http(s) and object stores, by obstore, which retries and reads on by byte ranges."""

from typing import Any

from glacier.errors import GlacierError


class AddressReader:
    """A file at an address, read front to back in ranges of bytes."""

    def __init__(self, address: str, request: int) -> None:
        """Find `address`; `request` is how many bytes to ask for at a time.

        Raises:
            GlacierError: nothing there, or it cannot be reached.
        """
        import obstore
        from obstore.store import from_url

        self._address = address
        base, _, name = address.rpartition("/")
        options: Any = {"allow_http": True, "connect_timeout": "10s"}
        try:
            store = from_url(base, client_options=options)
            self._file = obstore.open_reader(store, name, buffer_size=request)
            self.version = obstore.head(store, name).get("e_tag")
            """What the server calls this state of the file."""
        except Exception as error:
            raise self._error(error) from error
        self.size = self._file.size
        """bytes"""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end.

        Raises:
            GlacierError: the address cannot be reached any more.
        """
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Nothing is held."""

    def _error(self, error: Exception) -> GlacierError:
        """Obstore's errors are many, and long."""
        return GlacierError(f"{self._address}: cannot be read ({str(error).splitlines()[0]})")
