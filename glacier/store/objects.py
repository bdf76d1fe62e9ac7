"""What lies at an address, `s3://…` or `https://…`: whole objects and byte ranges of them, by obstore."""

from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError

from glacier.errors import GlacierError

PATIENCE: dict[str, Any] = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
"""With a server that fails: some seconds, then an error."""
CLIENT = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}
"""A host that does not answer is given up soon. http is used only where the address or endpoint says so."""
METADATA = "169.254.169.254"
"""Asked for credentials where none are given: by it a machine of a cloud knows its own."""


def is_address(path: object) -> bool:
    """Whether `path` is an address, not a path."""
    return isinstance(path, str) and "://" in path


def open_address(address: str) -> Any:
    """The objects below an address; nothing is asked of the server yet.

    Credentials and endpoint are obstore's: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and so on.

    Raises:
        GlacierError: an address of a kind that obstore does not know.
    """
    try:
        return obstore.store.from_url(address, client_options=CLIENT, retry_config=PATIENCE)  # type: ignore[call-overload]
    except (BaseError, ValueError, TypeError) as error:
        raise GlacierError(f"{address}: no address that can be read ({said(error)})") from error


class Object:
    """One object, read in parts. Its end is fetched at once, and it must stay as it was then."""

    def __init__(self, objects: Any, key: str, tail: int) -> None:
        """Fetch the last `tail` bytes.

        Raises:
            OSError: it is missing, or cannot be reached.
        """
        self._objects, self._key = objects, key
        self.tail = self._get({"suffix": tail}, first=True)

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`, by one request.

        Raises:
            OSError: it is missing, has changed, or cannot be reached.
        """
        return self._get((start, stop))

    def ahead(self, start: int, stop: int) -> None:
        """Nothing: to ask twice would take as long."""

    def _get(self, span: Any, first: bool = False) -> memoryview:
        try:
            answer = obstore.get(self._objects, self._key, options={"range": span})
            meta, data = answer.meta, memoryview(answer.bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise OSError(f"{self._key} is missing") from error
        except BaseError as error:
            raise OSError(f"{self._key} cannot be reached: {said(error)}") from error
        found = meta["size"], meta["e_tag"]
        if first:
            self.size, self._tag = found
        elif found != (self.size, self._tag):
            raise OSError(f"{self._key} has changed since the store was opened")
        return data


def said(error: BaseException) -> str:
    """What obstore says, in a line; what it tries and its innards are left out."""
    line = str(error).strip().split("\n")[0]
    if METADATA in line:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true "
            "for a public bucket"
        )
    return line.rpartition(" - ")[2]
