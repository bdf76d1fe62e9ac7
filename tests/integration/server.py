"""An S3 server of one's own on loopback: a real process, moto's."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest


class Bucket:
    """A bucket of a running server."""

    name = "glaciers"

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process, self.endpoint = process, f"http://127.0.0.1:{port}"
        self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=self.name)

    def address(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, folder: Path, key: str) -> str:
        """Copy a folder below `key`, for anyone to read; its address."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.client.put_object(
                    Bucket=self.name, Key=f"{key}/{file.relative_to(folder)}", Body=file.read_bytes(),
                    ACL="public-read",
                )  # fmt: skip
        return self.address(key)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serve_bucket(log: Path) -> Iterator[Bucket]:
    """A server with an empty bucket; the environment points to it meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "reader"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ):
            environment.setenv(name, value)
        try:
            _wait(process, port, log)
            yield Bucket(process, port)
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
        finally:
            assert process.poll() is None, log.read_text()  # another may have taken the port
            assert time.monotonic() < deadline, log.read_text()
