"""Ingest on a real Dask cluster: a scheduler and two workers, processes on the loopback device."""

import json
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from click.testing import CliRunner

from glacier.cli import main
from glacier.errors import GlacierError
from glacier.ingest import cluster
from tests.helpers import write_raster, write_scene
from tests.ingest.test_faults import NOTE, add, build, error_of, run, start, tree, until


class Cluster:
    """A scheduler, and workers that may be killed."""

    def __init__(self, folder):
        self.folder, self.workers = folder, []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0",
                                     "--scheduler-file", str(folder / "scheduler.json"))  # fmt: skip
        self.address = self._answer(folder / "scheduler.json")["address"]

    def add_worker(self):
        self.workers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny",
                                        "--local-directory", str(self.folder)))  # fmt: skip

    def _start(self, what, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options, "--no-dashboard"]
        log = (self.folder / f"{what}{len(self.workers)}.log").open("wb")
        with log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _answer(self, file):
        """What the scheduler writes once it listens; it may be read half written."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads(file.read_text())
            if time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"no {file} within a minute")
            time.sleep(0.01)

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path):
    folder = tmp_path / "dask"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.stop()


@pytest.fixture
def source(tmp_path):
    for i in range(4):
        write_scene(tmp_path / "in" / str(i), f"s{i}", seed=i, size=256)
    return tmp_path / "in"


def on(cluster_of, command):
    """The command with a cluster in the place of processes."""
    return [*command[:-2], "--scheduler", cluster_of.address]


def test_a_cluster_gives_the_same_store(source, dask, tmp_path):
    for _ in range(2):
        dask.add_worker()
    local, out = tmp_path / "local.zarr", tmp_path / "s.zarr"
    more = write_scene(tmp_path / "more", "t", seed=9, size=256)
    for here, there in ((build(source, local), build(source, out)), (add(more, local), add(more, out))):
        assert run(here).returncode == 0
        done = run(on(dask, there))
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 2), done.stderr
        assert tree(out) == tree(local)
    write_raster(source / "3" / "s3_label.tif", np.full((256, 256), 0.5, np.float32))
    line = error_of(run(on(dask, build(source, tmp_path / "t.zarr"))))
    assert "s3_label.tif: holds fractions" in line


def test_what_a_killed_worker_had_goes_to_another(source, dask, tmp_path):
    for _ in range(2):
        dask.add_worker()
    local, out = tmp_path / "local.zarr", tmp_path / "s.zarr"
    assert run(build(source, local)).returncode == 0
    process = start(on(dask, build(source, out)))
    until((out / NOTE).exists, process)
    dask.workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert tree(out) == tree(local)


def test_a_scheduler_without_workers_or_none_at_all_is_one_line(dask, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with (
        pytest.raises(GlacierError, match=r"it has no workers; start some with `dask worker tcp://"),
        cluster.cluster(dask.address),
    ):
        pass
    dask.stop()
    with (
        pytest.raises(GlacierError, match="no Dask scheduler answers .*; start one with `dask scheduler`"),
        cluster.cluster(dask.address),
    ):
        pass


def test_what_is_missing_or_too_much_is_one_line(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    call = ["ingest", str(source), "--out", str(tmp_path / "s.zarr"), "--scheduler", "tcp://127.0.0.1:1"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 1
    assert "pip install 'glacier-tiles[cluster]'" in done.stderr.splitlines()[-1]
    done = CliRunner().invoke(main, [*call, "--workers", "2"])
    assert done.exit_code == 2
    assert "--scheduler has workers of its own" in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_a_cluster_that_loses_all_its_workers_is_one_line(source, dask, tmp_path):
    dask.add_worker()
    out = tmp_path / "s.zarr"
    process = start(on(dask, build(source, out)))
    until((out / NOTE).exists, process)
    dask.workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "lost its work or all its workers" in errors.strip().splitlines()[-1], errors
    assert "Traceback" not in errors
