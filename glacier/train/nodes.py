"""What the ranks of one training must have in common, whatever machine each is on: runs and the store.

Only rank 0 reads and writes runs: other machines need not see its disk. Each rank reads a store of its own.
"""

import json
import socket
from collections.abc import Callable, Sequence

from glacier.errors import GlacierError
from glacier.store.reader import Store
from glacier.store.schema import checksum
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Trained


def runs_from_main(ranks: Ranks, read: Callable[[], Sequence[Trained]]) -> list[Trained]:
    """The runs that `read` gives on rank 0, on every rank.

    Raises:
        GlacierError: `read` does.
    """
    records = ranks.from_main(lambda: {"runs": [run.to_record() for run in read()]})["runs"]
    return [Trained.from_record(record, "a run of rank 0") for record in records]


def open_same(ranks: Ranks, look: Callable[[], Store]) -> Store:
    """The store that `look` opens, on each rank for itself: on its own disk, or a shared one.

    Raises:
        GlacierError: a rank finds none, or another than rank 0.
    """
    with ranks.together():
        store = look()
    content = f"{len(store)} tiles, {checksum(store.meta.to_attributes()):08x}"
    found = [f"on {socket.gethostname()} a store of {content}", content]
    every = [json.loads(text) for text in ranks.gather(json.dumps(found))]
    for rank, (words, other) in enumerate(every):
        if other != every[0][1]:
            raise GlacierError(
                f"{store.path}: rank {rank} finds {words}, rank 0 {every[0][0]}; expected the same; copy "
                "rank 0's to every machine, or say with --store where it lies"
            )
    return store
