"""What lies at an address, `s3://…` or `https://…`: obstore's view of it, and what it says in one line."""

from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError

from glacier.errors import GlacierError

PATIENCE: dict[str, Any] = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
"""With a server that fails: some seconds, then an error."""
CLIENT = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}
"""A host that does not answer is given up soon. http is used only where the address or endpoint says so."""
METADATA = "/latest/api/token"
"""Asked for where no credentials are given: a machine of a cloud gets its own from there."""


def is_address(place: object) -> bool:
    """Whether `place` is an address, not a path."""
    return isinstance(place, str) and "://" in place


def open_address(address: str) -> Any:
    """The objects below an address; nothing is asked of the server yet.

    Credentials and endpoint are obstore's: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and so on.

    Raises:
        GlacierError: an address of a kind that obstore does not know.
    """
    try:
        return obstore.store.from_url(address, client_options=CLIENT, retry_config=PATIENCE)  # type: ignore[call-overload]
    except (BaseError, ValueError, TypeError) as error:
        raise GlacierError(
            f"{address}: {said(error)}; expected a path, s3://BUCKET/KEY or https://HOST/PATH"
        ) from error


def said(error: BaseException) -> str:
    """What obstore says, in a line; its attempts and innards are left out."""
    line = str(error).strip().split("\n")[0]
    if METADATA in line:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true "
            "for a public bucket"
        )
    return line.rpartition(" - ")[2].partition(": <")[0].rstrip(": ")
