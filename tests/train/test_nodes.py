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
from tests.helpers import make_store
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


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def nodes(folder: Path, *arguments) -> list[subprocess.Popen]:
    """Two agents of one process each; each node has its own arguments and folder, `0` and `1`."""
    port = free_port()
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


def test_two_nodes_train_as_one(store, copied, one_node, tmp_path):
    """To the last bit, with no disk in common: node 1 reads a store of its own, and never sees the run."""
    both = nodes(tmp_path, *([*TRAIN, "--store", str(path)] for path in (store.path, copied)))
    assert [one.wait() for one in both] == [0, 0], (tmp_path / "0.txt").read_text()
    assert_same_run(one_node, tmp_path / "0" / "run")
    assert list((tmp_path / "1").iterdir()) == []


@pytest.mark.slow
def test_two_nodes_stop_when_one_is_asked_and_go_on(store, copied, one_node, tmp_path):
    stores = [["--store", str(path)] for path in (store.path, copied)]
    both = nodes(tmp_path, *([*TRAIN, *where] for where in stores))
    os.kill(worker_after(2, both, tmp_path), signal.SIGTERM)
    assert [one.wait() for one in both] == [0, 0]
    assert not checkpoint.read(tmp_path / "0" / "run")["finished"]
    assert "stopped after" in (tmp_path / "0.txt").read_text()
    both = nodes(tmp_path, *(["train", "--resume", "run", *where] for where in stores))
    assert [one.wait() for one in both] == [0, 0]
    assert_same_run(one_node, tmp_path / "0" / "run")
    assert list((tmp_path / "1").iterdir()) == []


@pytest.mark.slow
def test_where_one_node_dies_the_other_ends_with_one_line(store, copied, tmp_path):
    stores = [["--store", str(path)] for path in (store.path, copied)]
    both = nodes(tmp_path, *([*TRAIN, "--set", "train.epochs=50", *where] for where in stores))
    os.kill(worker_after(2, both, tmp_path), signal.SIGKILL)
    assert [one.wait() for one in both] == [1, 1]
    lost, killed = errors(tmp_path)
    assert lost == [
        "error: rank 0 of 2 has lost another, whose own output says why; give the command again once that "
        "is mended, a training with --resume"
    ]
    assert killed == []
    assert checkpoint.read(tmp_path / "0" / "run")["state"]["steps"] >= 2


def worker_after(steps: int, both, folder: Path) -> int:
    """Node 1's process, once so many steps have been saved."""
    while steps_of(folder / "0" / "run") < steps:
        assert both[0].poll() is None, (folder / "0.txt").read_text()
        time.sleep(0.01)
    [worker] = Path(f"/proc/{both[1].pid}/task/{both[1].pid}/children").read_text().split()
    return int(worker)


def processes(folder: Path, *commands, port: int = 0) -> list[int]:
    """Their exit codes: as on two nodes, but without torchrun, which takes as long as these do to fail."""
    port = port or free_port()
    started = []
    for rank, words in enumerate(commands):
        where = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **{k: str(v) for k, v in where.items()}}
        (folder / str(rank)).mkdir(exist_ok=True)
        with (folder / f"{rank}.txt").open("w") as said:
            started.append(
                subprocess.Popen(
                    [sys.executable, *words], cwd=folder / str(rank), stdout=said, stderr=said, env=env
                )
            )
    try:
        return [one.wait(timeout=300) for one in started]
    finally:
        for one in started:  # those that wait for each other for ever
            one.kill()


RESUME = ["train", "--resume", "run"]
SMALL = [
    "--set", "train.epochs=1", "--set", "train.samples_per_epoch=4", "--set", "train.thresholds=false",
    "--set", "model.encoder=tu-tf_mobilenetv3_small_minimal_100",
    "--set", "model.decoder_channels=[32, 16, 16, 16, 16]",
]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "epochs"),
    [
        ([*TRAIN, *SMALL], RESUME, {"run": 1}),
        pytest.param(
            [*TRAIN, *SMALL], [*TRAIN, "--fold", "all"], {"run": 1},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [*RESUME, "--set", "train.epochs=3"], [*RESUME, "--set", "train.epochs=4"], {"run": 3},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [*TRAIN, *SMALL, "--fold", "all"], TRAIN, {f"run/fold-{k}": 1 for k in range(5)},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_rank_0_is_asked_for_all_do(store, one_node, tmp_path, first, second, epochs):
    if first[:3] == RESUME:
        shutil.copytree(one_node, tmp_path / "0" / "run")
    commands = [["-m", "glacier", *words, "--store", str(store.path)] for words in (first, second)]
    assert processes(tmp_path, *commands) == [0, 0], (tmp_path / "1.txt").read_text()
    runs = {name: checkpoint.read(tmp_path / "0" / name) for name in epochs}
    assert {name: len(run["history"]) for name, run in runs.items()} == epochs
    assert list((tmp_path / "1").iterdir()) == []


def test_ranks_that_cannot_meet_end_with_one_line(tmp_path):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        assert processes(tmp_path, ["-m", "glacier", *TRAIN], port=port) == [1]
    text = (tmp_path / "0.txt").read_text()
    assert "Traceback" not in text
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: rank 0 of 2 cannot meet the others at 127.0.0.1:{port}: ")


def test_another_store_on_one_node_is_refused_on_both(store, mountains, tmp_path):
    with make_store(mountains, tmp_path / "other.zarr", tile_size=64, bands="B2=blue,B3=green") as other:
        commands = [["-m", "glacier", *TRAIN, "--store", str(one.path)] for one in (store, other)]
    assert processes(tmp_path, *commands) == [1, 1]
    for lines, mine in zip(errors(tmp_path), (store, other), strict=True):
        [line] = lines
        assert line.startswith(
            f"error: {mine.path}: rank 1 finds on {socket.gethostname()} a store of 36 tiles, "
        )
        assert "expected the same; copy rank 0's to every machine" in line
    assert list((tmp_path / "0").iterdir()) == []


PROGRAM = """
import resource
import sys
import torch
from glacier.errors import GlacierError, UsageError
from glacier.train.ranks import join_ranks

def refuse():
    raise UsageError("no such thing")

with join_ranks() as ranks:
    words = ["", "ä much longer text\\n" * 9]
    assert ranks.gather(words[ranks.rank]) == words
    told = ranks.from_main(lambda: {"rank": ranks.rank, "weights": torch.arange(5.0), "none": None})
    assert torch.equal(told.pop("weights"), torch.arange(5.0))
    assert told == {"rank": 0, "none": None}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert ranks.from_main(lambda: {"weights": torch.ones(2**25)})["weights"].sum() == 2**25
    copies = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**17
    assert copies < 2.6, copies
    with ranks.together():
        pass
    for who, kind in ((0, UsageError), (1, GlacierError)):
        try:
            with ranks.together():
                if ranks.rank == who:
                    raise kind("here")
        except GlacierError as error:
            assert type(error) is kind
            assert str(error) == ("here" if ranks.rank == who else f"rank {who}: here")
        else:
            raise AssertionError("went on")
    try:
        ranks.from_main(refuse)
    except UsageError as error:
        assert str(error) == ("no such thing" if ranks.main else "rank 0: no such thing")
    else:
        raise AssertionError("went on")
"""


def test_what_ranks_tell_each_other(tmp_path):
    assert processes(tmp_path, ["-c", PROGRAM], ["-c", PROGRAM]) == [0, 0], (tmp_path / "1.txt").read_text()


@pytest.mark.slow
def test_what_rank_0_refuses_all_refuse(store, tmp_path):
    """A folder that stands in the way on rank 0's disk alone."""
    (tmp_path / "0" / "run").mkdir(parents=True)
    (tmp_path / "0" / "run" / "here").touch()
    assert processes(tmp_path, *[["-m", "glacier", *TRAIN, "--store", str(store.path)]] * 2) == [1, 1]
    words = "run: exists; give a new folder with --out, or go on with --resume run"
    assert errors(tmp_path) == [[f"error: {words}"], [f"error: rank 0: {words}"]]
