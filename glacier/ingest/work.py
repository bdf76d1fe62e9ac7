"""Spreading work over an executor; the first error ends it."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from glacier.errors import GlacierError
from glacier.ingest.cluster import cluster

Result = TypeVar("Result")


class Here(Executor):
    """An executor that works in this process, when a call is submitted; errors come out at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn` now."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def executor(workers: int | str) -> Iterator[Executor]:
    """`workers` processes, or this one alone for 1; or the workers of the Dask scheduler at an address.

    Leaving it drops what still waits.

    Raises:
        GlacierError: a cluster that cannot be reached, or that lost its workers.
    """
    if isinstance(workers, str):
        with cluster(workers) as spread_out:
            yield spread_out
        return
    pool = Here() if workers == 1 else _processes(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _processes(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Have this process end when its parent has, even if killed; it would write into what comes after."""
    parent = parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def spread(
    pool: Executor,
    call: Callable[..., Result],
    tasks: Iterable[tuple[Any, ...]],
    done: Callable[[], None],
) -> list[Result]:
    """`call(*task)` for each task, results in the order of tasks; `done` is called as each ends.

    Raises:
        GlacierError: what a task raised, the first to do so; or a worker that was killed.
    """
    try:
        futures = []
        for task in tasks:
            futures.append(pool.submit(call, *task))
            futures[-1].add_done_callback(lambda _: done())
        for future in as_completed(futures):
            future.result()
    except BrokenProcessPool as error:
        raise GlacierError(
            "a worker process was killed, perhaps for want of memory; give the command again to go "
            "on, with fewer --workers"
        ) from error
    return [future.result() for future in futures]
