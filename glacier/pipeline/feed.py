"""Batches made in threads of their own, ahead of their consumer."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

import torch

from glacier.pipeline.batcher import Batch, Batcher, Begun
from glacier.pipeline.order import Samples

DEPTH = 2
"""Batches that wait, ready, for the consumer."""
BEGUN = 2
"""Batches that are worked on besides the next, so that no thread idles at the end of one."""


class Feed:
    """Iterate it once, for one batch per item of `steps`: threads work ahead until the end or `close`."""

    def __init__(self, batcher: Batcher, steps: Iterable[Samples], *, threads: int) -> None:
        """Say what to make.

        Args:
            batcher: makes the batches.
            steps: the samples of each.
            threads: samples that are made at a time; more than one where the source allows it.
        """
        self.waited = 0.0
        """Seconds the consumer has waited for batches."""
        self._batcher, self._steps, self._threads = batcher, steps, threads
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(DEPTH)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="glacier-feed", daemon=True)

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            if self._batcher.recipe.device.type == "cuda":
                torch.cuda.set_device(self._batcher.recipe.device)
            workers = ThreadPoolExecutor(self._threads, thread_name_prefix="glacier-work")
            try:
                self._run(workers)
            finally:
                workers.shutdown(cancel_futures=True)
        except BaseException as error:  # raised again where the consumer waits
            last = error
        self._put(last)

    def _run(self, workers: Executor) -> None:
        """Begin batches ahead, finish them in order."""
        begun: deque[Begun] = deque()
        for samples in self._steps:
            begun.append(self._batcher.begin(samples, workers))
            if len(begun) > BEGUN and not self._put(self._batcher.finish(begun.popleft())):
                return
        while begun and self._put(self._batcher.finish(begun.popleft())):
            pass

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Hand over an item; False once the consumer has gone."""
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return True
        return False

    def __iter__(self) -> Iterator[Batch]:
        """Start working and yield the batches; an error in a thread is raised here. Once only."""
        self._thread.start()
        try:
            while True:
                start = time.perf_counter()
                item = self._ready.get()
                self.waited += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
