import os
import subprocess
from pathlib import Path

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # cores of its own, before PyTorch counts them: threads of two tests on one core wait for each other
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    own = cores[int(worker.removeprefix("gw")) % workers :: workers] or cores
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), own)

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from glacier.cli import main
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from tests.helpers import make_store

settings.register_profile(
    "glacier", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("glacier")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared():
    """Real scenes."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"no real scenes: {name} is not in ../shared/data")
        return path

    return folder


@pytest.fixture(scope="session")
def mountains(tmp_path_factory) -> Path:
    """Nine synthetic tiles of 128 px in band folders."""
    out = tmp_path_factory.mktemp("synth") / "mountains"
    write_synthetic(out, layout="bands", seed=5, count=9, size=128)
    return out


@pytest.fixture(scope="session")
def store(mountains, tmp_path_factory) -> Store:
    """Their store: 36 tiles of 64 px, 7 bands, 4 classes."""
    return make_store(mountains, tmp_path_factory.mktemp("store") / "mountains.zarr", tile_size=64)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def run(*words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def disk(tmp_path):
    """A disk of so many KiB; its size, and whether it is read-only, may change."""
    at = tmp_path / "disk"
    at.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if at.is_mount() else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", at], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
        return at

    yield mount
    if at.is_mount():
        subprocess.run(["umount", at], check=True)
