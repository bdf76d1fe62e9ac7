import pytest

from tests.integration.server import serve_bucket


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket on a real S3 server process."""
    with serve_bucket(tmp_path_factory.mktemp("server") / "log.txt") as served:
        yield served
