"""The mix that loaders yield, counted on their labels, is the one their plan says."""

import numpy as np
import pytest

from benchmarks.balance import LARGE, SMALL, TARGET, loader_of, make_lakes, mixes
from glacier.inspect_plan import look_ahead
from glacier.pipeline.augment import Augment
from glacier.pipeline.plan import Balance
from glacier.store.reader import Store

WANTED = np.array(list(TARGET.values()))


@pytest.fixture(scope="module")
def reachable(tmp_path_factory):
    """Lakes so large that windows of 128 px reach the target."""
    with Store(make_lakes(tmp_path_factory.mktemp("lakes") / "large.zarr", LARGE)) as store:
        yield store


def check_reached(store, preset, epochs, most):
    loader = loader_of(store, 4096, balance=Balance(TARGET, repeats=1e9), augment=Augment(preset))
    np.testing.assert_allclose(loader.plan.reached, WANTED, atol=1e-3)
    assert abs(mixes(loader, epochs) - WANTED).max() < most


@pytest.mark.parametrize(("preset", "most"), [("d4", 0.01), ("affine", 0.02)])
def test_a_target_within_reach_is_seen(reachable, preset, most):
    check_reached(reachable, preset, 1, most)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "most"), [("d4", 0.01), ("affine", 0.02)])
def test_a_target_within_reach_is_seen_in_each_of_twenty_epochs(reachable, preset, most):
    check_reached(reachable, preset, 20, most)


@pytest.mark.slow
def test_out_of_reach_the_mix_that_inspect_prints_is_seen(tmp_path):
    with Store(make_lakes(tmp_path / "small.zarr", SMALL)) as store:
        printed = look_ahead(store, TARGET, patch=128, repeats=8.0, samples=4096).to_json()["reached"]
        loader = loader_of(store, 4096, balance=Balance(TARGET))
        found = mixes(loader, 20)
    assert printed["lake"] < 0.01
    assert abs(found - np.array(list(printed.values()))).max() < 0.01
