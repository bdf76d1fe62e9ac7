"""Real processes killed at any moment, disks that are full or read-only, two ingests at once.

Each time: one line, a store that is as it was or whole, and the same command ends it without doing
again what was done.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glacier.errors import GlacierError
from glacier.store.reader import Store
from tests.helpers import write_scene

NOTE = Path("unfinished") / "source.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve scenes: 768 tiles of 32 px, in 16 shards."""
    folder = tmp_path_factory.mktemp("source") / "in"
    for i in range(12):
        write_scene(folder / str(i), f"s{i:02}", seed=i, size=256)
    return folder


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Four scenes to add: 256 tiles."""
    folder = tmp_path_factory.mktemp("more") / "more"
    for i in range(4):
        write_scene(folder / str(i), f"t{i:02}", seed=20 + i, size=256)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The store of an ingest that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    assert run(build(source, out)).returncode == 0
    return out


def build(source, out, workers=2):
    return [sys.executable, "-m", "glacier", "ingest", str(source), "--out", str(out),
            "--tile-size", "32", "--classes", "0=a,1=b", "--workers", str(workers)]  # fmt: skip


def add(more, out, workers=2):
    return [
        sys.executable,
        "-m",
        "glacier",
        "ingest",
        str(more),
        "--append",
        str(out),
        "--workers",
        str(workers),
    ]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def start(command):
    """A process that leads a group of its own."""
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)


def until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def error_of(done) -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d+ scenes; ", line)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def workers_of(process) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def tree(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def contents(path):
    with Store(path) as store:
        pixels = [(store.image(t).tobytes(), store.label(t).tobytes()) for t in range(len(store))]
        return pixels, store.histogram.tobytes(), store.fold.tobytes()


def finished(out):
    """Shards noted as written, and when their files were."""
    shards = [f.stem for f in (out / "unfinished").glob("*.npz")]
    files = [out.joinpath(name, "c", s, *"000"[: 3 if name == "image" else 2])
             for s in shards for name in ("image", "label")]  # fmt: skip
    return len(shards), {f: f.stat().st_mtime_ns for f in files}


def kill_at_random(command, out, rng, seconds) -> bool:
    """Kill a command and its workers at any moment, or soon after it began to write; whether in time."""
    process = start(command)
    try:
        moment = rng.uniform(0, 0.9 * seconds)
        if rng.integers(2):
            while not (out / NOTE).exists() and process.poll() is None:
                time.sleep(0.001)
            moment = rng.uniform(0, seconds / 6)
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    return process.wait() != 0


def end(command, out, expected):
    """The same command once more ends it, and does nothing again."""
    done_before, times = finished(out)
    complete = (out / "zarr.json").exists() and not (out / NOTE).exists()
    done = run(command)
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"(\d+) shards were written before", done.stderr)
    if "nothing to do" not in done.stderr:
        assert int(resumed[1] if resumed else 0) == done_before
    assert complete <= ("nothing to do" in done.stderr or "--append" in command)
    assert {f: f.stat().st_mtime_ns for f in times} == times
    assert tree(out) == expected


def kill_and_end(source, whole, tmp_path, kills, seed):
    out, expected, whole_contents = tmp_path / "s.zarr", tree(whole), contents(whole)
    began = time.monotonic()
    assert run(build(source, tmp_path / "timed.zarr")).returncode == 0
    seconds = time.monotonic() - began
    rng, seen = np.random.default_rng(seed), []
    while len(seen) < kills:
        in_time = kill_at_random(build(source, out), out, rng, seconds)
        if (out / "zarr.json").exists():
            assert contents(out) == whole_contents
            seen += ["complete"] * in_time
        else:
            with pytest.raises(GlacierError, match="incomplete|no store here"):
                Store(out)
            seen.append("unfinished" if (out / NOTE).exists() else "nothing")
        if in_time:
            end(build(source, out), out, expected)
        shutil.rmtree(out)
    return seen


def kill_and_end_additions(whole, more, tmp_path, kills, seed):
    out, added = tmp_path / "s.zarr", shutil.copytree(whole, tmp_path / "added.zarr")
    began = time.monotonic()
    assert run(add(more, added)).returncode == 0
    seconds = time.monotonic() - began
    expected, old, new = tree(added), contents(whole), contents(added)
    rng, seen = np.random.default_rng(seed), []
    while len(seen) < kills:
        shutil.copytree(whole, out)
        in_time = kill_at_random(add(more, out), out, rng, seconds)
        found = contents(out)
        assert found in (old, new)
        if in_time:
            seen.append("new" if found == new else "under way" if (out / NOTE).exists() else "old")
            end(add(more, out), out, expected)
        shutil.rmtree(out)
    return seen


def test_three_kills_leave_three_complete_stores(source, whole, tmp_path):
    kill_and_end(source, whole, tmp_path, 3, seed=1)


def test_two_kills_of_an_addition_leave_the_old_store_or_the_new(whole, more, tmp_path):
    kill_and_end_additions(whole, more, tmp_path, 2, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_leave_a_hundred_complete_stores(source, whole, tmp_path):
    seen = kill_and_end(source, whole, tmp_path, 100, seed=0)
    print({what: seen.count(what) for what in sorted(set(seen))})
    assert seen.count("unfinished") > 20


@pytest.mark.slow
def test_forty_kills_of_an_addition_leave_the_old_store_or_the_new(whole, more, tmp_path):
    seen = kill_and_end_additions(whole, more, tmp_path, 40, seed=0)
    print({what: seen.count(what) for what in sorted(set(seen))})
    assert seen.count("under way") > 8


def test_two_ingests_to_one_name(source, whole, tmp_path):
    out = tmp_path / "s.zarr"
    first = start(build(source, out, workers=1))
    until((out / NOTE).exists, first)
    os.killpg(first.pid, signal.SIGSTOP)
    for command in (build(source, out), [*build(source, out), "--overwrite"]):
        assert f"{out}: another command is writing it; wait" in error_of(run(command))
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait() == 0, first.stderr.read()
    first.stderr.close()
    assert tree(out) == tree(whole)
    assert [f.name for f in tmp_path.iterdir()] == ["s.zarr"]


def test_a_killed_worker_is_said_and_the_same_command_goes_on(source, whole, tmp_path):
    out = tmp_path / "s.zarr"
    process = start(build(source, out))
    until((out / NOTE).exists, process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert "a worker process was killed" in error_of(
        subprocess.CompletedProcess([], process.returncode, stderr=errors)
    )
    with pytest.raises(GlacierError, match="incomplete"):
        Store(out)
    end(build(source, out), out, tree(whole))


def test_workers_end_with_their_parent(source, tmp_path):
    """Killed alone: what its workers would go on to write might mix with what comes after."""
    out = tmp_path / "s.zarr"
    process = start(build(source, out))
    until((out / NOTE).exists, process)
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_disk(source, whole, disk):
    out = disk("size=2300k") / "s.zarr"
    line = error_of(run(build(source, out)))
    assert "cannot be written (No space left on device); nothing is lost, make room" in line
    with pytest.raises(GlacierError, match="incomplete"):
        Store(out)
    assert finished(out)[0] > 0
    disk("size=64m")
    end(build(source, out), out, tree(whole))


def test_a_disk_that_is_filled_by_an_addition(whole, more, disk):
    out = shutil.copytree(whole, disk("size=64m") / "s.zarr")
    disk("size=5m")
    before = contents(out)
    assert "No space left on device" in error_of(run(add(more, out)))
    assert contents(out) == before
    disk("size=64m")
    assert run(add(more, out)).returncode == 0
    assert len(Store(out)) == 1024


def test_a_read_only_place(source, whole, more, disk):
    """Nothing new can be made there; what is complete there is known to be."""
    there = shutil.copytree(whole, disk("size=64m") / "s.zarr")
    at = disk("ro")
    line = error_of(run(build(source, at / "new.zarr")))
    assert "new.zarr: nothing can be written there (Read-only file system); choose another place" in line
    assert "Read-only file system" in error_of(run(add(more, there)))
    done = run(build(source, there))
    assert done.returncode == 0
    assert "nothing to do" in done.stderr


def test_a_source_deleted_under_way(source, tmp_path):
    copy, out = shutil.copytree(source, tmp_path / "in"), tmp_path / "s.zarr"
    process = start(build(copy, out, workers=1))
    until((out / NOTE).exists, process)
    os.killpg(process.pid, signal.SIGSTOP)
    kept = (copy / "11").rename(tmp_path / "11")
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate()
    line = error_of(subprocess.CompletedProcess([], process.returncode, stderr=errors))
    assert re.search(r"s11(_label)?\.tif: unreadable at row", line)
    kept.rename(copy / "11")
    written = finished(out)[0]
    assert written > 0
    done = run(build(copy, out))
    assert f"{written} shards were written before" in done.stderr
