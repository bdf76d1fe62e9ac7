"""What comes after a loader's state is what would have come, on any number of ranks."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glacier.errors import UsageError
from glacier.pipeline.augment import Augment
from glacier.pipeline.loader import Loader, eased
from glacier.pipeline.plan import Balance
from glacier.store.reader import Store
from tests.helpers import make_store

TARGET = {"background": 0.3, "glacier": 0.4, "debris": 0.3, "lake": 0.0}
SETTINGS = {"patch": 32, "batch": 12, "seed": 4, "samples_per_epoch": 60, "balance": Balance(TARGET)}


def loader(store, **options):
    return Loader(store, **{"tiles": np.arange(len(store)), **SETTINGS, **options})


def keys(batches):
    return [batch.samples["key"].tolist() for batch in batches]


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7])
def test_after_its_state_comes_what_would_have_come(store, stop):
    """Stopped within an epoch, at its end, and in the next; the state goes through JSON."""
    whole = loader(store)
    expected = [*keys(whole), *keys(whole), *keys(whole)]
    first = loader(store)
    seen, state = [], first.state_dict()
    while len(seen) < stop:
        for batch in first:
            seen += keys([batch])
            state = first.state_dict()
            if len(seen) == stop:
                break
    again = loader(store)
    again.load_state_dict(json.loads(json.dumps(state)))
    while len(seen) < 15:
        seen += keys(again)
    assert seen == expected


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_any_number_of_ranks_goes_on(store, world):
    expected = keys(loader(store))
    first = loader(store)
    for step, _ in enumerate(first):
        if step == 1:
            break
    ranks = [loader(store, rank=rank, world=world) for rank in range(world)]
    for one in ranks:
        one.load_state_dict(first.state_dict())
    parts = [keys(one) for one in ranks]
    assert [[k for part in parts for k in part[s]] for s in range(3)] == expected[2:]
    assert all(one.epoch == 1 and one.step == 0 for one in ranks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 5}, "data.seed: 5, expected 4 as when it was saved"),
        ({"batch": 6}, "train.batch: 6, expected 12"),
        ({"patch": 64}, "data.patch: 64, expected 32"),
        ({"samples_per_epoch": 120}, "samples per epoch: 120, expected 60"),
        ({"tiles": np.arange(9)}, "training tiles: '.+', expected"),
        ({"balance": Balance()}, "data.target: {}, expected {'background'"),
        ({"balance": Balance(TARGET, repeats=3.0)}, "data.repeats: 3.0, expected 8.0"),
        ({"augment": Augment("none")}, "data.augment: 'none', expected 'd4'"),
        ({"anneal": 0.5, "epochs": 4}, r"data.anneal: \[0.5, 4\], expected 0"),
    ],
)
def test_what_would_change_the_order_is_refused(store, options, words):
    state = loader(store).state_dict()
    with pytest.raises(UsageError, match=f"{words}.*set it back, or start anew"):
        loader(store, **options).load_state_dict(state)


def test_what_is_no_state_is_refused(store):
    with pytest.raises(UsageError, match=r"a state of \['epoch'\], expected what `state_dict` gave"):
        loader(store).load_state_dict({"epoch": 3})


@pytest.mark.parametrize(("anneal", "epochs"), [(0.5, 0), (-1, 4), (2, 4)])
def test_annealing_needs_an_end(store, anneal, epochs):
    with pytest.raises(UsageError, match="data.anneal"):
        loader(store, anneal=anneal, epochs=epochs)


def test_another_store_is_refused_and_another_path_is_not(store, tmp_path, mountains):
    state = loader(store).state_dict()
    with Store(shutil.copytree(store.path, tmp_path / "moved.zarr")) as moved:
        loader(moved).load_state_dict(state)
    with (
        make_store(mountains, tmp_path / "other.zarr", tile_size=64, bands="B2=blue") as other,
        pytest.raises(UsageError, match=r"store: '.+', expected '.+' as when it was saved"),
    ):
        loader(other).load_state_dict(state)


def test_the_mix_glides_back_at_the_end(store):
    """Over the last half of four epochs: half-way in the third, natural in the fourth."""
    assert [eased(e, 4, 0.5) for e in range(4)] == [0, 0, 0.5, 1]
    assert [eased(e, 4, 0.0) for e in range(4)] == [0] * 4
    assert [eased(e, 3, 1.0) for e in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    one = loader(store, anneal=0.5, epochs=4, samples_per_epoch=480)
    mixes = []
    for _ in range(4):
        labels = np.concatenate([b.label.numpy().ravel() for b in one])
        mixes.append(np.bincount(labels, minlength=256)[:4] / (labels < 4).sum())
    plan = one.plan
    wanted = [
        plan.reached,
        plan.reached,
        one._plan(0.5).reached,
        plan.natural,
    ]
    assert abs(plan.reached - plan.natural).max() > 0.2
    np.testing.assert_allclose(mixes, wanted, atol=0.03)


PROGRAM = """
import json, os, sys, time
from pathlib import Path
import torch.distributed as dist
import glacier
store, folder = glacier.open(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
loader = glacier.loader(store, batch=8, patch=32, seed=7, samples_per_epoch=160, rank=rank, world=world,
                        target={"background": 0.3, "glacier": 0.4, "debris": 0.2, "lake": 0.1})
saved = folder / "state.json"
if saved.exists():
    loader.load_state_dict(json.loads(saved.read_text()))
(folder / f"pid.{rank}").write_text(str(os.getpid()))
log = (folder / f"{world}.{rank}").open("a", buffering=1)
while loader.epoch < 3:
    for batch in loader:
        state = loader.state_dict()
        done = 20 * state["epoch"] + state["step"]
        log.write(json.dumps([done, batch.samples["key"].tolist()]) + "\\n")
        time.sleep(0.02)
        dist.barrier()
        if done % 3 == 0 and rank == 0:
            partial = folder / "state.partial"
            partial.write_text(json.dumps(state))
            partial.replace(saved)
dist.destroy_process_group()
"""


def torchrun(store, folder, world):
    """Start the program above on `world` ranks."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    command = [sys.executable, *launch, str(program), str(store.path), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def logged(folder, world):
    """Keys by step, over the ranks of a run."""
    steps = {}
    for path in sorted(folder.glob(f"{world}.*")):
        for line in path.read_text().splitlines():
            done, found = json.loads(line)
            steps.setdefault(done, []).extend(found)
    return steps


def running(process):
    """Whether a process is there, and no mere entry in the table."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (OSError, IndexError):
        return False


def killed_and_resumed(store, folder, until):
    """Two ranks killed at step `until`, then one that goes on: keys by step, of those that count."""
    both, log = torchrun(store, folder, 2), folder / "2.0"
    while not log.exists() or len(log.read_text().splitlines()) < until:
        assert both.poll() is None
        time.sleep(0.002)
    both.kill()  # torchrun's own process; its workers stand in sessions of their own
    for file in folder.glob("pid.*"):
        os.kill(int(file.read_text()), signal.SIGKILL)
    assert both.wait() == -signal.SIGKILL
    while any(running(int(file.read_text())) for file in folder.glob("pid.*")):
        time.sleep(0.01)
    state = json.loads((folder / "state.json").read_text())
    kept = 20 * state["epoch"] + state["step"]
    assert torchrun(store, folder, 1).wait() == 0
    before = {step: found for step, found in logged(folder, 2).items() if step <= kept}
    after = logged(folder, 1)
    assert min(after, default=61) == kept + 1
    return before | after


def elastic(store, folder, times):
    """Keys up to the last state kept, and those after going on, are those of a run that was left alone."""
    assert torchrun(store, folder, 1).wait() == 0
    expected = logged(folder, 1)
    assert sorted(expected) == list(range(1, 61))
    rng = random.Random(0)
    for number in range(times):
        part = folder / str(number)
        part.mkdir()
        assert killed_and_resumed(store, part, rng.randrange(4, 50)) == expected


def test_killed_on_two_ranks_it_goes_on_on_one(store, tmp_path):
    elastic(store, tmp_path, 1)


@pytest.mark.slow
def test_killed_on_two_ranks_it_goes_on_on_one_twenty_times(store, tmp_path):
    elastic(store, tmp_path, 20)
