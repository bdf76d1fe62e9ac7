"""One training on two machines: here two agents of torchrun, each in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from glacier.train import checkpoint
from tests.train.test_resume import assert_same_run, steps_of

SETTINGS = [
    "data.patch=64", "train.batch=4", "train.samples_per_epoch=16", "train.epochs=2", "train.save_steps=1",
    "data.target={background=0.3, glacier=0.3, debris=0.3, lake=0.1}",
]  # fmt: skip
TRAIN = ["train", "--config", "demo", "--out", "run"]
TRAIN += [part for setting in SETTINGS for part in ("--set", setting)]


@contextmanager
def one_core():
    """What is started within runs on one core: the number of threads may decide a sum's last bit."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_of_them)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def agent(folder: Path, launch, arguments) -> subprocess.Popen:
    """torchrun of the command line, in a folder; what it says goes into a file beside."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "glacier", *arguments]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with (folder.parent / f"{folder.name}.txt").open("w") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=env)


def nodes(folder: Path, *arguments) -> list[subprocess.Popen]:
    """Two agents of one process each; each node has its own arguments and folder, `0` and `1`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = [
        "--nnodes",
        "2",
        "--nproc_per_node",
        "1",
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(port),
    ]
    with one_core():
        return [
            agent(folder / str(rank), [*where, "--node_rank", str(rank)], words)
            for rank, words in enumerate(arguments)
        ]


def errors(folder: Path) -> list[list[str]]:
    """Each node's lines of error, without a traceback of ours."""
    said = [(folder / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert not any("glacier/train" in text for text in said), said
    return [[line for line in text.splitlines() if line.startswith("error: ")] for text in said]


@pytest.fixture(scope="module")
def copied(store, tmp_path_factory) -> Path:
    """The store on another machine's disk."""
    return Path(shutil.copytree(store.path, tmp_path_factory.mktemp("other") / "copy.zarr"))


@pytest.fixture(scope="module")
def one_node(store, tmp_path_factory) -> Path:
    """A run of two processes on one machine."""
    folder = tmp_path_factory.mktemp("nodes") / "one"
    with one_core():
        launch = ["--standalone", "--nproc_per_node", "2"]
        assert agent(folder, launch, [*TRAIN, "--store", str(store.path)]).wait() == 0
    return folder / "run"


def test_two_nodes_train_as_one_stop_when_one_is_asked_and_go_on(store, copied, one_node, tmp_path):
    """To the last bit, with no disk in common: node 1 reads its own store, and never sees the run."""
    stores = [["--store", str(path)] for path in (store.path, copied)]
    both = nodes(tmp_path, *([*TRAIN, *where] for where in stores))
    while steps_of(tmp_path / "0" / "run") < 2:
        assert both[0].poll() is None, (tmp_path / "0.txt").read_text()
        time.sleep(0.01)
    [worker] = Path(f"/proc/{both[1].pid}/task/{both[1].pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGTERM)
    assert [one.wait() for one in both] == [0, 0]
    assert not checkpoint.read(tmp_path / "0" / "run")["finished"]
    assert "stopped after" in (tmp_path / "0.txt").read_text()
    both = nodes(tmp_path, *(["train", "--resume", "run", *where] for where in stores))
    assert [one.wait() for one in both] == [0, 0]
    assert_same_run(one_node, tmp_path / "0" / "run")
    assert list((tmp_path / "1").iterdir()) == []
