"""The HKH release as a large stream."""

import sys

import pytest

from glacier.store.reader import Store


@pytest.mark.slow
def test_a_long_stream_takes_little_memory(tmp_path):
    from benchmarks.hkh import patches, run, stream

    made = patches(tmp_path / "made")
    command = [sys.executable, "-m", "glacier", "ingest", "-", "--workers", "4"]
    assert run(command, stream(made, 4e9), tmp_path)["peak_mib"] < 1024
    with Store(tmp_path / "hkh.zarr") as store:
        assert len(store) > 200
