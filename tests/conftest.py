from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
