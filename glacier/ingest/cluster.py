"""The workers of a Dask cluster as an executor."""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from glacier.errors import GlacierError

PATIENCE = 10
"""Seconds in which a scheduler must answer and have a worker."""


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of the Dask scheduler at `address`. A worker's tasks go to another when it dies.

    Raises:
        GlacierError: Dask is not installed, no scheduler answers, it has no worker, or it lost a task.
    """
    try:
        from distributed import Client
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise GlacierError(
            "--scheduler: Dask's distributed is not installed; pip install 'glacier-tiles[cluster]'"
        ) from error
    for name in ("distributed", "distributed.client", "distributed.core", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise GlacierError(
            f"--scheduler {address}: no Dask scheduler answers ({error}); start one with `dask scheduler`"
        ) from error
    try:
        with client:
            _wait_for_workers(client, address)
            pool = client.get_executor(pure=False)
            ended = Event()
            watch = Thread(target=_watch, args=(client, pool, ended), daemon=True)
            watch.start()
            try:
                yield pool
            finally:
                ended.set()
                pool.shutdown(wait=False)
                watch.join()
    except (KilledWorker, CommClosedError, CancelledError) as error:
        raise GlacierError(
            f"--scheduler {address}: the cluster lost its work or all its workers "
            f"({type(error).__name__}); see what they say, and give the command again to go on"
        ) from error


def _watch(client: Any, pool: Executor, ended: Event) -> None:
    """Cancel what waits when the cluster has been without a worker for long; it would wait for ever."""
    idle = 0
    while idle < PATIENCE:
        if ended.wait(1):
            return
        idle = 0 if client.scheduler_info().get("workers") else idle + 1
    pool.shutdown(wait=False)


def _wait_for_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise GlacierError(
            f"--scheduler {address}: it has no workers; start some with `dask worker {address}`"
        ) from error
