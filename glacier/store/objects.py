"""A shard that is an object at an address."""

from typing import Any

import obstore
from obstore.exceptions import BaseError

from glacier.addresses import said


class Object:
    """One object, read in parts. Its end is fetched at once, and it must stay as it was then."""

    def __init__(self, objects: Any, key: str, tail: int) -> None:
        """Fetch the last `tail` bytes.

        Raises:
            OSError: it is missing; ConnectionError, it cannot be reached.
        """
        self._objects, self._key = objects, key
        self.tail = self._get({"suffix": tail}, first=True)

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`, by one request.

        Raises:
            OSError: it is missing, or has changed; ConnectionError, it cannot be reached.
        """
        return self._get((start, stop))

    def ahead(self, start: int, stop: int) -> None:
        """Nothing: to ask twice would take as long."""

    def _get(self, span: Any, first: bool = False) -> memoryview:
        try:
            answer = obstore.get(self._objects, self._key, options={"range": span})
            meta, data = answer.meta, memoryview(answer.bytes())
        except FileNotFoundError as error:
            raise OSError(f"{self._key} is missing") from error
        except BaseError as error:
            raise ConnectionError(said(error)) from error
        found = meta["size"], meta["e_tag"]
        if first:
            self.size, self._tag = found
        elif found != (self.size, self._tag):
            raise OSError(f"{self._key} has changed since it was opened")
        return data
